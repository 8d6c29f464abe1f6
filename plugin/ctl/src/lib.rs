//! The command line, and its side of a session. Called as `buildctl` it takes `buildctl`'s arguments, so that nerdctl and
//! scripts need no other client. Speaks only the wire protocol: it works the same against any BuildKit daemon.

pub mod args;
pub mod build;
mod commands;
mod connect;
mod error;
mod output;
pub mod progress;
mod session;
mod walk;

use std::ffi::OsString;
use std::path::Path;

use clap::Parser as _;

pub use crate::error::Error;

use crate::args::{Buildctl, BuildctlCommand, Shipway, ShipwayCommand};

/// Runs the command line `argv` and gives the process's exit code.
pub async fn main(argv: Vec<OsString>) -> u8 {
    let name = argv
        .first()
        .map(Path::new)
        .and_then(Path::file_name)
        .unwrap_or_default();
    let as_buildctl = name.to_string_lossy().contains("buildctl");
    let (debug, ran) = if as_buildctl {
        let line = Buildctl::parse_from(argv);
        (line.global.debug, Box::pin(buildctl(line)).await)
    } else {
        let line = Shipway::parse_from(argv);
        (line.global.debug, Box::pin(shipway(line)).await)
    };
    match ran {
        Ok(()) => 0,
        Err(error) => {
            report(&error, debug);
            1
        }
    }
}

async fn buildctl(line: Buildctl) -> Result<(), Error> {
    match line.command {
        BuildctlCommand::Build(flags) => Box::pin(commands::build::run(&line.global, &flags)).await,
        BuildctlCommand::Shared(command) => commands::shared(&line.global, command).await,
    }
}

async fn shipway(line: Shipway) -> Result<(), Error> {
    match line.command {
        ShipwayCommand::Build(flags) => {
            let flags = flags.into_build_flags()?;
            Box::pin(commands::build::run(&line.global, &flags)).await
        }
        ShipwayCommand::Shared(command) => commands::shared(&line.global, command).await,
    }
}

fn report(error: &Error, debug: bool) {
    if let Error::Call { status, .. } = error {
        for snippet in build::snippets(status) {
            eprint!("{snippet}");
        }
    }
    if debug {
        eprintln!("error: {error:?}");
    } else {
        eprintln!("error: {}", error.chain());
    }
}
