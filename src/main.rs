//! `sweep`: see `sweep --help`.

fn main() {}
