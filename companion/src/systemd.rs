//! What systemd is told (sd_notify(3)): ready, alive, ending. Without systemd nothing is sent.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::shared::{Shared, Unready};

/// How often the engine's state is looked at until it is ready.
const LOOK: Duration = Duration::from_millis(20);

/// Says ready once the store has been taken up, then passes the engine's heartbeat on as long as there is one. Without
/// maps it is ready too: the companion waits for them.
pub(crate) async fn report(shared: Arc<Shared>) {
    while shared.known().unready == Some(Unready::Starting) {
        tokio::time::sleep(LOOK).await;
    }
    send(&[NotifyState::Ready]);
    let Some(timeout) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    loop {
        if shared.silent_for() < timeout {
            send(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(timeout / 4).await;
    }
}

/// Says that the process ends on purpose.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("notify systemd: {error}");
    }
}
