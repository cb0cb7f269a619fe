//! Placeholder until the harness stands.
fn main() {}
