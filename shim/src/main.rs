//! Entry point of `containerd-shim-shipway-v1`.

fn main() {}
