//! The vocabulary of podgate: map layouts, the bounded packet reader, numbered [`Reason`]s and [`decide()`], the one
//! decision function. It is compiled into the kernel programs, the unit tests, the fuzzers and `podgatectl explain`.
//!
//! Invariants
//! - no allocation, no panic, no recursion, bounded loops only: the 5.10 verifier must accept it;
//! - every packet gets an answer and every answer has a [`Reason`]; what cannot be read is dropped by name;
//! - nothing here knows a map, a socket or a clock: those come in through [`Env`] and [`Frame`].
//!
//! It must not depend on any other crate of the workspace.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod address;
mod commit;
pub mod decide;
pub mod env;
pub mod flow;
mod found;
mod fragment;
pub mod frame;
mod icmp_error;
mod implicit_allow;
pub mod layout;
mod link_layer;
mod neighbour;
pub mod nursery;
pub mod packet;
mod policy;
pub mod policy_state;
pub mod reason;
mod record;
mod scratch;
mod tracked;

pub use decide::{Decision, decide};
pub use env::Env;
pub use frame::{Frame, Meta};
pub use layout::{Addr, Direction};
pub use policy_state::PolicyState;
pub use reason::Reason;
pub use scratch::Scratch;
