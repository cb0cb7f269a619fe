//! The kernel's jiffies, seen from user space: flows carry them.

use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::maps::Array;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};

use crate::load::{Error, PROGRAM_CLOCK};
use crate::maps;
use crate::pins::Pins;

/// Jiffies a second that Linux can be built with.
const KNOWN_HZ: [u32; 6] = [24, 48, 100, 250, 300, 1000];

/// The kernel's jiffies now.
///
/// # Errors
/// If the clock program is not pinned or does not run.
pub fn jiffies(pins: &Pins) -> Result<u64, Error> {
    let program = SchedClassifier::from_pin(pins.program(PROGRAM_CLOCK)).map_err(|source| {
        Error::Program {
            name: PROGRAM_CLOCK,
            source: Box::new(source),
        }
    })?;
    let clock: Array<_, u64> = maps::array(pins, "CLOCK")?;
    read(&program, &clock)
}

fn read(program: &SchedClassifier, clock: &Array<aya::maps::MapData, u64>) -> Result<u64, Error> {
    let frame = [0u8; 64];
    let options = TestRunOptions {
        data_in: Some(&frame),
        ..TestRunOptions::default()
    };
    program.test_run(options).map_err(|source| Error::Program {
        name: PROGRAM_CLOCK,
        source: Box::new(source),
    })?;
    clock
        .get(&0, 0)
        .map_err(|e| maps::Error::read("CLOCK", &e).into())
}

/// Measures jiffies a second and takes the nearest that Linux can have.
pub(crate) fn measure_hz(pins: &Pins, at_least: Duration) -> Result<u32, Error> {
    let program = SchedClassifier::from_pin(pins.program(PROGRAM_CLOCK)).map_err(|source| {
        Error::Program {
            name: PROGRAM_CLOCK,
            source: Box::new(source),
        }
    })?;
    let clock: Array<_, u64> = maps::array(pins, "CLOCK")?;
    let (begin, first) = (Instant::now(), read(&program, &clock)?);
    sleep(at_least);
    let (last, passed) = (read(&program, &clock)?, begin.elapsed());
    Ok(nearest_hz(last.saturating_sub(first), passed))
}

fn nearest_hz(ticks: u64, passed: Duration) -> u32 {
    let measured = ticks as f64 / passed.as_secs_f64().max(1e-9);
    KNOWN_HZ
        .into_iter()
        .min_by(|a, b| {
            let away = |hz: &u32| (f64::from(*hz) / measured.max(1.0)).ln().abs();
            away(a).total_cmp(&away(b))
        })
        .unwrap_or(250)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_tick_is_taken() {
        let ms = Duration::from_millis;
        assert_eq!(nearest_hz(2, ms(20)), 100);
        assert_eq!(nearest_hz(5, ms(20)), 250);
        assert_eq!(nearest_hz(6, ms(20)), 300);
        assert_eq!(nearest_hz(21, ms(20)), 1000);
        assert_eq!(nearest_hz(0, ms(20)), 24);
    }
}
