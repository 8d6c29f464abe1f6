//! The daemon's command line: buildkitd's flags as far as they concern its containerd worker, and ours. Decides which
//! words mean which flag; what a flag does is `shipway_config`'s.

use std::path::PathBuf;

use clap::{ArgAction, Parser};
use shipway_config::{ConfigError, DEFAULT_CONFIG, Flags, GcLimits};

/// Builds container images inside an existing containerd.
#[derive(Debug, Parser)]
#[command(name = "shipwayd", version, args_override_self = true)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(crate) struct CommandLine {
    /// Configuration file; must exist if it is named.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Log what a developer wants to know.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set, default_value_t = false)]
    debug: bool,
    /// Log everything.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set, default_value_t = false, hide = true)]
    trace: bool,
    /// Directory for all state.
    #[arg(long)]
    root: Option<PathBuf>,
    /// Listening address: unix://PATH, tcp://HOST:PORT or fd://NAME. Repeatable.
    #[arg(long)]
    addr: Vec<String>,
    /// Log format: text or json.
    #[arg(long)]
    log_format: Option<String>,
    /// Log level: error, warn, info, debug or trace.
    #[arg(long, env = "BUILDKITD_LOG_LEVEL")]
    log_level: Option<String>,
    /// Group, by name or number, that owns the sockets.
    #[arg(long)]
    group: Option<String>,
    /// Certificate of the server.
    #[arg(long)]
    tlscert: Option<PathBuf>,
    /// Private key of the server.
    #[arg(long)]
    tlskey: Option<PathBuf>,
    /// Authority that clients' certificates must be signed by.
    #[arg(long)]
    tlscacert: Option<PathBuf>,
    /// Allow network.host, security.insecure or device. Repeatable.
    #[arg(long)]
    allow_insecure_entitlement: Vec<String>,
    /// Socket for clients' traces.
    #[arg(long)]
    otel_socket_path: Option<PathBuf>,
    /// Refuse devices named by CDI.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    cdi_disabled: Option<bool>,
    /// Directory with CDI specifications. Repeatable.
    #[arg(long)]
    cdi_spec_dir: Vec<PathBuf>,
    /// BuildKit's other worker, which doesn't exist here.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, hide = true)]
    oci_worker: Option<String>,
    /// The only worker there is.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, hide = true)]
    containerd_worker: Option<String>,
    /// containerd's socket.
    #[arg(long)]
    containerd_worker_addr: Option<String>,
    /// Label KEY=VALUE of the worker. Repeatable.
    #[arg(long)]
    containerd_worker_labels: Vec<String>,
    /// Platform to build for by default. Repeatable.
    #[arg(long)]
    containerd_worker_platform: Vec<String>,
    /// Namespace behind `--addr`.
    #[arg(long)]
    containerd_worker_namespace: Option<String>,
    /// Runtime for steps: auto, io.containerd.shipway.v1 or io.containerd.runc.v2.
    #[arg(long)]
    containerd_worker_runtime: Option<String>,
    /// Network of steps: auto, host, cni or bridge.
    #[arg(long)]
    containerd_worker_net: Option<String>,
    /// CNI configuration file.
    #[arg(long)]
    containerd_cni_config_path: Option<PathBuf>,
    /// Directory of CNI plugins.
    #[arg(long)]
    containerd_cni_binary_dir: Option<PathBuf>,
    /// Network namespaces kept ready.
    #[arg(long)]
    containerd_cni_pool_size: Option<usize>,
    /// Snapshotter that results land in.
    #[arg(long)]
    containerd_worker_snapshotter: Option<String>,
    /// Steps that run at once.
    #[arg(long)]
    containerd_max_parallelism: Option<usize>,
    /// Collect the cache by itself.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    containerd_worker_gc: Option<bool>,
    /// Limits of the cache in MB: `Reserved[,Free[,Maximum]]`.
    #[arg(long)]
    containerd_worker_gc_keepstorage: Option<String>,
    /// Socket of the Snapshots service that containerd connects to.
    #[arg(long)]
    snapshotter_socket: Option<PathBuf>,
}

/// What the command line asks for.
pub(crate) struct Request {
    /// The file to read.
    pub(crate) config: PathBuf,
    /// It was named, so it must exist.
    pub(crate) required: bool,
    /// What overrides it.
    pub(crate) flags: Flags,
}

/// Why a command line was refused, beyond what clap checks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidFlag {
    /// No such group.
    #[error("--group: no group {0:?} on this machine")]
    Group(String),
    /// Not of the form KEY=VALUE.
    #[error("--containerd-worker-labels: {0:?} is not KEY=VALUE")]
    Label(String),
    /// Neither true, false nor auto.
    #[error("--{flag}: {value:?} is not true, false or auto")]
    Switch {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
    },
    /// BuildKit's containerd worker can't be switched off.
    #[error("--containerd-worker=false: it is the only worker there is")]
    NoWorker,
    /// The value means nothing.
    #[error(transparent)]
    Value(#[from] ConfigError),
}

impl CommandLine {
    /// Checks what clap can't. `group_id` looks a group up by name.
    pub(crate) fn into_request(
        self,
        group_id: impl Fn(&str) -> Option<u32>,
    ) -> Result<Request, InvalidFlag> {
        if switch("containerd-worker", self.containerd_worker)? == Some(false) {
            return Err(InvalidFlag::NoWorker);
        }
        let shorthand = match (self.trace, self.debug) {
            (true, _) => Some("trace".to_owned()),
            (false, true) => Some("debug".to_owned()),
            (false, false) => None,
        };
        let labels = self.containerd_worker_labels.into_iter().map(label);
        let limits = self
            .containerd_worker_gc_keepstorage
            .map(|text| text.parse::<GcLimits>());
        let flags = Flags {
            root: self.root,
            addresses: self.addr,
            gid: self.group.map(|name| gid(name, group_id)).transpose()?,
            log_level: self.log_level.or(shorthand),
            log_format: self.log_format,
            tls_cert: self.tlscert,
            tls_key: self.tlskey,
            tls_ca: self.tlscacert,
            entitlements: self.allow_insecure_entitlement,
            otel_socket: self.otel_socket_path,
            cdi_disabled: self.cdi_disabled,
            cdi_spec_dirs: self.cdi_spec_dir,
            containerd: self.containerd_worker_addr,
            labels: labels.collect::<Result<_, _>>()?,
            platforms: self.containerd_worker_platform,
            namespace: self.containerd_worker_namespace,
            runtime: self.containerd_worker_runtime,
            network: self.containerd_worker_net,
            cni_config: self.containerd_cni_config_path,
            cni_binaries: self.containerd_cni_binary_dir,
            cni_pool_size: self.containerd_cni_pool_size,
            snapshotter: self.containerd_worker_snapshotter,
            max_parallelism: self.containerd_max_parallelism,
            gc: self.containerd_worker_gc,
            gc_limits: limits.transpose()?,
            snapshotter_socket: self.snapshotter_socket,
            oci_worker: switch("oci-worker", self.oci_worker)?,
        };
        let required = self.config.is_some();
        let config = self.config.unwrap_or_else(|| DEFAULT_CONFIG.into());
        Ok(Request {
            config,
            required,
            flags,
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a flag is read once")]
fn switch(flag: &'static str, value: Option<String>) -> Result<Option<bool>, InvalidFlag> {
    match value.as_deref() {
        None | Some("" | "auto") => Ok(None),
        Some("true" | "1") => Ok(Some(true)),
        Some("false" | "0") => Ok(Some(false)),
        Some(other) => Err(InvalidFlag::Switch {
            flag,
            value: other.to_owned(),
        }),
    }
}

fn gid(name: String, lookup: impl Fn(&str) -> Option<u32>) -> Result<u32, InvalidFlag> {
    name.parse()
        .ok()
        .or_else(|| lookup(&name))
        .ok_or(InvalidFlag::Group(name))
}

fn label(text: String) -> Result<(String, String), InvalidFlag> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(InvalidFlag::Label(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &[&str]) -> Result<Request, InvalidFlag> {
        let command = CommandLine::try_parse_from([&["shipwayd"], words].concat()).unwrap();
        command.into_request(|name| (name == "docker").then_some(999))
    }

    #[test]
    fn the_command_line_of_buildkits_own_test_harness_is_understood() {
        let words = [
            "--containerd-worker-gc=false",
            "--containerd-worker=true",
            "--containerd-worker-addr",
            "/c.sock",
            "--containerd-worker-labels=org.mobyproject.buildkit.worker.sandbox=true",
            "--oci-worker=false",
            "--containerd-worker-snapshotter=shipway",
            "--config=/c.toml",
            "--root",
            "/root",
            "--addr",
            "unix:///b.sock",
            "--debug",
        ];
        let request = request(&words).unwrap();
        assert!(request.required && request.config.as_os_str() == "/c.toml");
        let flags = request.flags;
        assert_eq!((flags.gc, flags.oci_worker), (Some(false), Some(false)));
        assert_eq!(flags.labels[0].1, "true");
        assert_eq!(flags.log_level.as_deref(), Some("debug"));
    }

    #[test]
    fn without_words_nothing_is_overridden() {
        let request = request(&[]).unwrap();
        assert!(!request.required);
        assert_eq!(request.flags, Flags::default());
    }

    #[test]
    fn a_group_is_a_number_or_a_name() {
        assert_eq!(request(&["--group", "7"]).unwrap().flags.gid, Some(7));
        assert_eq!(request(&["--group=docker"]).unwrap().flags.gid, Some(999));
        assert!(matches!(
            request(&["--group=none"]),
            Err(InvalidFlag::Group(_))
        ));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        assert!(matches!(
            request(&["--containerd-worker=false"]),
            Err(InvalidFlag::NoWorker)
        ));
        assert!(matches!(
            request(&["--oci-worker=maybe"]),
            Err(InvalidFlag::Switch { .. })
        ));
        assert!(matches!(
            request(&["--containerd-worker-labels=x"]),
            Err(InvalidFlag::Label(_))
        ));
        assert!(request(&["--containerd-worker-gc-keepstorage=1,x"]).is_err());
    }
}
