//! containerd runtime v2 shim: runs containers, and builds with their steps as processes. The binary is a thin shell
//! around [`main`].
//!
//! ```text
//! containerd ──ttrpc── shim (threads, tokio; `service`, `task`)
//!                        ├── launcher BUNDLE   pid 1 of a build, one thread (`launcher`): mounts, clones, reaps
//!                        │     └── steps
//!                        ├── container …       one operation of libcontainer, one thread (`service::helper`)
//!                        └── logger …          becomes the program of a `binary://` stream
//! ```

mod cgroup;
mod launcher;
mod service;
mod sys;
mod task;

use std::path::Path;
use std::process::ExitCode;

/// Runs the program that the arguments ask for: one of the shim's own helpers, or the shim.
#[must_use]
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    let helper = args.next_if(|name| name == "launcher" || name == "container" || name == "logger");
    let done = match helper.as_ref().and_then(|name| name.to_str()) {
        Some("launcher") => launcher::main(Path::new(&args.next().unwrap_or_default())),
        Some("container") => service::helper::main(args),
        Some(_) => service::logger::main(args),
        None => return service::main(),
    };
    if done.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
