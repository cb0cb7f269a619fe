//! The boot id and the two clocks of a record.

use std::{fs, time::SystemTime};

use nix::time::{ClockId, clock_gettime};

use crate::file;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The kernel's random id of this boot; equal in every namespace and container of the machine.
pub fn boot_id() -> Result<String, file::Error> {
    let text = fs::read_to_string(BOOT_ID)
        .map_err(|source| file::Error::io("read", BOOT_ID.as_ref(), source))?;
    Ok(text.trim().to_owned())
}

/// CLOCK_MONOTONIC in nanoseconds: the clock of packet time stamps and of `attachedAtMonotonicNs`.
/// Zero where the kernel has no such clock, which no kernel that podgate runs on is.
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::try_from(now.tv_nsec()).unwrap_or(0))
    })
}

/// Now, as RFC 3339 in UTC with microseconds.
#[must_use]
pub fn now_rfc3339() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_id_is_a_uuid_and_stays() {
        let id = boot_id().unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(id, boot_id().unwrap());
    }

    #[test]
    fn clocks_run() {
        let before = monotonic_ns();
        assert!(before > 0 && monotonic_ns() >= before);
        assert!(humantime::parse_rfc3339(&now_rfc3339()).is_ok());
    }
}
