//! The policy tables and policy states in the kernel, what they are known to hold, and writes to them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use enforcer::apply::{self, Flip, Tables, in_slices};
use enforcer::endpoint::Endpoints;
use enforcer::maps;
use enforcer::pins::Pins;
use policy::plan::{ClassId, EndpointState, PortSetId, RuleKey, RuleValue, SetId, Write};
use policy::portmap::PortPrefix;
use policy::{EndpointId, Family, Live, PortMap, Prefix, Verdict};
use state::Store;
use verdict::PolicyState;
use verdict::layout::{
    self, PORT_ALLOW, PORT_DEFAULT, PORT_DENY, PortKey, PortValue, RULE_ALLOW_ALL,
    RULE_DEFAULT_ALL, RULE_DENY_ALL,
};

/// For so long the node's lock is waited for.
const LOCK: Duration = Duration::from_secs(10);
/// Policy states that are written under one hold of the lock.
const STATES_AT_ONCE: usize = 512;

/// Why a change could not be made. What was in force is in force then, and trying again goes on from there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Map(#[from] maps::Error),
    #[error(transparent)]
    Endpoint(#[from] enforcer::endpoint::Error),
    #[error(transparent)]
    Grace(#[from] enforcer::grace::Error),
    #[error(transparent)]
    Lock(#[from] state::lock::Error),
}

/// The tables, open.
pub(super) struct KernelTables {
    store: Store,
    pub(super) endpoints: Endpoints,
    tables: Tables,
    pub(super) live: Live,
}

/// Flags of a policy state that policy does not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) ifindex: u32,
    /// `STRICT`, `SUSPENDED`, `LOG`.
    pub(super) extra: u64,
}

impl KernelTables {
    /// Opens the tables and reads what they hold.
    pub(super) fn open(store: &Store, bpf_dir: &Path) -> Result<Self, Error> {
        let mut kernel = Self {
            store: store.clone(),
            endpoints: Endpoints::open(bpf_dir)?,
            tables: Tables::open(&Pins::new(bpf_dir))?,
            live: Live::default(),
        };
        kernel.restore()?;
        Ok(kernel)
    }

    /// What an earlier run left in the tables is where this one begins: unchanged endpoints keep their policy states.
    fn restore(&mut self) -> Result<(), Error> {
        let contents = self.tables.contents()?;
        for (address, len, class) in contents.peers {
            self.live.apply(&Write::PutPeer {
                prefix: Prefix::new(address, len),
                class: ClassId(class),
            });
        }
        for (key, value) in contents.rules {
            let (Some(direction), Some(family)) = (direction(key.direction), family(key.family))
            else {
                continue;
            };
            let rule = RuleKey {
                direction,
                family,
                class: ClassId(key.class),
            };
            self.live.apply(&Write::PutRule {
                set: SetId(key.set),
                key: rule,
                value: rule_value(value),
            });
        }
        let mut port_sets: BTreeMap<u32, Vec<(PortPrefix, Verdict)>> = BTreeMap::new();
        for (key, value) in contents.ports {
            port_sets
                .entry(key.port_set)
                .or_default()
                .push((port_prefix(&key), port_verdict(value)));
        }
        for (id, mut entries) in port_sets {
            let map = PortMap::from_prefixes(&entries);
            let id = PortSetId(id);
            self.live.apply(&Write::PutPortSet {
                id,
                map: map.clone(),
            });
            let order = |entry: &(PortPrefix, Verdict)| port_key(0, entry.0);
            let mut canonical = map.prefixes();
            canonical.sort_by_key(order);
            entries.sort_by_key(order);
            if canonical != entries {
                self.live.spoil(id);
            }
        }
        for entry in self.endpoints.entries()? {
            let policy_state = self.endpoints.policy_states.get(entry.endpoint_index);
            if !policy_state.has(PolicyState::PENDING) && policy_state.revision() != 0 {
                let put = Write::PutPolicyState {
                    endpoint: EndpointId(entry.endpoint_id),
                    policy_state: EndpointState::of(policy_state),
                    new_revision: false,
                };
                self.live.apply(&put);
            }
        }
        Ok(())
    }

    /// Makes table writes, in slices of the lock.
    pub(super) fn write(&mut self, writes: &[Write]) -> Result<(), Error> {
        if writes.is_empty() {
            return Ok(());
        }
        let Self {
            store,
            tables,
            live,
            ..
        } = self;
        let mut rest = writes.iter();
        in_slices(store, LOCK, |locked| {
            let Some(write) = rest.next() else {
                return Ok(false);
            };
            let done = each(tables, write, &mut |tables, one| tables.write(locked, one));
            match (done, write) {
                (Ok(()), _) => live.apply(write),
                (Err(e), Write::PutPortSet { id, .. } | Write::DeletePortSet { id, .. }) => {
                    live.spoil(*id);
                    return Err(Error::Map(e));
                }
                (Err(e), _) => return Err(Error::Map(e)),
            }
            Ok(true)
        })
    }

    /// Flips policy states: the change itself. `target` tells an endpoint's interface and mode; those it does not know, and those
    /// whose entry is gone, are forgotten.
    pub(super) fn flip(
        &mut self,
        writes: &[Write],
        target: impl Fn(EndpointId) -> Option<Target>,
    ) -> Result<(), Error> {
        for some in writes.chunks(STATES_AT_ONCE) {
            let mut flips = Vec::with_capacity(some.len());
            for write in some {
                let Write::PutPolicyState {
                    endpoint,
                    policy_state,
                    new_revision,
                } = write
                else {
                    continue;
                };
                let Some(Target { ifindex, extra }) = target(*endpoint) else {
                    continue;
                };
                let (flags, set) = (policy_state.flags() | extra, policy_state.set.0);
                flips.push(Flip {
                    ifindex,
                    endpoint_id: endpoint.0,
                    flags,
                    set,
                    new_revision: *new_revision,
                });
            }
            let locked = self.store.lock(LOCK)?;
            let gone = Tables::flip(&mut self.endpoints, &locked, &flips)?;
            drop(locked);
            for write in some {
                let Write::PutPolicyState { endpoint, .. } = write else {
                    continue;
                };
                let is_gone = |flip: &Flip| flip.endpoint_id == endpoint.0;
                if flips.iter().any(is_gone) && !gone.iter().any(is_gone) {
                    self.live.apply(write);
                }
            }
        }
        Ok(())
    }

    /// Gives flags that policy does not decide (mode, suspension, logging) to policy states that lack them.
    pub(super) fn correct(
        &mut self,
        endpoint: EndpointId,
        endpoint_index: u32,
        target: Target,
    ) -> Result<bool, Error> {
        let Some(policy_state) = self.live.policy_state(endpoint) else {
            return Ok(false);
        };
        let (now, flags) = (
            self.endpoints.policy_states.get(endpoint_index),
            policy_state.flags() | target.extra,
        );
        if now.flags() == flags {
            return Ok(false);
        }
        // A flow that was judged by another mode, or let pass by suspension, is judged again.
        let new_revision = (now.flags() ^ flags) & !PolicyState::LOG != 0;
        let flip = Flip {
            ifindex: target.ifindex,
            endpoint_id: endpoint.0,
            flags,
            set: policy_state.set.0,
            new_revision,
        };
        let locked = self.store.lock(LOCK)?;
        Tables::flip(&mut self.endpoints, &locked, &[flip])?;
        Ok(true)
    }

    /// Compares what is known of a policy state with what stands there: the plugin, or a stranger, may have written it.
    pub(super) fn check_policy_state(&mut self, endpoint: EndpointId, endpoint_index: u32) {
        let now = self.endpoints.policy_states.get(endpoint_index);
        let (known, policy_state) = (self.live.policy_state(endpoint), EndpointState::of(now));
        if now.has(PolicyState::PENDING) || now.revision() == 0 {
            self.live.forget(endpoint);
        } else if known != Some(policy_state) {
            // The plugin has let it go by its mode: that is what it has until a plan says otherwise.
            self.live.apply(&Write::PutPolicyState {
                endpoint,
                policy_state,
                new_revision: false,
            });
        }
    }
}

/// One write of a plan as writes to the tables.
fn each(
    tables: &mut Tables,
    write: &Write,
    put: &mut impl FnMut(&mut Tables, &apply::Write) -> Result<(), maps::Error>,
) -> Result<(), maps::Error> {
    match write {
        Write::PutPeer { prefix, class } => put(
            tables,
            &apply::Write::PutPeer {
                address: prefix.address(),
                len: prefix.len(),
                class: class.0,
            },
        ),
        Write::DeletePeer { prefix } => put(
            tables,
            &apply::Write::DeletePeer {
                address: prefix.address(),
                len: prefix.len(),
            },
        ),
        Write::PutRule { set, key, value } => {
            let value = match value {
                RuleValue::Whole(Verdict::Allow) => RULE_ALLOW_ALL,
                RuleValue::Whole(Verdict::Deny) => RULE_DENY_ALL,
                RuleValue::Whole(Verdict::Default) => RULE_DEFAULT_ALL,
                RuleValue::Ports(id) => id.0,
            };
            put(
                tables,
                &apply::Write::PutRule {
                    key: rule_key(*set, key),
                    value,
                },
            )
        }
        Write::DeleteRule { set, key } => put(
            tables,
            &apply::Write::DeleteRule {
                key: rule_key(*set, key),
            },
        ),
        Write::PutPortSet { id, map } => {
            map.prefixes()
                .into_iter()
                .try_for_each(|(prefix, verdict)| {
                    let value = match verdict {
                        Verdict::Allow => PORT_ALLOW,
                        Verdict::Deny => PORT_DENY,
                        Verdict::Default => PORT_DEFAULT,
                    };
                    put(
                        tables,
                        &apply::Write::PutPort {
                            key: port_key(id.0, prefix),
                            value,
                        },
                    )
                })
        }
        Write::DeletePortSet { id, map: Some(map) } => {
            map.prefixes().into_iter().try_for_each(|(prefix, _)| {
                put(
                    tables,
                    &apply::Write::DeletePort {
                        key: port_key(id.0, prefix),
                    },
                )
            })
        }
        Write::DeletePortSet { id, map: None } => {
            let found = tables.contents()?.ports;
            let mut of_it = found.into_iter().filter(|(key, _)| key.port_set == id.0);
            of_it.try_for_each(|(key, _)| put(tables, &apply::Write::DeletePort { key }))
        }
        // Policy states are not in the tables: `Kernel::flip`.
        Write::PutPolicyState { .. } => Ok(()),
    }
}

fn rule_key(set: SetId, key: &RuleKey) -> layout::RuleKey {
    let family = match key.family {
        Family::V4 => layout::V4,
        Family::V6 => layout::V6,
    };
    layout::RuleKey {
        class: key.class.0,
        set: set.0,
        direction: key.direction as u8,
        family,
    }
}

fn rule_value(value: u32) -> RuleValue {
    match value {
        RULE_ALLOW_ALL => RuleValue::Whole(Verdict::Allow),
        RULE_DENY_ALL => RuleValue::Whole(Verdict::Deny),
        RULE_DEFAULT_ALL => RuleValue::Whole(Verdict::Default),
        id => RuleValue::Ports(PortSetId(id)),
    }
}

const fn direction(number: u8) -> Option<policy::tables::Direction> {
    match number {
        0 => Some(policy::tables::Direction::Ingress),
        1 => Some(policy::tables::Direction::Egress),
        _ => None,
    }
}

const fn family(number: u8) -> Option<Family> {
    match number {
        layout::V4 => Some(Family::V4),
        layout::V6 => Some(Family::V6),
        _ => None,
    }
}

fn port_key(port_set: u32, prefix: PortPrefix) -> PortKey {
    match prefix {
        PortPrefix::Any => PortKey {
            prefix_len: PortKey::ANY_PROTOCOL_BITS,
            port_set,
            protocol_be: 0,
            port_be: 0,
        },
        PortPrefix::Ports {
            protocol,
            port,
            len,
        } => PortKey {
            prefix_len: PortKey::ANY_PORT_BITS + u32::from(len),
            port_set,
            protocol_be: u16::from(protocol).to_be(),
            port_be: port.to_be(),
        },
    }
}

fn port_prefix(key: &PortKey) -> PortPrefix {
    if key.prefix_len < PortKey::ANY_PORT_BITS {
        return PortPrefix::Any;
    }
    PortPrefix::Ports {
        protocol: u16::from_be(key.protocol_be) as u8,
        port: u16::from_be(key.port_be),
        len: (key.prefix_len - PortKey::ANY_PORT_BITS) as u8,
    }
}

const fn port_verdict(value: PortValue) -> Verdict {
    match value {
        PORT_ALLOW => Verdict::Allow,
        PORT_DENY => Verdict::Deny,
        _ => Verdict::Default,
    }
}
