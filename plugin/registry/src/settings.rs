//! What the client is to know: hosts that are reached in a way of their own, and limits. Plain data.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use shipway_config::Registry;

/// How registries are spoken to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// By `host[:port]` as in references; a host that is not here is reached over verified TLS.
    pub hosts: BTreeMap<String, Registry>,
    /// Directories in containerd's layout, `<host>/hosts.toml`, for the hosts that are not above; the first that has a host
    /// counts.
    pub hosts_dirs: Vec<PathBuf>,
    /// Transfers of data at once, per host.
    pub concurrency: usize,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a transfer may stand still.
    pub stall_timeout: Duration,
    /// Tries of one request, the first included.
    pub tries: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            hosts_dirs: Vec::new(),
            concurrency: 4,
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_mins(1),
            tries: 5,
        }
    }
}
