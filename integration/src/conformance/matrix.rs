//! Cases put together from parts: who is selected, who the peers are, which ports. Beside each part stands, by hand, whom it means; the
//! truth about a combination is the product of these.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::case::{Case, Mode, Step, read_yaml};
use super::expect::{Expect, Sides};

/// The parts and how they are put together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    namespace: String,
    targets: Vec<Target>,
    peers: Vec<Peer>,
    ports: Vec<Ports>,
    blocks: Vec<Block>,
}

/// A `podSelector` and the pods that it selects.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    name: String,
    selector: Value,
    pods: String,
}

/// An element of `from` or `to`, and the lines of those it means.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    name: String,
    peer: Value,
    are: Vec<String>,
}

/// An element of `ports`, and the words of a line that say the same.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ports {
    name: String,
    port: Value,
    open: Vec<String>,
}

/// A product.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    #[serde(default)]
    short: bool,
    directions: Vec<String>,
    targets: Choice,
    peers: Choice,
    ports: Choice,
}

/// Which parts of a kind take part.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Choice {
    /// The list is absent: any.
    Absent,
    /// The list is empty: any, too.
    Empty,
    /// One at a time of all, or of those named.
    Each(Vec<String>),
    /// Two at a time of those named.
    Pairs(Vec<String>),
    /// All of those named, in one list.
    Together(Vec<String>),
}

impl Choice {
    /// The lists to try, each by names; `None` = absent.
    fn lists(&self, all: &[&str]) -> Vec<Option<Vec<String>>> {
        let all = || all.iter().map(ToString::to_string).collect::<Vec<_>>();
        match self {
            Self::Absent => vec![None],
            Self::Empty => vec![Some(Vec::new())],
            Self::Each(names) => {
                let names = if names == &["*"] {
                    all()
                } else {
                    names.clone()
                };
                names.into_iter().map(|name| Some(vec![name])).collect()
            }
            Self::Pairs(names) => {
                let second = |i: usize| names.iter().skip(i + 1);
                let pairs = names.iter().enumerate();
                pairs
                    .flat_map(|(i, a)| second(i).map(move |b| Some(vec![a.clone(), b.clone()])))
                    .collect()
            }
            Self::Together(names) => vec![Some(names.clone())],
        }
    }
}

fn find<'a, T>(
    parts: &'a [T],
    name_of: impl Fn(&T) -> &str,
    names: &[String],
) -> Result<Vec<&'a T>, String> {
    names
        .iter()
        .map(|name| {
            let found = parts.iter().find(|part| name_of(part) == name);
            found.ok_or_else(|| format!("matrix: there is no part {name}"))
        })
        .collect()
}

impl Matrix {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong in the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        read_yaml(path)
    }

    /// All combinations.
    ///
    /// # Errors
    /// When a block names a part that there is not.
    pub fn cases(&self) -> Result<Vec<Case>, String> {
        let targets: Vec<&str> = self.targets.iter().map(|t| t.name.as_str()).collect();
        let peers: Vec<&str> = self.peers.iter().map(|p| p.name.as_str()).collect();
        let ports: Vec<&str> = self.ports.iter().map(|p| p.name.as_str()).collect();
        let mut cases = Vec::new();
        for block in &self.blocks {
            for direction in &block.directions {
                for target in block.targets.lists(&targets).iter().flatten() {
                    for peers in block.peers.lists(&peers) {
                        for ports in block.ports.lists(&ports) {
                            cases.push(self.case(
                                block.short,
                                direction,
                                target,
                                peers.as_deref(),
                                ports.as_deref(),
                            )?);
                        }
                    }
                }
            }
        }
        Ok(cases)
    }

    fn case(
        &self,
        short: bool,
        direction: &str,
        target: &[String],
        peers: Option<&[String]>,
        ports: Option<&[String]>,
    ) -> Result<Case, String> {
        let words =
            |names: Option<&[String]>| names.map_or("absent".into(), |names| names.join("+"));
        let name = format!(
            "{direction} of {}, peers {}, ports {}",
            words(Some(target)),
            words(peers),
            words(ports)
        );
        let peers = peers
            .map(|names| find(&self.peers, |p| &p.name, names))
            .transpose()?;
        let ports = ports
            .map(|names| find(&self.ports, |p| &p.name, names))
            .transpose()?;
        let targets = find(&self.targets, |t| &t.name, target)?;
        let [target] = targets.as_slice() else {
            return Err(format!("matrix: {name}: one target at a time"));
        };

        let mut rule = Map::new();
        if let Some(peers) = &peers {
            let key = if direction == "ingress" { "from" } else { "to" };
            rule.insert(key.into(), peers.iter().map(|p| p.peer.clone()).collect());
        }
        if let Some(ports) = &ports {
            rule.insert(
                "ports".into(),
                ports.iter().map(|p| p.port.clone()).collect(),
            );
        }
        let kind = if direction == "ingress" {
            "Ingress"
        } else {
            "Egress"
        };
        let mut spec = json!({"podSelector": target.selector, "policyTypes": [kind]});
        spec[direction] = json!([rule]);

        let flat = |lists: Vec<&[String]>| {
            lists
                .into_iter()
                .flatten()
                .cloned()
                .collect::<Vec<String>>()
        };
        let any = |lines: Vec<String>, any: &str| {
            if lines.is_empty() {
                vec![any.to_owned()]
            } else {
                lines
            }
        };
        // An empty or absent list is any; a part that means nobody leaves no line.
        let who = match &peers {
            Some(peers) if !peers.is_empty() => {
                flat(peers.iter().map(|p| p.are.as_slice()).collect())
            }
            _ => any(Vec::new(), "*"),
        };
        let which = match &ports {
            Some(ports) if !ports.is_empty() => {
                flat(ports.iter().map(|p| p.open.as_slice()).collect())
            }
            _ => any(Vec::new(), ""),
        };
        let lines: Vec<String> = who
            .iter()
            .flat_map(|who| which.iter().map(move |which| format!("{who} {which}")))
            .collect();
        let mut expect = Expect::default();
        let sides: &mut Sides = if direction == "ingress" {
            &mut expect.ingress
        } else {
            &mut expect.egress
        };
        sides.push(&target.pods, &lines)?;
        Ok(Case {
            name,
            short,
            modes: vec![Mode::Standard, Mode::Strict],
            steps: vec![Step {
                policies: [(format!("{}/matrix", self.namespace), spec)].into(),
                expect,
                ..Step::default()
            }],
        })
    }
}
