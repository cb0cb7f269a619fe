//! enforcer

pub mod bpffs;
pub mod hostnet;
pub mod kernel;
