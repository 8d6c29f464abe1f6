//! containerd runtime v2 shim: runs containers, and builds with their steps as processes. The binary is a thin shell
//! around [`main`].

mod cgroup;
mod launcher;
mod sys;

use std::path::Path;
use std::process::ExitCode;

/// Runs the program that the arguments ask for.
#[must_use]
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match (args.next(), args.next()) {
        (Some(name), Some(bundle)) if name == "launcher" => match launcher::main(Path::new(&bundle)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        _ => ExitCode::FAILURE,
    }
}
