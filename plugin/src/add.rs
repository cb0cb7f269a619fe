//! ADD: the pod's interfaces come under enforcement, or the call fails and nothing is left of it.

use std::{
    panic::{self, AssertUnwindSafe},
    path::Path,
    time::Duration,
};

use enforcer::{
    hostnet,
    kernel::{self, KernelVersion},
};
use state::{AttachMode, EnforcingMode, Mode, NodeConfig, Store};

use crate::{
    config::Config,
    error::Error,
    execute::{Done, Kernel, Standing, Terms, live_records},
    plan,
    request::AddRequest,
    wait,
};

/// How long any verb waits for the node's lock.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Carries out ADD; returns the result for the runtime.
///
/// # Errors
/// Whatever keeps an interface from being enforced. Everything done until then is undone.
pub fn add(request: &AddRequest, version: &str) -> Result<String, Error> {
    let config = &request.config;
    for key in &config.unknown_keys {
        tracing::warn!(
            key,
            "the configuration has a key that podgate does not know"
        );
    }
    if config.mode != Some(EnforcingMode::None) {
        let store = Store::create(&config.places.state_dir)?;
        let node = store.node_config()?;
        match mode_of(config, &node) {
            Some(mode) => enforce(request, &store, &node, mode)?,
            None => tracing::info!("mode none: nothing to do"),
        }
    }
    Ok(request.prev.render(version))
}

/// The mode that applies; `None` = not attached at all.
#[must_use]
pub fn mode_of(config: &Config, node: &NodeConfig) -> Option<Mode> {
    match config.mode.or(node.enforcing_mode).unwrap_or_default() {
        EnforcingMode::Strict => Some(Mode::Strict),
        EnforcingMode::Standard => Some(Mode::Standard),
        EnforcingMode::None => None,
    }
}

/// Refuses TCX where the kernel has none, before anything is done.
///
/// # Errors
/// The kernel is older than 6.6, or its version cannot be read.
pub fn check_attach_mode(config: &Config) -> Result<(), Error> {
    if config.attach_mode == AttachMode::Tcx {
        KernelVersion::running()?
            .require(kernel::TCX)
            .map_err(Error::Tcx)?;
    }
    Ok(())
}

fn enforce(
    request: &AddRequest,
    store: &Store,
    node: &NodeConfig,
    mode: Mode,
) -> Result<(), Error> {
    let config = &request.config;
    check_attach_mode(config)?;
    let path = Path::new(&request.netns);
    let netns = hostnet::netns_id(path)?;
    let interfaces = hostnet::pod_interfaces(path)?;
    let terms = Terms {
        request,
        mode,
        source: node.source,
    };

    let locked = store.lock(LOCK_TIMEOUT)?;
    let mut kernel = Kernel::open_or_load(&locked, config, node)?;
    let records = live_records(store, &kernel.endpoints, &interfaces)?;
    let is_pods = |sandbox: &str| hostnet::netns_id(Path::new(sandbox)).is_ok_and(|id| id == netns);
    let plan = plan::plan(request, interfaces, &records, is_pods)?;
    for interface in &plan.left_alone {
        tracing::info!(
            interface,
            "left alone: another call for this namespace enforces it"
        );
    }
    let mut done = Vec::new();
    // A panic must not leave half an endpoint behind either.
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let make = |endpoint| kernel.make(&locked, terms, endpoint, &mut done);
        plan.endpoints
            .iter()
            .map(make)
            .collect::<Result<Vec<_>, Error>>()
    }));
    let standing = match outcome {
        Ok(Ok(standing)) => standing,
        Ok(Err(cause)) => return Err(cause.with_undo(kernel.undo(&locked, done))),
        Err(panic) => {
            let failures = kernel.undo(&locked, done);
            tracing::error!(?failures, "undone after a panic");
            panic::resume_unwind(panic);
        }
    };
    drop(locked);
    settle(request, store, &mut kernel, &standing, done)
}

/// Waits, without the lock, for the companion's policy state on each endpoint.
fn settle(
    request: &AddRequest,
    store: &Store,
    kernel: &mut Kernel,
    standing: &[Standing],
    done: Vec<Done>,
) -> Result<(), Error> {
    let Err(cause) = wait::for_policy(request, store, &kernel.endpoints, standing) else {
        return Ok(());
    };
    let failures = match store.lock(LOCK_TIMEOUT) {
        Ok(locked) => kernel.undo(&locked, done),
        Err(error) => vec![error.to_string()],
    };
    Err(cause.with_undo(failures))
}

#[cfg(test)]
mod tests {
    use crate::{environment::Environment, object::Object};

    use super::*;

    #[test]
    fn the_mode_of_the_call_comes_before_the_nodes() {
        let node = |enforcing_mode| NodeConfig {
            enforcing_mode,
            ..NodeConfig::default()
        };
        let config = |members: &str| {
            let text = format!(r#"{{"name":"n"{members}}}"#);
            Config::read(
                &Object::parse(text.as_bytes()).unwrap(),
                &Environment::default(),
            )
            .unwrap()
        };
        assert_eq!(mode_of(&config(""), &node(None)), Some(Mode::Standard));
        assert_eq!(
            mode_of(&config(""), &node(Some(EnforcingMode::Strict))),
            Some(Mode::Strict)
        );
        assert_eq!(mode_of(&config(""), &node(Some(EnforcingMode::None))), None);
        let strict = config(r#","networkPolicyEnforcingMode":"strict""#);
        assert_eq!(
            mode_of(&strict, &node(Some(EnforcingMode::None))),
            Some(Mode::Strict)
        );
        let none = config(r#","networkPolicyEnforcingMode":"none""#);
        assert_eq!(mode_of(&none, &node(Some(EnforcingMode::Strict))), None);
    }
}
