//! podgatectl
fn main() {}
