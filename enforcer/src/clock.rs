//! The kernel's jiffies, seen from user space: flows carry them.

use std::time::Duration;

use aya::maps::Array;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use nix::errno::Errno;
use nix::time::{ClockId, clock_getres};

use crate::load::{self, PROGRAM_CLOCK};
use crate::maps;
use crate::pins::Pins;

/// Why the length of the kernel's tick is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// clock_getres(2).
    #[error("read the resolution of CLOCK_MONOTONIC_COARSE: {0}")]
    Resolution(#[source] Errno),
    /// A resolution that is no tick of Linux.
    #[error("read the kernel's tick: {0:?} is none; report this kernel")]
    Tick(Duration),
}

/// The kernel's jiffies now.
///
/// # Errors
/// If the clock program is not pinned or does not run.
pub fn jiffies(pins: &Pins) -> Result<u64, load::Error> {
    let failed = |source| load::Error::Program {
        name: PROGRAM_CLOCK,
        source: Box::new(source),
    };
    let program = SchedClassifier::from_pin(pins.program(PROGRAM_CLOCK)).map_err(failed)?;
    let clock: Array<_, u64> = maps::array(pins, "CLOCK")?;
    let frame = [0u8; 64];
    let options = TestRunOptions {
        data_in: Some(&frame),
        ..TestRunOptions::default()
    };
    program.test_run(options).map_err(failed)?;
    let jiffies = clock.get(&0, 0);
    jiffies.map_err(|e| maps::Error::read("CLOCK", &e).into())
}

/// Jiffies a second. The coarse clocks advance once a tick, and clock_getres(2) says exactly how long that is: the kernel's
/// `TICK_NSEC`, rounded to nanoseconds. Nothing is measured, so nothing can be measured wrong.
///
/// # Errors
/// If the kernel says something that cannot be a tick.
pub fn hz() -> Result<u32, Error> {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(Error::Resolution)?;
    hz_of(tick.into()).ok_or(Error::Tick(tick.into()))
}

fn hz_of(tick: Duration) -> Option<u32> {
    let tick = u32::try_from(tick.as_nanos()).ok().filter(|ns| *ns > 0)?;
    let hz = (1_000_000_000 + tick / 2) / tick;
    // Linux's bounds: alpha's 1,024 and 1,200 are the most, 24 the least.
    (24..=1_200).contains(&hz).then_some(hz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tick_that_linux_has_is_told_exactly() {
        // TICK_NSEC as include/linux/jiffies.h has it: (NSEC_PER_SEC + HZ/2) / HZ.
        for (tick_ns, hz) in [
            (41_666_667, 24),
            (20_833_333, 48),
            (10_000_000, 100),
            (4_000_000, 250),
            (3_333_333, 300),
            (1_000_000, 1_000),
            (833_333, 1_200),
        ] {
            assert_eq!(hz_of(Duration::from_nanos(tick_ns)), Some(hz));
        }
        // A clock of high resolution is not a tick.
        assert_eq!(hz_of(Duration::from_nanos(1)), None);
        assert_eq!(hz_of(Duration::ZERO), None);
        assert_eq!(hz_of(Duration::from_secs(5)), None);
    }
}
