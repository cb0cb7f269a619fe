//! Threads that must not end unseen: a companion without one of them would look alive and do nothing.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc::UnboundedSender;

/// Stack of the threads that only wait and pass on.
pub(crate) const SMALL_STACK: usize = 256 << 10;

/// From now on a panic of any thread ends the process: systemd starts it again, and what is in the kernel stays in force.
pub(crate) fn end_process_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        // Not exit(3): what it would run may wait for a lock that the panicked thread holds.
        std::process::abort();
    }));
}

/// Starts a thread; its name is sent when it ends.
pub(crate) fn spawn(
    name: &'static str,
    stack: usize,
    ended: &UnboundedSender<&'static str>,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let ended = ended.clone();
    let work = move || {
        work();
        // Nobody listens any more when the companion itself ends.
        let _ = ended.send(name);
    };
    thread::Builder::new()
        .name(name.into())
        .stack_size(stack)
        .spawn(work)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    const CHILD: &str = "PODGATE_TEST_CHILD_THAT_PANICS";

    /// Runs itself as a child whose second thread panics while the first one waits.
    #[test]
    fn a_panic_of_any_thread_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            end_process_on_panic();
            let (ended, _listening) = tokio::sync::mpsc::unbounded_channel();
            let thread = spawn("victim", SMALL_STACK, &ended, || panic!("on purpose"));
            let _ = thread.unwrap().join();
            // Only without the hook.
            std::process::exit(0);
        }
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "threads::tests::a_panic_of_any_thread_ends_the_process",
            ])
            .arg("--nocapture")
            .env(CHILD, "1")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&child.stderr);
        assert_eq!(child.status.signal(), Some(6), "{errors}");
        assert!(
            errors.contains("'victim'") && errors.contains("on purpose"),
            "{errors}"
        );
    }

    #[test]
    fn the_end_of_a_thread_is_told() {
        let (ended, mut listening) = tokio::sync::mpsc::unbounded_channel();
        let thread = spawn("worker", SMALL_STACK, &ended, || {}).unwrap();
        assert_eq!(listening.blocking_recv(), Some("worker"));
        thread.join().unwrap();
    }
}
