//! The tables as ordinary collections, frames made from policy states, and cases that replay both: what the host tests, the
//! fuzzers, the kernel tests and `podgatectl explain` hold the programs to.
//!
//! Invariants
//! - [`Tables`] answers as the kernel's maps do, longest prefix, shares and refusals included;
//! - a [`case::Case`] is data: who replays it (the model, or the real programs) gives the same [`World`] to it;
//! - nothing in here is compiled into the kernel programs.
//!
//! [`World`]: case::World
#![forbid(unsafe_code)]

pub mod case;
pub mod frames;
pub mod generate;
mod read_case;
mod read_frame;
pub mod tables;
mod trie;

pub use case::{Case, Outcome, Step, Via, World};
pub use frames::{Bytes, Wire};
pub use read_frame::{HOST_MAC, frame};
pub use tables::Tables;
