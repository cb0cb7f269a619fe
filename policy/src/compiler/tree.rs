//! All blocks of all groups by prefix: which groups hold an address.

use std::collections::BTreeMap;

use super::GroupId;
use crate::prefix::{Family, Prefix};

/// Number of a block with excepts within the node; 0 = a block without.
pub(super) type BlockId = u32;

/// Begins or ends of blocks at one prefix.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// Blocks without excepts, with how often the group has this one.
    plain: Vec<(GroupId, u32)>,
    /// Blocks with excepts: begins (true), and excepts (false).
    edges: Vec<(GroupId, BlockId, bool)>,
    /// The class of what lies right inside.
    pub(super) class: u32,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.edges.is_empty()
    }
}

/// One begin or end of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Edge {
    pub(super) at: Prefix,
    pub(super) group: GroupId,
    pub(super) block: BlockId,
    pub(super) enters: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<Prefix, Node>,
    /// Number of nodes by family and length.
    lengths: BTreeMap<(Family, u8), u32>,
}

impl Tree {
    pub(super) fn add(&mut self, edge: Edge) {
        let node = self.nodes.entry(edge.at).or_insert_with(|| {
            *self
                .lengths
                .entry((edge.at.family(), edge.at.len()))
                .or_default() += 1;
            Node::default()
        });
        if edge.block != 0 {
            node.edges.push((edge.group, edge.block, edge.enters));
        } else if let Some((_, count)) = node.plain.iter_mut().find(|(g, _)| *g == edge.group) {
            *count += 1;
        } else {
            node.plain.push((edge.group, 1));
        }
    }

    /// Takes a begin or end away; the node stays until [`Tree::prune`].
    pub(super) fn remove(&mut self, edge: Edge) {
        let Some(node) = self.nodes.get_mut(&edge.at) else {
            return;
        };
        if edge.block != 0 {
            let wanted = (edge.group, edge.block, edge.enters);
            if let Some(place) = node.edges.iter().position(|e| *e == wanted) {
                node.edges.swap_remove(place);
            }
        } else if let Some(place) = node.plain.iter().position(|(g, _)| *g == edge.group) {
            node.plain[place].1 -= 1;
            if node.plain[place].1 == 0 {
                node.plain.swap_remove(place);
            }
        }
    }

    /// Removes a node without blocks; the class that it had.
    pub(super) fn prune(&mut self, at: Prefix) -> Option<u32> {
        if !self.nodes.get(&at)?.is_empty() {
            return None;
        }
        let node = self.nodes.remove(&at)?;
        if let Some(count) = self.lengths.get_mut(&(at.family(), at.len())) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&(at.family(), at.len()));
            }
        }
        Some(node.class)
    }

    /// The nodes that cover a prefix, itself not among them, longest first.
    fn around(&self, at: Prefix) -> impl Iterator<Item = (&Prefix, &Node)> {
        let from = (at.family(), 0);
        self.lengths
            .range(from..(at.family(), at.len()))
            .rev()
            .filter_map(move |((_, len), _)| self.nodes.get_key_value(&at.resized(*len)))
    }

    /// The class of what surrounds a prefix.
    pub(super) fn class_around(&self, at: Prefix) -> u32 {
        self.around(at)
            .next()
            .filter(|(at, _)| at.len() > 0)
            .map_or(0, |(_, node)| node.class)
    }

    /// The class of a prefix by longest match.
    pub(super) fn class_of(&self, at: Prefix) -> u32 {
        match self.nodes.get(&at) {
            Some(node) => node.class,
            None => self.class_around(at),
        }
    }

    /// The nodes at and below a prefix.
    pub(super) fn below(&self, at: Prefix) -> impl Iterator<Item = Prefix> + '_ {
        self.nodes
            .range(at..)
            .map(|(prefix, _)| *prefix)
            .take_while(move |prefix| at.covers(prefix))
    }

    /// Whether blocks of a group hold the whole family: by a block without excepts, or by these with.
    pub(super) fn everywhere(&self, family: Family, group: GroupId) -> (bool, Vec<BlockId>) {
        let Some(node) = self.nodes.get(&Prefix::everything(family)) else {
            return (false, Vec::new());
        };
        let plain = node.plain.iter().any(|(g, _)| *g == group);
        let blocks = node
            .edges
            .iter()
            .filter(|(g, _, enters)| *g == group && *enters);
        (plain, blocks.map(|(_, block, _)| *block).collect())
    }

    /// The groups of which some block begins or ends at or around a prefix (the whole family aside), with whether a block
    /// of theirs holds it: sorted.
    pub(super) fn held(
        &self,
        at: Prefix,
        everywhere: impl Fn(GroupId) -> (bool, Vec<BlockId>),
    ) -> Vec<(GroupId, bool)> {
        let mut plain: Vec<GroupId> = Vec::new();
        let mut edges: Vec<(GroupId, BlockId, bool)> = Vec::new();
        let own = self.nodes.get_key_value(&at);
        for (prefix, node) in own.into_iter().chain(self.around(at)) {
            if prefix.len() > 0 {
                plain.extend(node.plain.iter().map(|(group, _)| *group));
                edges.extend(&node.edges);
            }
        }
        plain.sort_unstable();
        plain.dedup();
        if edges.is_empty() {
            return plain.into_iter().map(|group| (group, true)).collect();
        }
        edges.sort_unstable();
        let mut out: BTreeMap<GroupId, bool> = plain.into_iter().map(|g| (g, true)).collect();
        for own in edges.chunk_by(|a, b| a.0 == b.0) {
            let group = own[0].0;
            let (whole, blocks) = everywhere(group);
            let is_hole = |block: BlockId| own.iter().any(|e| e.1 == block && !e.2);
            let begun = own.iter().filter(|e| e.2).map(|e| e.1);
            let held = whole || begun.chain(blocks).any(|block| !is_hole(block));
            *out.entry(group).or_default() |= held;
        }
        out.into_iter().collect()
    }
}
