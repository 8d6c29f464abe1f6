//! The command lines: `shipway`'s own, and `buildctl`'s under that name. Decides what can be typed; runs nothing.

pub mod build;
pub mod csv;
pub mod friendly;
pub mod outputs;

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// The command line of `buildctl`.
#[derive(Debug, Parser)]
#[command(
    name = "buildctl",
    version,
    about = "build utility",
    disable_help_subcommand = false
)]
pub struct Buildctl {
    /// Where and how to reach the daemon.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: BuildctlCommand,
}

/// The command line of `shipway`.
#[derive(Debug, Parser)]
#[command(
    name = "shipway",
    version,
    about = "Build container images",
    args_override_self = true
)]
pub struct Shipway {
    /// Where and how to reach the daemon.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: ShipwayCommand,
}

/// What `buildctl` can do.
#[derive(Debug, Subcommand)]
pub enum BuildctlCommand {
    /// build
    #[command(visible_alias = "b")]
    Build(Box<build::BuildFlags>),
    /// Commands of both names.
    #[command(flatten)]
    Shared(SharedCommand),
}

/// What `shipway` can do.
#[derive(Debug, Subcommand)]
pub enum ShipwayCommand {
    /// Build an image from a directory with a Dockerfile
    Build(Box<friendly::FriendlyFlags>),
    /// Commands of both names.
    #[command(flatten)]
    Shared(SharedCommand),
}

/// Commands that do not depend on the name.
#[derive(Debug, Subcommand)]
pub enum SharedCommand {
    /// disk usage
    Du(ListFlags),
    /// clean up build cache
    Prune(PruneFlags),
    /// clean up build histories
    PruneHistories(FormatFlag),
    /// debug utilities
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Proxy the stdio stream to the daemon connection. Should not be invoked manually.
    #[command(hide = true)]
    DialStdio,
}

/// Looking into the daemon and into LLB.
#[derive(Debug, Subcommand)]
pub enum DebugCommand {
    /// list workers
    Workers(ListFlags),
    /// display internal information
    Info(FormatFlag),
    /// bring the layer store and containerd into agreement where one of them was lost or restored
    Repair(RepairFlags),
    /// dump LLB in human-readable format; LLB can also be passed via stdin, and no daemon is needed
    DumpLlb(DumpLlbFlags),
    /// list build records
    Histories(FormatFlag),
    /// display build logs
    Logs(LogsFlags),
    /// display build events
    Monitor(MonitorFlags),
    /// control build records
    Ctl(CtlFlags),
    /// retrieve a blob from the content store
    Get {
        /// Digest of the blob.
        digest: String,
    },
}

/// Where and how to reach the daemon.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// daemon address
    #[arg(
        long,
        global = true,
        env = "BUILDKIT_HOST",
        default_value = "unix:///run/buildkit/buildkitd.sock"
    )]
    pub addr: String,
    /// enable debug output: errors with their whole status
    #[arg(long, global = true)]
    pub debug: bool,
    /// log formatter: json or text
    #[arg(long, global = true, default_value = "text", value_parser = ["json", "text"])]
    pub log_format: String,
    /// How to trust the daemon.
    #[command(flatten)]
    pub tls: Tls,
    /// timeout backend connection after value seconds
    #[arg(long, global = true, default_value_t = 5)]
    pub timeout: u64,
    /// How patient to be.
    #[command(flatten)]
    pub wait: Wait,
}

impl Global {
    /// The time a connection may take; zero means for ever.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        (self.timeout > 0).then(|| Duration::from_secs(self.timeout))
    }
}

/// Whether to wait for a daemon that is not there yet.
#[derive(Debug, Clone, Args)]
pub struct Wait {
    /// block RPCs until the connection becomes available
    #[arg(long, global = true)]
    pub wait: bool,
}

/// How to trust the daemon and how to be trusted.
#[derive(Debug, Clone, Default, Args)]
pub struct Tls {
    /// daemon server name for certificate validation
    #[arg(long, global = true)]
    pub tlsservername: Option<String>,
    /// CA certificate for validation
    #[arg(long, global = true)]
    pub tlscacert: Option<std::path::PathBuf>,
    /// client certificate
    #[arg(long, global = true)]
    pub tlscert: Option<std::path::PathBuf>,
    /// client key
    #[arg(long, global = true)]
    pub tlskey: Option<std::path::PathBuf>,
    /// directory containing CA certificate, client certificate and client key (ca.pem, cert.pem, key.pem or ca.crt,
    /// tls.crt, tls.key)
    #[arg(long, global = true, conflicts_with_all = ["tlscacert", "tlscert", "tlskey"])]
    pub tlsdir: Option<std::path::PathBuf>,
}

/// How to list records.
#[derive(Debug, Args)]
pub struct ListFlags {
    /// Filter records
    #[arg(long, short = 'f')]
    pub filter: Vec<String>,
    /// Verbose output
    #[arg(long, short = 'v')]
    pub verbose: bool,
    /// How to print.
    #[command(flatten)]
    pub format: FormatFlag,
}

/// How to print.
#[derive(Debug, Args)]
pub struct FormatFlag {
    /// Format the output using the given Go template, e.g, '{{json .}}'
    #[arg(long)]
    pub format: Option<String>,
}

/// What to remove from the cache.
#[derive(Debug, Args)]
pub struct PruneFlags {
    /// Keep data newer than this limit, e.g. 24h
    #[arg(long, value_parser = parse_duration)]
    pub keep_duration: Option<Duration>,
    /// Keep data below this limit (in MB)
    #[arg(long, default_value_t = 0.0)]
    pub keep_storage: f64,
    /// Always allow data above this limit (in MB)
    #[arg(long, default_value_t = 0.0)]
    pub keep_storage_min: f64,
    /// Keep free data below this limit (in MB)
    #[arg(long, default_value_t = 0.0)]
    pub free_storage: f64,
    /// Include internal/frontend references
    #[arg(long)]
    pub all: bool,
    /// Which records, and how to print them.
    #[command(flatten)]
    pub list: ListFlags,
}

/// How to repair.
#[derive(Debug, Args)]
pub struct RepairFlags {
    /// Say what would be done and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Which LLB to dump, and how.
#[derive(Debug, Args)]
pub struct DumpLlbFlags {
    /// Output dot format
    #[arg(long)]
    pub dot: bool,
    /// File with a marshalled definition; standard input without it or with `-`
    pub file: Option<std::path::PathBuf>,
}

/// Whose logs to display.
#[derive(Debug, Args)]
pub struct LogsFlags {
    /// The build's reference.
    pub reference: String,
    /// Set type of progress (plain, tty, rawjson)
    #[arg(long, default_value = "plain")]
    pub progress: crate::progress::Mode,
}

/// Which events to display.
#[derive(Debug, Args)]
pub struct MonitorFlags {
    /// show events of completed builds too
    #[arg(long)]
    pub completed: bool,
    /// only show the event of this build reference
    #[arg(long = "ref")]
    pub reference: Option<String>,
}

/// What to do with a record of the history.
#[derive(Debug, Args)]
pub struct CtlFlags {
    /// The build's reference.
    pub reference: String,
    /// The change.
    #[command(flatten)]
    pub action: CtlAction,
}

/// A change of one record.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one per flag, of which clap lets one through"
)]
pub struct CtlAction {
    /// pin the record
    #[arg(long)]
    pub pin: bool,
    /// unpin the record
    #[arg(long)]
    pub unpin: bool,
    /// delete the record
    #[arg(long)]
    pub delete: bool,
}

/// Reads a duration as Go writes it: `1h30m`, `1.5s`, `100ms`.
///
/// # Errors
/// Says what can't be read.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is not a duration such as 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(invalid()),
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| invalid())?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = &rest[unit..];
    }
    if text.is_empty() {
        Err(invalid())
    } else {
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_lines_are_consistent() {
        Buildctl::command().debug_assert();
        Shipway::command().debug_assert();
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "1", "h", "1x", "-1s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
