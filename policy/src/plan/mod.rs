//! From what the kernel holds ([`Image`]) to what it should hold ([`Compiler`]): a state machine that says the next step
//! and takes its result. Production, tests and the trace log run the same one.
//!
//! The promise, after *each* step: every endpoint has its old verdict for every packet until its own policy state is
//! written, and its new one from then on. How: an entry holds a value in two versions, before and from a policy revision
//! on ([`verdict::layout::Versioned`]), and a program reads all entries in the version of its policy state's revision.
//!
//! 1. One new revision is taken.
//! 2. *Prepare*: port sets that nobody names yet, then every rule and every peer that changes, in both versions. Nobody
//!    has the new revision: nobody's verdict changes. A write that fails (a full table) is undone with all before it.
//! 3. *States*: each endpoint whose verdicts change gets its policy state with the new revision: the change itself. The
//!    others read the old versions, which say the same to them.
//! 4. A grace period: no program still uses a policy state that it read before.
//! 5. *Settle*: the old versions are written away, and entries that say what holds without them are deleted.
//! 6. A grace period: no program still uses a class that it read in an old version.
//! 7. *Sweep*: rules of classes and sets, and port sets, that nothing names any more.
//!
//! On a weakly ordered CPU (arm64): the writes of step 2 are system calls, and the store of step 3 is a release store, so
//! whoever sees the store can see the writes. The program's side needs that its look-ups are not satisfied before its read
//! of the policy state. A look-up in `RULES` takes its key from that read (the set), and a dependency orders it; one in
//! `PEERS` and `PREFIXES` does not. There the window is that of one packet that read a value before the new version was
//! written and the policy state after it was stored: it gets the old class, as a packet a moment earlier does, and its
//! flow is evaluated under the new revision with it. docs/adr/0013 says what closes it.

mod build;
mod display;
mod image;
mod keys;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use image::{Image, Sizes};
pub use keys::rule_at;
use verdict::layout::TableWrite;

use crate::{
    compiler::{Compiler, EndpointState, RuleAt, RuleSetId},
    portmap::{PortMap, PortPrefix, Verdict},
    prefix::Prefix,
    select::EndpointId,
};

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take a revision that no policy state ever had: [`Taken::Revision`].
    Revision,
    /// Make this write.
    Write(TableWrite),
    /// Store the endpoint's policy state: rule set, isolation and rules as given, the other flags as they are, `pending`
    /// taken away. An endpoint that is gone counts as done.
    State {
        /// Which endpoint.
        endpoint: EndpointId,
        /// What policy decides of it.
        state: EndpointState,
        /// Its new revision.
        revision: u64,
    },
    /// Wait until no program still uses what it read before.
    Grace,
    /// Nothing is left to do: see [`Plan::failed`].
    Done,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was done.
    Done,
    /// The revision that was asked for.
    Revision(u64),
    /// It could not be done. In *prepare*, what was done is undone; a policy state is asked for again, and so is a
    /// deletion; a grace period is asked for again.
    Failed,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Peer(Prefix),
    Rule(RuleSetId, RuleAt),
    Port(u32, PortPrefix, Verdict),
}

/// An entry that changes.
#[derive(Clone, Copy, Debug)]
struct Entry {
    place: Place,
    old: u32,
    new: u32,
    /// It is written before the policy states.
    prepared: bool,
    /// It has to be in two versions meanwhile.
    versioned: bool,
    /// It is in the kernel before.
    there: bool,
    /// It is in the kernel afterwards.
    stays: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Revision,
    Prepare(usize),
    Undo(usize),
    States(usize),
    FirstGrace,
    Settle(usize),
    SecondGrace,
    Sweep(usize),
    Done,
}

/// See the module. Run it to its end, or at least to where it is in force, before the next one is made.
#[derive(Clone, Debug)]
pub struct Plan {
    phase: Phase,
    failed: bool,
    since: u64,
    entries: Vec<Entry>,
    states: Vec<(EndpointId, EndpointState)>,
    sweep: Vec<Place>,
    new_port_sets: Vec<(u32, Arc<PortMap>)>,
    dead_port_sets: BTreeSet<u32>,
    /// What of the sweep is still in the image's picture of rules.
    swept_rules: Vec<(RuleSetId, RuleAt)>,
    /// Something has two versions.
    versioned: bool,
    needs: Sizes,
}

impl Plan {
    /// Plans the way from the image to what the compiler says. `leftover`: what an earlier plan did not come to sweep
    /// ([`Plan::leftover`]).
    pub fn new(compiler: &mut Compiler, image: &mut Image, leftover: &[Leftover]) -> Self {
        let mut plan = build::plan(compiler, image);
        plan.sweep.splice(0..0, leftover.iter().map(|one| one.0));
        plan.skip_empty(compiler, image);
        plan
    }

    /// Entries that it adds before anything is deleted: there must be room for them.
    pub const fn needs(&self) -> Sizes {
        self.needs
    }

    /// Number of writes to tables and policy states, deletions included.
    pub fn len(&self) -> usize {
        let prepared = self.entries.iter().filter(|e| e.prepared).count();
        let settled = self.entries.iter().filter(|e| e.settles()).count();
        prepared + self.states.len() + settled + self.sweep.len()
    }

    /// Nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.phase == Phase::Done
    }

    /// The endpoints whose policy state it writes.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointId> + '_ {
        self.states.iter().map(|(id, _)| *id)
    }

    /// The new policy is in force for every endpoint.
    pub const fn in_force(&self) -> bool {
        !self.failed
            && matches!(
                self.phase,
                Phase::FirstGrace
                    | Phase::Settle(_)
                    | Phase::SecondGrace
                    | Phase::Sweep(_)
                    | Phase::Done
            )
    }

    /// It could not be carried out; everything is as it was.
    pub const fn failed(&self) -> bool {
        self.failed
    }

    /// All entries have one version; at most a sweep is left, which the next plan can take over.
    pub const fn is_settled(&self) -> bool {
        matches!(
            self.phase,
            Phase::SecondGrace | Phase::Sweep(_) | Phase::Done
        )
    }

    /// What is still to be swept.
    pub fn leftover(&self) -> Vec<Leftover> {
        let from = match self.phase {
            Phase::Sweep(done) => done,
            Phase::Done => self.sweep.len(),
            _ => 0,
        };
        self.sweep[from..].iter().copied().map(Leftover).collect()
    }

    /// The next step: the same one until its result is taken.
    pub fn next(&self) -> Step {
        match self.phase {
            Phase::Revision => Step::Revision,
            Phase::Prepare(i) => Step::Write(self.entries[i].prepared(self.since)),
            Phase::Undo(i) => Step::Write(self.entries[i].undone()),
            Phase::States(i) => {
                let (endpoint, state) = self.states[i];
                Step::State {
                    endpoint,
                    state,
                    revision: self.since,
                }
            }
            Phase::FirstGrace | Phase::SecondGrace => Step::Grace,
            Phase::Settle(i) => Step::Write(self.entries[i].settled()),
            Phase::Sweep(i) => Step::Write(self.sweep[i].deleted()),
            Phase::Done => Step::Done,
        }
    }

    /// Takes the result of the step that [`Plan::next`] said.
    pub fn took(&mut self, taken: Taken, compiler: &mut Compiler, image: &mut Image) {
        let failed = taken == Taken::Failed;
        self.phase = match self.phase {
            Phase::Revision => match taken {
                Taken::Revision(revision) => {
                    self.since = revision;
                    Phase::Prepare(0)
                }
                _ => {
                    self.failed = true;
                    Phase::Done
                }
            },
            Phase::Prepare(i) if failed => {
                self.failed = true;
                match i.checked_sub(1) {
                    Some(before) => Phase::Undo(before),
                    None => Phase::Done,
                }
            }
            Phase::Prepare(i) => {
                if !self.entries[i].there {
                    *image.entries.of(self.entries[i].place) += 1;
                }
                Phase::Prepare(i + 1)
            }
            Phase::Undo(i) => {
                self.undone(i, failed, image);
                match i.checked_sub(1) {
                    Some(before) => Phase::Undo(before),
                    None => Phase::Done,
                }
            }
            Phase::States(i) if failed => Phase::States(i),
            Phase::States(i) => {
                let (endpoint, state) = self.states[i];
                image.states.insert(endpoint, state);
                Phase::States(i + 1)
            }
            Phase::FirstGrace if !failed => Phase::Settle(0),
            Phase::Settle(i) if !failed => {
                if !self.entries[i].stays {
                    image.entries.take(self.entries[i].place);
                }
                Phase::Settle(i + 1)
            }
            Phase::SecondGrace if !failed => Phase::Sweep(0),
            Phase::Sweep(i) if !failed => {
                image.entries.take(self.sweep[i]);
                Phase::Sweep(i + 1)
            }
            same => same,
        };
        self.skip_empty(compiler, image);
    }

    /// Goes on to the next phase in which there is something to do.
    fn skip_empty(&mut self, compiler: &mut Compiler, image: &mut Image) {
        loop {
            self.phase = match self.phase {
                Phase::Revision if self.states.is_empty() && !self.versioned => Phase::Prepare(0),
                Phase::Prepare(i) if i >= self.entries.len() => {
                    build::commit(self, image);
                    compiler.committed();
                    Phase::States(0)
                }
                Phase::Prepare(i) if !self.entries[i].prepared => Phase::Prepare(i + 1),
                Phase::Undo(i) if !self.entries[i].prepared => match i.checked_sub(1) {
                    Some(before) => Phase::Undo(before),
                    None => Phase::Done,
                },
                Phase::States(i) if i >= self.states.len() => {
                    if self.entries.iter().any(Entry::settles) {
                        Phase::FirstGrace
                    } else {
                        Phase::Settle(0)
                    }
                }
                Phase::Settle(i) if i >= self.entries.len() => {
                    if self.sweep.is_empty() {
                        Phase::Sweep(0)
                    } else {
                        Phase::SecondGrace
                    }
                }
                Phase::Settle(i) if !self.entries[i].settles() => Phase::Settle(i + 1),
                Phase::Sweep(i) if i >= self.sweep.len() => {
                    image.resting_port_sets.clear();
                    compiler.release();
                    Phase::Done
                }
                same => {
                    self.phase = same;
                    return;
                }
            };
        }
    }

    /// An entry is as it was again, or, where that failed, is to be gone over by the next plan.
    fn undone(&self, i: usize, failed: bool, image: &mut Image) {
        let entry = self.entries[i];
        if !failed {
            if !entry.there {
                image.entries.take(entry.place);
            }
            return;
        }
        match entry.place {
            Place::Peer(at) => drop(image.unsettled.insert(at)),
            Place::Rule(set, at) => drop(image.unsettled_rules.insert((set, at))),
            Place::Port(set, prefix, verdict) => image
                .broken_port_sets
                .entry(set)
                .or_default()
                .push((prefix, verdict)),
        }
    }
}

/// Something that is still to be deleted.
#[derive(Clone, Copy, Debug)]
pub struct Leftover(Place);

impl Sizes {
    fn of(&mut self, place: Place) -> &mut usize {
        match place {
            Place::Peer(at) if at.is_exact() => &mut self.peers,
            Place::Peer(_) => &mut self.prefixes,
            Place::Rule(..) => &mut self.rules,
            Place::Port(..) => &mut self.ports,
        }
    }

    fn take(&mut self, place: Place) {
        let count = self.of(place);
        *count = count.saturating_sub(1);
    }
}

impl Place {
    fn put(self, versions: keys::Versions) -> TableWrite {
        match self {
            Self::Peer(at) => keys::peer(at, Some(versions)),
            Self::Rule(set, at) => keys::rule(set, at, Some(versions)),
            Self::Port(set, prefix, verdict) => keys::port(set, prefix, Some(verdict)),
        }
    }

    fn deleted(self) -> TableWrite {
        match self {
            Self::Peer(at) => keys::peer(at, None),
            Self::Rule(set, at) => keys::rule(set, at, None),
            Self::Port(set, prefix, _) => keys::port(set, prefix, None),
        }
    }
}

impl Entry {
    fn prepared(&self, since: u64) -> TableWrite {
        self.place.put(if self.versioned {
            (self.old, self.new, since)
        } else {
            (self.new, self.new, 0)
        })
    }

    fn undone(&self) -> TableWrite {
        if self.there {
            self.place.put((self.old, self.old, 0))
        } else {
            self.place.deleted()
        }
    }

    const fn settles(&self) -> bool {
        self.versioned || !self.stays
    }

    fn settled(&self) -> TableWrite {
        if self.stays {
            self.place.put((self.new, self.new, 0))
        } else {
            self.place.deleted()
        }
    }
}
