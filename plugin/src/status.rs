//! STATUS: whether an ADD would succeed, as far as that does not depend on the pod. A companion that is away does not make
//! a node unready: pods start as `onPolicyUnknown` says, and readiness, metrics and log of the companion show it.

use std::path::Path;

use enforcer::{
    attach::Programs,
    bpffs,
    endpoint::Endpoints,
    kernel::{self, KernelVersion},
    load,
    pins::Pins,
};
use state::{
    Store,
    file::{self, Durability},
};

use crate::{
    add::{LOCK_TIMEOUT, check_attach_mode, mode_of},
    config::Config,
    environment::Environment,
    error::Error,
    object::Object,
};

/// `CAP_NET_ADMIN` and `CAP_SYS_ADMIN` (linux/capability.h): filters and maps, and the pod's namespace.
const NEEDED: u64 = 1 << 12 | 1 << 21;

/// Carries out STATUS.
///
/// # Errors
/// A wrong configuration, under its own code; everything else as [`Error::NotReady`].
pub fn status(environment: &Environment, config: &Object) -> Result<(), Error> {
    let config = Config::read(config, environment)?;
    check_attach_mode(&config)?;
    match ready(&config) {
        // node.json is configuration too.
        Err(error @ Error::Store(state::Error::Node(_))) => Err(error),
        outcome => outcome.map_err(|error| Error::NotReady(Box::new(error))),
    }
}

fn ready(config: &Config) -> Result<(), Error> {
    if config.mode == Some(state::EnforcingMode::None) {
        return Ok(());
    }
    let store = Store::create(&config.places.state_dir)?;
    if mode_of(config, &store.node_config()?).is_none() {
        return Ok(());
    }
    KernelVersion::running()?.require(kernel::OLDEST)?;
    check_capabilities()?;
    check_writable(&store)?;
    drop(store.lock(LOCK_TIMEOUT)?);
    check_programs(&config.places.bpf_dir)
}

fn check_programs(bpf_dir: &Path) -> Result<(), Error> {
    let pins = Pins::new(bpf_dir);
    if load::is_loaded(&pins) {
        load::check_owner(&pins, bpf_dir)?;
        Endpoints::open(bpf_dir)?;
        Programs::open(&pins)?;
        Ok(())
    } else {
        // The first ADD loads them.
        bpffs::check(bpf_dir).map_err(|error| load::Error::from(error).into())
    }
}

/// A write tells more than any look: read-only, full, over quota, out of inodes.
fn check_writable(store: &Store) -> Result<(), Error> {
    let probe = store
        .layout()
        .status()
        .join(format!(".probe-{}", std::process::id()));
    file::replace(&probe, &[0; 4096], Durability::Volatile).map_err(state::Error::from)?;
    file::remove(&probe, Durability::Volatile).map_err(state::Error::from)?;
    Ok(())
}

fn check_capabilities() -> Result<(), Error> {
    // Where /proc does not say, an ADD will.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match effective_capabilities(&status) {
        Some(effective) if effective & NEEDED != NEEDED => Err(Error::NoPrivileges),
        _ => Ok(()),
    }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_proc() {
        let text = "Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n";
        assert_eq!(effective_capabilities(text), Some(0x1ff_ffff_ffff));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
        assert_eq!(effective_capabilities("CapEff:\tzz\n"), None);
    }
}
