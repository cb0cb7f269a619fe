//! What the companion publishes in the store, and the loaders that it shares with those who read it (`podgatectl`).
//!
//! Invariants
//! - reader and writer use these types and loaders: nobody puts together anew what the companion has decided;
//! - what is published costs a reader in proportion to what it asks for, not to what the store holds.
//!
//! It must not know the kernel, threads or sockets.
#![forbid(unsafe_code)]

pub mod in_force;
pub mod overrides;
pub mod pod;
pub mod status;

pub use overrides::SelectorOverrides;
