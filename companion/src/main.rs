//! podgated
fn main() {}
