//! Independent eyes: what `ip`, `tc`, `bpftool` and a listing of the bpffs say, taken before and after.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::node::Node;

/// What a node looks like from outside podgate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    rows: BTreeMap<String, String>,
}

/// Maps that a look before and after does not compare: flows, counters and events move with every packet, and the numbers of `node` (last
/// endpoint id, last revision) never repeat, so that not even an undone ADD gives one back.
const MOVING: &str = "flows|fragments|shares|swept|passed|reasons|events|rates|work|clock|node";

/// One look in one process: a heading after `@@`, then what the tool says.
const LOOK: &str = r#"
for link in $(ip -o link show | awk -F': ' '{ sub("@.*", "", $2); print $2 }'); do
  echo "@@tc qdisc $link"; tc qdisc show dev "$link"
  for hook in ingress egress; do
    echo "@@tc filter $link $hook"; tc filter show dev "$link" $hook 2>/dev/null || true
  done
done
[ -d "$PODGATE_BPF_DIR" ] || exit 0
find "$PODGATE_BPF_DIR" | sort | while read -r pin; do
  echo "@@bpffs $pin"
  case $pin in
    */maps/*) echo "${pin##*/}" | grep -qxE "$1" || bpftool -j map dump pinned "$pin" 2>/dev/null || true ;;
  esac
done
"#;

impl Snapshot {
    /// Takes one: qdiscs and filters of every link, the bpffs folder's listing, the dump of each map that does not move by itself,
    /// and the records.
    #[track_caller]
    #[must_use]
    pub fn take(node: &Node) -> Self {
        let text = node
            .cmd("sh")
            .args(["-eu", "-c", LOOK, "look", MOVING])
            .ok();
        let sections = text
            .split("@@")
            .skip(1)
            .filter_map(|section| section.split_once('\n'));
        let mut rows: BTreeMap<String, String> = sections
            .map(|(name, said)| (name.to_owned(), said.to_owned()))
            .collect();
        let pods = node.state_dir().join("pods");
        for path in files_below(&pods) {
            rows.insert(
                format!("pods {path}"),
                fs::read_to_string(pods.join(&path)).unwrap_or_default(),
            );
        }
        Self { rows }
    }

    /// Fails unless this, the earlier one, equals the later one; shows what differs.
    ///
    /// # Panics
    /// When they differ.
    #[track_caller]
    pub fn assert_same(&self, later: &Self, when: &str) {
        let differences = self.differences(later);
        assert!(
            differences.is_empty(),
            "the node differs {when}:\n{}",
            differences.join("\n")
        );
    }

    /// What differs, one line each.
    #[must_use]
    pub fn differences(&self, later: &Self) -> Vec<String> {
        let keys = self.rows.keys().chain(
            later
                .rows
                .keys()
                .filter(|key| !self.rows.contains_key(*key)),
        );
        let lines = keys.filter_map(|key| match (self.rows.get(key), later.rows.get(key)) {
            (before, after) if before == after => None,
            (Some(before), Some(after)) => {
                Some(format!("~ {key}\n    before {before}\n    after  {after}"))
            }
            (Some(before), None) => Some(format!("- {key}: {before}")),
            (None, after) => Some(format!("+ {key}: {}", after.map_or("", String::as_str))),
        });
        lines.collect()
    }
}

/// Files below a folder, relative, sorted.
#[must_use]
pub fn files_below(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if let Ok(relative) = path.strip_prefix(root) {
                found.push(relative.display().to_string());
            }
        }
    }
    found.sort();
    found
}

impl Node {
    /// Names of the node's links.
    #[track_caller]
    #[must_use]
    pub fn link_names(&self) -> Vec<String> {
        let links = self.cmd("ip").args(["-j", "link", "show"]).json();
        links
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|link| Some(link["ifname"].as_str()?.to_owned()))
            .collect()
    }

    /// `tc -j qdisc show dev LINK`.
    #[track_caller]
    #[must_use]
    pub fn qdiscs(&self, link: &str) -> Value {
        self.cmd("tc")
            .args(["-j", "qdisc", "show", "dev", link])
            .json()
    }

    /// `tc -j filter show dev LINK ingress|egress`; null where there is no such hook.
    #[track_caller]
    #[must_use]
    pub fn filters(&self, link: &str, hook: &str) -> Value {
        let output = self
            .cmd("tc")
            .args(["-j", "filter", "show", "dev", link, hook])
            .run();
        if output.success() {
            output.json()
        } else {
            Value::Null
        }
    }

    /// The ids of the BPF programs that `tc` shows on a hook, in order.
    #[track_caller]
    #[must_use]
    pub fn bpf_filters(&self, link: &str, hook: &str) -> Vec<u64> {
        let filters = self.filters(link, hook);
        filters
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|filter| filter["options"]["prog"]["id"].as_u64())
            .collect()
    }

    /// The pins in podgate's folder on the bpffs, relative, sorted.
    #[must_use]
    pub fn pins(&self) -> Vec<String> {
        files_below(&self.inside(self.bpf_dir()))
    }

    /// `bpftool -j map dump pinned`; null where the pin is no map (or one that cannot be dumped).
    #[track_caller]
    #[must_use]
    pub fn map_dump(&self, pin: &str) -> Value {
        let path = self.bpf_dir().join(pin);
        let output = self
            .cmd("bpftool")
            .args(["-j", "map", "dump", "pinned"])
            .arg(path)
            .run();
        if output.success() {
            output.json()
        } else {
            Value::Null
        }
    }

    /// Whether podgate's classifiers stand on both hooks of a link, by `tc`'s word: exactly one BPF filter each, at priority 1, direct action.
    #[track_caller]
    #[must_use]
    pub fn is_enforced(&self, link: &str) -> bool {
        ["ingress", "egress"].iter().all(|hook| {
            let filters = self.filters(link, hook);
            let mut bpf = filters
                .as_array()
                .into_iter()
                .flatten()
                .filter(|filter| filter["options"].is_object());
            bpf.next().is_some_and(|first| {
                first["kind"] == "bpf"
                    && first["pref"] == 1
                    && first["options"]["direct-action"] == true
            })
        })
    }
}
