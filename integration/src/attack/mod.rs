//! Attacks between real namespaces: raw frames from inside a pod or from the outside, each shown in three steps.
//!
//! 1. *It works*: from and towards pods that are wired alike but not under podgate, the attack arrives.
//! 2. *It does not*: from and towards pods under podgate it is dropped, by the named reason, which is counted.
//! 3. *Its legitimate twin does*: nearly the same frames, as policy allows them, arrive with podgate.
//!
//! One [`Stage`] serves all attacks of a test binary, one at a time. Frames are written in the words of the packet corpus
//! (`verdict/tests/corpus/README.md`): podgate's builder of frames, never its reader; that they are what they say is shown by the
//! first step.

mod cast;
mod eye;
mod janitor;
mod run;
mod sockets;
mod stage;

pub use cast::{Actor, Cast, Values};
pub use eye::Eye;
pub use run::{Attack, Seen, play};
pub use sockets::{Sender, inside};
pub use stage::{POLICY, Scene, Stage, stage};
