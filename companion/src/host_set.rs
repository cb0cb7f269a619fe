//! The addresses of the host, and what pods' records claim of it, kept up to date in the kernel.

use enforcer::hosts::{self, Claims};
use state::Store;

use crate::kernel::{Kernel, LOCK};

/// Brings the host set, hostPorts, tunnels' ports and host paths up to date. What failed is returned.
pub(crate) fn refresh(store: &Store, kernel: &Kernel, claims: &Claims) -> Option<String> {
    let mut problems = Vec::new();
    match refresh_addresses(store, kernel) {
        Ok(changes) if !changes.is_empty() => {
            tracing::info!(added = ?changes.added, removed = ?changes.removed, "host set changed");
        }
        Ok(_) => {}
        Err(error) => problems.push(error),
    }
    match refresh_claims(store, kernel, claims) {
        Ok(true) => tracing::info!("hostPorts, ports of tunnels or host paths changed"),
        Ok(false) => {}
        Err(error) => problems.push(format!("hostPorts and host paths: {error}")),
    }
    (!problems.is_empty()).then(|| problems.join("; "))
}

fn refresh_addresses(store: &Store, kernel: &Kernel) -> Result<hosts::Changes, String> {
    let wanted = hosts::gather(store).map_err(|e| e.to_string())?;
    let mut set = hosts::HostSet::open(&kernel.pins).map_err(|e| e.to_string())?;
    if set.read().map_err(|e| e.to_string())? == wanted {
        return Ok(hosts::Changes::default());
    }
    let locked = store.lock(LOCK).map_err(|e| e.to_string())?;
    set.apply(&locked, &wanted).map_err(|e| e.to_string())
}

fn refresh_claims(store: &Store, kernel: &Kernel, claims: &Claims) -> Result<bool, String> {
    // The lock only where there is something to do: interfaces come with every pod.
    if hosts::claims_hold(claims, &kernel.pins).map_err(|e| e.to_string())? {
        return Ok(false);
    }
    let locked = store.lock(LOCK).map_err(|e| e.to_string())?;
    hosts::refresh_claims(&locked, &kernel.pins).map_err(|e| e.to_string())
}
