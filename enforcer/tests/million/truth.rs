//! What has to come out: `decide` over tables whose policy half is not there. Where the programs look up peers, rules and ports,
//! the oracle answers, straight from the documents.

use std::cell::Cell;
use std::sync::Arc;

use policy::oracle::{self, Question, Ruling};
use policy::{Document, Endpoint, Facts};
use verdict::PolicyState;
use verdict::Scratch;
use verdict::env::{Env, Write};
use verdict::layout::{
    self, Config, Direction, FlowKey, FlowValue, FragmentKey, HostPortKey, PORT_ALLOW,
    PORT_DEFAULT, PORT_DENY, PeerKey, PeerValue, PortKey, PortValue, PrefixKey, PrefixValue,
    RuleKey, RuleValue, SourceKey,
};
use verdict::packet::Packet;
use verdict_testkit::case::{Change, ModelWorld};
use verdict_testkit::tables::{BucketCell, FlowCell};
use verdict_testkit::{Outcome, Tables, Via, Wire, World as _};

/// The documents in force, and whom they are asked about.
pub(crate) struct Policy {
    pub(crate) documents: Vec<Arc<Document>>,
    pub(crate) endpoint: Endpoint,
    pub(crate) facts: Facts,
}

impl Policy {
    pub(crate) fn say(&self, question: Question) -> Ruling {
        oracle::ruling(&self.endpoint, &self.documents, &self.facts, question)
    }

    /// The flags of the directions that a NetworkPolicy isolates: what no rule allows is refused there.
    fn isolation(&self) -> u64 {
        let flag = |direction, flag| {
            let isolated =
                oracle::isolates(&self.endpoint, &self.documents, &self.facts, direction);
            if isolated { flag } else { 0 }
        };
        flag(Direction::Ingress, PolicyState::ISOLATED_INGRESS)
            | flag(Direction::Egress, PolicyState::ISOLATED_EGRESS)
    }
}

/// The world of the model with the oracle in it.
pub(crate) struct Truth {
    pub(crate) model: ModelWorld,
    pub(crate) policy: Policy,
    /// `STRICT`, `SUSPENDED`.
    pub(crate) mode: u64,
    revision: u64,
    scratch: Scratch,
}

impl Truth {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            model: ModelWorld::default(),
            policy,
            mode: 0,
            revision: 1,
            scratch: Scratch::new(),
        }
    }

    /// Other documents or another mode: every flow is judged again.
    pub(crate) fn policy_changed(&mut self) {
        self.revision += 1;
        let rules = PolicyState::RULES_INGRESS | PolicyState::RULES_EGRESS;
        let policy_state = PolicyState::new(
            rules | self.policy.isolation() | self.mode,
            0,
            self.revision,
        );
        self.model
            .change(&Change::PolicyState(policy_state))
            .unwrap();
    }

    pub(crate) fn packet(&mut self, direction: Direction, via: Via, wire: &Wire) -> Outcome {
        let env = Asking {
            tables: &self.model.tables,
            policy: &self.policy,
            peer: Cell::default(),
            direction: Cell::new(direction),
        };
        let meta = wire.meta(ModelWorld::IFINDEX, via.ifindex(ModelWorld::IFINDEX));
        let reason = verdict::decide(&env, &wire.bytes, &meta, direction, &mut self.scratch).reason;
        Outcome {
            dropped: reason.is_drop(),
            reason,
        }
    }
}

/// The tables, but for what policy is looked up in.
struct Asking<'a> {
    tables: &'a Tables,
    policy: &'a Policy,
    peer: Cell<PeerKey>,
    direction: Cell<Direction>,
}

impl Env for Asking<'_> {
    type FlowRef = FlowCell;
    type Bucket = BucketCell;

    fn peer(&self, key: &PeerKey) -> Option<PeerValue> {
        self.peer.set(*key);
        Some(PeerValue::new(key, 1))
    }
    fn prefix(&self, _: &PrefixKey) -> Option<PrefixValue> {
        unreachable!("every peer is known exactly")
    }
    fn rule(&self, key: &RuleKey) -> Option<RuleValue> {
        self.direction.set(match key.direction {
            0 => Direction::Ingress,
            _ => Direction::Egress,
        });
        Some(RuleValue::new(key, 1))
    }
    fn port(&self, key: &PortKey) -> Option<PortValue> {
        let peer = self.peer.get();
        let question = Question {
            direction: self.direction.get(),
            peer: peer.addr.to_ip(peer.family as u8),
            protocol: u16::from_be(key.protocol_be) as u8,
            port: u16::from_be(key.port_be),
        };
        Some(match self.policy.say(question) {
            Ruling::Allowed => PORT_ALLOW,
            Ruling::Denied => PORT_DENY,
            Ruling::NotAllowed | Ruling::Unsaid => PORT_DEFAULT,
        })
    }

    fn endpoint(&self, ifindex: u32) -> Option<&layout::Endpoint> {
        self.tables.endpoint(ifindex)
    }
    fn policy_state(&self, endpoint_index: u32) -> Option<u64> {
        self.tables.policy_state(endpoint_index)
    }
    fn config(&self) -> Option<&Config> {
        self.tables.config()
    }
    fn jiffies(&self) -> u64 {
        self.tables.jiffies()
    }
    fn flow(&self, key: &FlowKey) -> Option<FlowCell> {
        self.tables.flow(key)
    }
    fn put_flow(&self, key: &FlowKey, value: &FlowValue, how: Write) -> bool {
        self.tables.put_flow(key, value, how)
    }
    fn delete_flow(&self, key: &FlowKey) -> bool {
        self.tables.delete_flow(key)
    }
    fn flows_held(&self, endpoint_index: u32) -> u64 {
        self.tables.flows_held(endpoint_index)
    }
    fn count_created(&self, endpoint_index: u32) {
        self.tables.count_created(endpoint_index);
    }
    fn count_deleted(&self, endpoint_index: u32) {
        self.tables.count_deleted(endpoint_index);
    }
    fn bucket(&self, key: u32) -> Option<BucketCell> {
        self.tables.bucket(key)
    }
    fn make_bucket(&self, key: u32) -> Option<BucketCell> {
        self.tables.make_bucket(key)
    }
    fn reload(&self, number: &u32) -> u32 {
        self.tables.reload(number)
    }
    fn fragment(&self, key: &FragmentKey) -> Option<FlowValue> {
        self.tables.fragment(key)
    }
    fn put_fragment(&self, key: &FragmentKey, value: &FlowValue) -> bool {
        self.tables.put_fragment(key, value)
    }
    fn source(&self, key: &SourceKey) -> Option<u32> {
        self.tables.source(key)
    }
    fn host(&self, key: &PeerKey) -> bool {
        self.tables.host(key)
    }
    fn host_path(&self, ifindex: u32) -> bool {
        self.tables.host_path(ifindex)
    }
    fn host_port(&self, key: &HostPortKey) -> bool {
        self.tables.host_port(key)
    }
    fn host_socket(&self, packet: &Packet) -> bool {
        self.tables.host_socket(packet)
    }
}
