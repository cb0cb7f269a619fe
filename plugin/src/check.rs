//! CHECK: record, entry, policy state and attachment are compared with each other and with the pod's interfaces.

use std::path::Path;

use enforcer::{
    attach::Programs,
    endpoint::Endpoints,
    hostnet::{self, PodInterface},
};
use state::{EnforcingMode, Phase, Record, Store};

use crate::{
    add::mode_of, error::Error, execute::open_endpoints, record::mac_text, request::AddRequest,
};

/// Carries out CHECK.
///
/// # Errors
/// [`Error::Differs`] with everything that is not as it was made, and whatever keeps us from looking.
pub fn check(request: &AddRequest) -> Result<(), Error> {
    let config = &request.config;
    let store = match Store::open(&config.places.state_dir) {
        Err(error) if error.is_missing() && config.mode == Some(EnforcingMode::None) => {
            return Ok(());
        }
        opened => opened?,
    };
    let records = store
        .container_records(&request.attachment.container_id)?
        .good;
    let is_own = |record: &&Record| record.cni_ifname == request.attachment.ifname;
    if records.iter().find(is_own).is_none() && mode_of(config, &store.node_config()?).is_none() {
        return Ok(());
    }
    let interfaces = hostnet::pod_interfaces(Path::new(&request.netns))?;
    let mut differences = unrecorded(&request.attachment.ifname, &interfaces, &records);
    match open_endpoints(&config.places.bpf_dir)? {
        None => differences.push(format!(
            "nothing is loaded below {}",
            config.places.bpf_dir.display()
        )),
        Some(endpoints) => {
            let programs = Programs::open(endpoints.pins())?;
            for record in records.iter().filter(is_own) {
                let found = compare(record, &interfaces, &endpoints, &programs)?;
                differences.extend(
                    found
                        .into_iter()
                        .map(|what| format!("interface {}: {what}", record.ifname)),
                );
            }
        }
    }
    if differences.is_empty() {
        Ok(())
    } else {
        Err(Error::Differs {
            attachment: request.attachment.to_string(),
            differences,
        })
    }
}

/// The pod's interfaces that lead to us and that no record knows, and the call's own if it does not exist.
fn unrecorded(own: &str, interfaces: &[PodInterface], records: &[Record]) -> Vec<String> {
    let mut differences: Vec<_> = interfaces
        .iter()
        .filter(|interface| {
            !records
                .iter()
                .any(|record| record.ifname == interface.ifname)
        })
        .map(|interface| format!("interface {}: it has no record", interface.ifname))
        .collect();
    if !interfaces.iter().any(|interface| interface.ifname == own) {
        differences.push(format!(
            "interface {own}: it is not there, or its other end is not in the host's namespace"
        ));
    }
    differences
}

fn compare(
    record: &Record,
    interfaces: &[PodInterface],
    endpoints: &Endpoints,
    programs: &Programs,
) -> Result<Vec<String>, Error> {
    let mut differences = Vec::new();
    if record.phase != Phase::Attached {
        differences.push("its ADD did not end".to_owned());
    }
    match interfaces
        .iter()
        .find(|interface| interface.ifname == record.ifname)
    {
        None => differences.push("it is not there any more".into()),
        Some(interface) if interface.host_ifindex != record.ifindex => {
            differences.push(format!(
                "its other end is interface {}, not {}",
                interface.host_ifindex, record.ifindex
            ));
        }
        Some(interface) if mac_text(interface.mac) != record.mac => {
            let found = mac_text(interface.mac);
            differences.push(format!(
                "its hardware address is {found}, not {}",
                record.mac
            ));
        }
        Some(_) => {}
    }
    let (endpoint_id, endpoint_index) = (record.endpoint_id, record.endpoint_index);
    match endpoints.entry(record.ifindex)? {
        None => differences.push(format!("{} ({}) has no entry", record.veth, record.ifindex)),
        Some(entry)
            if (entry.endpoint_id, entry.endpoint_index) != (endpoint_id, endpoint_index) =>
        {
            differences.push(format!(
                "its entry is of endpoint_id {} in endpoint_index {}, not {endpoint_id} in {endpoint_index}",
                entry.endpoint_id, entry.endpoint_index
            ));
        }
        Some(_) if endpoints.policy_states.get(endpoint_index).0 == 0 => {
            differences.push(format!(
                "endpoint_index {endpoint_index} has no policy policy_state"
            ));
        }
        Some(_) => {}
    }
    match programs.verify(record.ifindex, record.attach_mode) {
        Ok(None) => {}
        Ok(Some(fault)) => differences.push(fault.to_string()),
        Err(error) => differences.push(error.to_string()),
    }
    Ok(differences)
}
