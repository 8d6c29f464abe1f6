//! The commands. Each asks the daemon and prints; none decides how a build goes.

pub(crate) mod build;
mod dial_stdio;
mod dump_llb;
mod history;
mod repair;
mod usage;
mod workers;

use crate::args::{DebugCommand, Global, SharedCommand};
use crate::error::Error;

/// Runs a command that both names share.
pub(crate) async fn shared(global: &Global, command: SharedCommand) -> Result<(), Error> {
    match command {
        SharedCommand::Du(flags) => usage::du(global, &flags).await,
        SharedCommand::Prune(flags) => usage::prune(global, &flags).await,
        SharedCommand::PruneHistories(flags) => history::prune(global, &flags).await,
        SharedCommand::DialStdio => dial_stdio::run(global).await,
        SharedCommand::Debug(command) => debug(global, command).await,
    }
}

async fn debug(global: &Global, command: DebugCommand) -> Result<(), Error> {
    match command {
        DebugCommand::Workers(flags) => workers::list(global, &flags).await,
        DebugCommand::Info(flags) => workers::info(global, &flags).await,
        DebugCommand::Repair(flags) => repair::run(global, &flags).await,
        DebugCommand::DumpLlb(flags) => dump_llb::run(&flags),
        DebugCommand::Histories(flags) => history::list(global, &flags).await,
        DebugCommand::Logs(flags) => history::logs(global, &flags).await,
        DebugCommand::Monitor(flags) => history::monitor(global, &flags).await,
        DebugCommand::Ctl(flags) => history::control(global, &flags).await,
        DebugCommand::Get { digest } => history::get(global, &digest).await,
    }
}
