//! `stand`: what `integration/run` calls once everything is built. Decides nothing but which part runs.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use shipway_integration::{
    Result, bench,
    builder::{Kind, Options},
    conformance::{Plan, conformance},
    demo,
    kills::{Victim, kills},
    machine::Wanted,
    report::say,
    teardown::teardown,
};

#[derive(Parser)]
#[command(
    name = "stand",
    about = "Private daemons to show, test and measure with"
)]
struct CommandLine {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Build a multi-stage Dockerfile twice, show it, run it.
    Demo {
        #[command(flatten)]
        place: Place,
    },
    /// Start containerd and the daemon and leave them running.
    Up {
        #[command(flatten)]
        place: Place,
        /// Where results land.
        #[arg(long)]
        snapshotter: Option<String>,
    },
    /// Measure Shipway and BuildKit side by side.
    Bench {
        /// Everything is kept below it.
        #[arg(long)]
        dir: PathBuf,
        #[command(flatten)]
        plan: bench::Plan,
    },
    /// Run BuildKit's own Dockerfile tests.
    Conformance {
        /// Everything is kept below it.
        #[arg(long)]
        dir: PathBuf,
        #[command(flatten)]
        plan: Plan,
    },
    /// Kill daemon, containerd, shims and launchers in mid-build, and look what is left.
    Kills {
        /// Everything is kept below it.
        #[arg(long)]
        dir: PathBuf,
        /// Which containerd.
        #[arg(long, value_enum, default_value = "any")]
        containerd: Wanted,
        /// How often each is killed.
        #[arg(long, default_value_t = 20)]
        rounds: u32,
        /// Chooses the instants.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Who; everybody if nobody is named. Repeatable.
        #[arg(long, value_enum)]
        victim: Vec<Victim>,
    },
    /// End what runs below a directory and remove it.
    Down {
        /// The directory.
        #[arg(long)]
        dir: PathBuf,
    },
}

#[derive(clap::Args)]
struct Place {
    /// Everything is kept below it.
    #[arg(long)]
    dir: PathBuf,
    /// Which containerd.
    #[arg(long, value_enum, default_value = "any")]
    containerd: Wanted,
    /// Which daemon.
    #[arg(long, value_enum, default_value = "shipway")]
    daemon: Kind,
}

fn main() -> ExitCode {
    match run(CommandLine::parse().part) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            report(&e);
            ExitCode::FAILURE
        }
    }
}

fn run(part: Part) -> Result<()> {
    match part {
        Part::Demo { place } => demo::demo(&place.dir, place.containerd, place.daemon),
        Part::Up { place, snapshotter } => {
            let mut options = Options::new(place.daemon);
            options.snapshotter = snapshotter.unwrap_or(options.snapshotter);
            demo::up(&place.dir, place.containerd, options)
        }
        Part::Bench { dir, plan } => bench::bench(&dir, &plan),
        Part::Conformance { dir, plan } => conformance(&dir, &plan),
        Part::Kills {
            dir,
            containerd,
            rounds,
            seed,
            victim,
        } => {
            let victims = if victim.is_empty() {
                &Victim::ALL
            } else {
                victim.as_slice()
            };
            kills(&dir, containerd, victims, rounds, seed)
        }
        Part::Down { dir } => teardown(&dir),
    }
}

/// An error with everything that led to it.
fn report(error: &dyn std::error::Error) {
    say(format_args!("error: {error}"));
    let mut cause = error.source();
    while let Some(next) = cause {
        say(format_args!("  because: {next}"));
        cause = next.source();
    }
}
