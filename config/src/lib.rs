//! The daemon's typed configuration, read from TOML and overridden by flags, and the files an operator installs
//! (`fragments`, `systemd`, `nerdctl.toml`, `shipwayd.toml` beside this crate).
//!
//! Decides what a key means and which combinations are refused. It never looks at the machine: defaults that depend
//! on it (platforms, disk size, whether CNI is installed) are left open for the daemon to fill in.
//!
//! The file format is that of `buildkitd.toml`, as far as it concerns the containerd worker, plus one table of our
//! own, `[shipway]`. An unknown key is an error that names it; a key that is known and can't be honoured is refused by
//! name instead of being ignored.

mod address;
mod duration;
mod error;
mod flags;
mod gc;
pub mod hosts;
mod resolve;
mod schema;
mod settings;
mod size;
mod unsupported;
mod worker;

pub use address::{Address, InvalidAddress};
pub use duration::{InvalidDuration, parse_duration};
pub use error::ConfigError;
pub use flags::{Flags, GcLimits};
pub use gc::{GcPolicy, GcSettings};
pub use settings::{
    Cdi, Config, Dns, Entitlement, Frontends, GatewayFrontend, History, KeyPair, Listen, Log,
    LogFormat, LogLevel, NamespaceSocket, Registry, SnapshotterPlugin, System, Tls,
};
pub use size::{DiskSpace, InvalidSize};
pub use worker::{Network, NetworkMode, Runtime, Worker};

/// Where the daemon looks for its configuration when no `--config` is given.
pub const DEFAULT_CONFIG: &str = "/etc/shipway/shipwayd.toml";
/// Where the daemon keeps its state unless it is told otherwise.
pub const DEFAULT_ROOT: &str = "/var/lib/shipway";
/// The address that BuildKit clients try first.
pub const DEFAULT_ADDRESS: &str = "unix:///run/buildkit/buildkitd.sock";
/// Where containerd finds the snapshotter plugin.
pub const DEFAULT_SNAPSHOTTER_SOCKET: &str = "/run/shipway/snapshotter.sock";
/// containerd's own socket.
pub const DEFAULT_CONTAINERD: &str = "/run/containerd/containerd.sock";
