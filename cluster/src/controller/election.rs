//! The Lease in a task of its own: no amount of work delays its renewal.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    api::{Access, LEASE_DURATION, Lease},
    args::ControllerArgs,
};

const NAME: &str = "podgate-controller";
/// Between two renewals of the holder.
const RENEW: Duration = Duration::from_secs(3);
/// Between two tries of the others.
const TRY: Duration = Duration::from_secs(2);

/// Where the election stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Until when this process may write; `None` = it may not.
    pub(crate) until: Option<Instant>,
    /// Who leads, as last seen.
    pub(crate) holder: String,
    /// Why it is not known.
    pub(crate) error: Option<String>,
}

impl Standing {
    pub(crate) fn leads(&self) -> bool {
        self.until.is_some_and(|until| until > Instant::now())
    }
}

/// Takes part until `stop` is set, then gives the Lease back.
pub(crate) async fn run(
    access: Access,
    args: ControllerArgs,
    standing: watch::Sender<Standing>,
    mut stop: watch::Receiver<bool>,
) {
    let identity = identity();
    let mut lease = Lease::new(access, args.lease_namespace, NAME, identity.clone());
    info!(%identity, duration = ?LEASE_DURATION, "taking part in the election of a leader");
    loop {
        let outcome = lease.try_hold().await;
        let now = Standing {
            until: lease.held_until(),
            holder: if lease.is_held() {
                identity.clone()
            } else {
                lease.holder().to_owned()
            },
            error: outcome.as_ref().err().map(ToString::to_string),
        };
        let before = standing.borrow().clone();
        if now.error != before.error
            && let Some(error) = &now.error
        {
            warn!(%error, "cannot take or renew the Lease; trying again");
        }
        if now.leads() != before.leads() {
            match now.leads() {
                true => info!("leading"),
                false => warn!(holder = %now.holder, "not leading any more: writing stops"),
            }
        } else if !now.leads() && now.holder != before.holder {
            info!(holder = %now.holder, "another controller leads");
        }
        let pause = if now.leads() { RENEW } else { TRY };
        standing.send_replace(now);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.changed() => {
                standing.send_replace(Standing::default());
                lease.release().await;
                return;
            }
        }
    }
}

/// Of this process alone: the host's name, the pid, and the time.
fn identity() -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default();
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    format!("{host}_{}_{nanos:x}", std::process::id())
}
