//! Entry point of `shipwayd`.

fn main() {}
