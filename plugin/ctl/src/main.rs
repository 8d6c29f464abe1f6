//! Entry point of `shipway`.

fn main() {}
