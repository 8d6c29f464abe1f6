//! Entry point of `containerd-shim-shipway-v1`.

use std::process::ExitCode;

fn main() -> ExitCode {
    shipway_shim::main()
}
