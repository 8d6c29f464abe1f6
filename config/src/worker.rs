//! The containerd worker's settings.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{ConfigError, DEFAULT_CONTAINERD, Flags, GcSettings, schema};

/// What the daemon needs to know to build inside one containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// containerd's socket.
    pub address: PathBuf,
    /// Labels added to the worker's own.
    pub labels: BTreeMap<String, String>,
    /// Platforms in their textual form; those of the machine if there is none.
    pub platforms: Vec<String>,
    /// The namespace that `Config::listen`'s addresses serve.
    pub namespace: String,
    /// The snapshotter that images are landed in.
    pub snapshotter: String,
    /// How steps are run.
    pub runtime: Runtime,
    /// What the cache may keep.
    pub gc: GcSettings,
    /// How steps reach the network.
    pub network: Network,
    /// At most so many steps run at once; no limit if there is none.
    pub max_parallelism: Option<usize>,
}

/// Which containerd runtime runs the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// Ours where containerd can start it (2.0 and newer), else runc's.
    Auto,
    /// `io.containerd.shipway.v1`: a task per build.
    Shipway,
    /// `io.containerd.runc.v2`: a task per step.
    Runc,
}

/// How steps reach the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// What a step gets that doesn't ask for anything else.
    pub mode: NetworkMode,
    /// The CNI configuration: a `.conf` or `.conflist` file.
    pub cni_config: PathBuf,
    /// Where the CNI plugins are.
    pub cni_binaries: PathBuf,
    /// So many network namespaces are kept ready.
    pub cni_pool_size: usize,
    /// The bridge of mode `bridge`.
    pub bridge_name: String,
    /// Addresses on that bridge.
    pub bridge_subnet: String,
}

/// The default network of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkMode {
    /// CNI if its configuration is there, else the host's.
    Auto,
    /// The host's network.
    Host,
    /// A network of its own, made by CNI plugins.
    Cni,
    /// A network of its own on a bridge of the daemon's, made by CNI plugins without a configuration.
    Bridge,
}

const RUNTIMES: &str = "auto, io.containerd.shipway.v1 or io.containerd.runc.v2";

impl Worker {
    pub(crate) fn resolve(file: schema::Containerd, flags: &Flags) -> Result<Self, ConfigError> {
        let gc = gc_settings(&file, flags);
        let network = network(&file, flags)?;
        let runtime_name = flags
            .runtime
            .as_deref()
            .or(file.runtime.name.as_deref())
            .unwrap_or("auto");
        let address = flags.containerd.clone().or(file.address);
        let mut labels = file.labels;
        labels.extend(flags.labels.iter().cloned());
        let platforms = if flags.platforms.is_empty() {
            file.platforms
        } else {
            flags.platforms.clone()
        };
        let namespace = flags
            .namespace
            .clone()
            .or(file.namespace)
            .unwrap_or_else(|| "buildkit".to_owned());
        Ok(Self {
            address: containerd_socket(address.as_deref().unwrap_or(DEFAULT_CONTAINERD))?,
            labels,
            platforms,
            namespace: checked_namespace("worker.containerd.namespace", namespace)?,
            snapshotter: flags
                .snapshotter
                .clone()
                .or(file.snapshotter)
                .unwrap_or_else(|| "overlayfs".to_owned()),
            runtime: Runtime::parse(runtime_name)?,
            gc,
            network,
            max_parallelism: flags
                .max_parallelism
                .or(file.max_parallelism)
                .filter(|limit| *limit > 0),
        })
    }
}

impl Runtime {
    fn parse(name: &str) -> Result<Self, ConfigError> {
        match name {
            "auto" => Ok(Self::Auto),
            "io.containerd.shipway.v1" => Ok(Self::Shipway),
            "io.containerd.runc.v2" => Ok(Self::Runc),
            other => Err(ConfigError::value(
                "worker.containerd.runtime.name",
                other,
                RUNTIMES,
            )),
        }
    }
}

/// BuildKit takes a path with or without its scheme here; TCP can't carry mounts.
fn containerd_socket(address: &str) -> Result<PathBuf, ConfigError> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    if path.starts_with('/') {
        return Ok(path.into());
    }
    Err(ConfigError::value(
        "worker.containerd.address",
        address,
        "the absolute path of a unix socket",
    ))
}

/// A containerd namespace: letters and digits, with `-`, `_` and `.` between them, at most 76 of them.
pub(crate) fn checked_namespace(key: &str, name: String) -> Result<String, ConfigError> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let fits = name.len() <= 76
        && name.chars().all(inner)
        && edge(name.chars().next())
        && edge(name.chars().last());
    if fits {
        Ok(name)
    } else {
        Err(ConfigError::value(key, name, "a containerd namespace"))
    }
}

fn gc_settings(file: &schema::Containerd, flags: &Flags) -> GcSettings {
    let mut settings = GcSettings {
        enabled: flags.gc.or(file.gc).unwrap_or(true),
        reserved_space: file.reserved_space,
        max_used_space: file.max_used_space,
        min_free_space: file.min_free_space,
        written: file.gcpolicy.iter().cloned().map(Into::into).collect(),
    };
    if let Some(limits) = flags.gc_limits {
        settings.reserved_space = Some(limits.reserved);
        settings.min_free_space = limits.free;
        settings.max_used_space = limits.maximum;
    }
    // BuildKit's older name for the reserved space counts only where no newer one is written.
    if settings
        .reserved_space
        .or(settings.max_used_space)
        .or(settings.min_free_space)
        .is_none()
    {
        settings.reserved_space = file.gckeepstorage;
    }
    settings
}

/// The kernel's rule for names of interfaces.
fn interface(name: &str) -> Result<String, ConfigError> {
    let fits = (1..=15).contains(&name.len()) && name != "." && name != "..";
    if fits && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        return Ok(name.to_owned());
    }
    Err(ConfigError::value(
        "worker.containerd.bridgeName",
        name,
        "a network interface's name",
    ))
}

fn network(file: &schema::Containerd, flags: &Flags) -> Result<Network, ConfigError> {
    let mode = flags
        .network
        .as_deref()
        .or(file.network_mode.as_deref())
        .unwrap_or("auto");
    let mode = match mode {
        "auto" | "" => NetworkMode::Auto,
        "host" => NetworkMode::Host,
        "cni" => NetworkMode::Cni,
        "bridge" => NetworkMode::Bridge,
        other => {
            return Err(ConfigError::value(
                "worker.containerd.networkMode",
                other,
                "auto, host, cni or bridge",
            ));
        }
    };
    let path = |flag: &Option<PathBuf>, key: &Option<PathBuf>, default: &str| {
        flag.clone()
            .or_else(|| key.clone())
            .unwrap_or_else(|| default.into())
    };
    Ok(Network {
        mode,
        cni_config: path(
            &flags.cni_config,
            &file.cni_config_path,
            "/etc/buildkit/cni.json",
        ),
        cni_binaries: path(&flags.cni_binaries, &file.cni_binary_path, "/opt/cni/bin"),
        cni_pool_size: flags.cni_pool_size.or(file.cni_pool_size).unwrap_or(0),
        bridge_name: interface(file.bridge_name.as_deref().unwrap_or("buildkit0"))?,
        bridge_subnet: file
            .bridge_subnet
            .clone()
            .unwrap_or_else(|| "10.10.0.0/16".to_owned()),
    })
}
