//! Other engines that enforce policy on this node: two verdicts on a packet confuse everybody who has to explain one.

use std::fs;
use std::path::Path;

/// Pins of Amazon's network policy agent (its pkg/ebpf/bpf_client.go).
const AWS_AGENT_PROGRAMS: &str = "/sys/fs/bpf/globals/aws/programs";

/// Main plugins whose own agent enforces NetworkPolicy, with its name.
const ENGINES: [(&str, &str); 5] = [
    ("antrea", "Antrea"),
    ("calico", "Calico"),
    ("cilium-cni", "Cilium"),
    ("kube-router", "kube-router"),
    ("weave-net", "Weave Net"),
];

/// What enforces policy here already, and what to do about it.
pub(crate) fn found(types: &[String]) -> Vec<String> {
    found_with(types, Path::new(AWS_AGENT_PROGRAMS))
}

fn found_with(types: &[String], aws_programs: &Path) -> Vec<String> {
    let mut found: Vec<String> = ENGINES
        .iter()
        .filter(|(kind, _)| types.iter().any(|there| there == kind))
        .map(|(kind, name)| {
            format!("the chain has {kind}: {name}'s own agent enforces NetworkPolicy; turn that off first")
        })
        .collect();
    let pinned = fs::read_dir(aws_programs).is_ok_and(|mut programs| programs.next().is_some());
    if pinned {
        found.push(format!(
            "Amazon's network policy agent has programs pinned in {}: set `nodeAgent.enabled=false` (or `enableNetworkPolicy: \"false\"`) on aws-node first",
            aws_programs.display()
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_found_by_their_plugins_and_pins() {
        let folder = tempfile::tempdir().unwrap();
        let kinds = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let none = folder.path().join("none");
        assert_eq!(found_with(&kinds(&["ptp", "portmap"]), &none), [""; 0]);
        assert_eq!(found_with(&kinds(&["ptp"]), folder.path()), [""; 0]);
        fs::write(folder.path().join("web_handle_ingress"), "").unwrap();
        let found = found_with(&kinds(&["cilium-cni"]), folder.path());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("Cilium") && found[1].contains("Amazon"));
    }
}
