//! The two TC classifiers.
fn main() {}
