//! What the daemon can be told, as types: every value here is valid, and every key of the file that is honoured is
//! somewhere here. How they come about is decided in `resolve`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use crate::{Address, Worker};

/// Everything that the daemon can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where state is kept.
    pub root: PathBuf,
    /// What is logged, and how.
    pub log: Log,
    /// Where clients connect to build in `worker.namespace`.
    pub listen: Listen,
    /// One more socket for each of these namespaces.
    pub namespaces: Vec<NamespaceSocket>,
    /// The Snapshots service that containerd connects to.
    pub snapshotter: SnapshotterPlugin,
    /// The containerd that is built in.
    pub worker: Worker,
    /// What builds may be granted beyond the ordinary.
    pub entitlements: BTreeSet<Entitlement>,
    /// Files here are added to the provenance of builds.
    pub provenance_env_dir: PathBuf,
    /// What steps find in their `resolv.conf`; the host's where empty.
    pub dns: Dns,
    /// Where clients' traces are collected, if anywhere.
    pub otel_socket: Option<PathBuf>,
    /// Devices by their CDI names.
    pub cdi: Cdi,
    /// How many finished builds are remembered.
    pub history: History,
    /// How registries are reached, by host.
    pub registries: BTreeMap<String, Registry>,
    /// Where containerd's `<host>/hosts.toml` are looked for, for hosts that are not among `registries`.
    pub hosts_dirs: Vec<PathBuf>,
    /// Which frontends may be asked for.
    pub frontends: Frontends,
    /// Limits towards the outside.
    pub system: System,
}

/// What is logged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// Less important messages are left out.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}

/// Importance of a log message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something failed that should not.
    Error,
    /// Something is odd.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// At least one.
    pub addresses: Vec<Address>,
    /// Owner of the unix sockets; the daemon's own if absent.
    pub uid: Option<u32>,
    /// Group of the unix sockets; the daemon's own if absent.
    pub gid: Option<u32>,
    /// For TCP addresses.
    pub tls: Option<Tls>,
}

/// How the server proves who it is, and whom it believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM certificate chain.
    pub cert: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// PEM certificates that clients must be signed by; clients need none if absent.
    pub client_ca: Option<PathBuf>,
}

/// A socket whose clients build in a namespace of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceSocket {
    /// containerd namespace.
    pub namespace: String,
    /// The unix socket.
    pub path: PathBuf,
}

/// The Snapshots service that containerd connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotterPlugin {
    /// The name that containerd's configuration gives it.
    pub name: String,
    /// The unix socket that containerd's configuration names.
    pub address: PathBuf,
    /// Where layers are kept; must be able to hold an overlay's upper directory.
    pub root: PathBuf,
}

/// What a build may be granted beyond the ordinary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// The host's network in steps that ask for it.
    NetworkHost,
    /// Steps without confinement.
    SecurityInsecure,
    /// Devices of the host.
    Device,
}

/// The contents of `resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Servers' addresses.
    pub nameservers: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
    /// Domains to search.
    pub search_domains: Vec<String>,
}

/// Container Device Interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cdi {
    /// Whether devices may be named at all.
    pub enabled: bool,
    /// Where specifications are looked for.
    pub spec_dirs: Vec<PathBuf>,
}

/// How many finished builds are remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Older ones are forgotten.
    pub max_age: Option<Duration>,
    /// More are forgotten, oldest first; 0 records nothing.
    pub max_entries: Option<u64>,
}

/// How one registry host is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry {
    /// `host[:port][/path]`, tried in order before the host itself.
    pub mirrors: Vec<String>,
    /// Plain HTTP; decided by the host's name (localhost) if absent.
    pub plain_http: Option<bool>,
    /// Certificates are not verified.
    pub insecure: bool,
    /// PEM files with further authorities.
    pub authorities: Vec<PathBuf>,
    /// Client certificates.
    pub key_pairs: Vec<KeyPair>,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// PEM private key.
    pub key: PathBuf,
    /// PEM certificate.
    pub cert: PathBuf,
}

/// Which frontends may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontends {
    /// `dockerfile.v0`, the one that is built in.
    pub dockerfile: bool,
    /// `gateway.v0`, frontends from images.
    pub gateway: GatewayFrontend,
}

/// Which images may serve as frontends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayFrontend {
    /// None.
    Disabled,
    /// Any.
    Any,
    /// Those of these repositories.
    Only(Vec<String>),
}

/// Limits towards the outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct System {
    /// How long a list of the platforms that can be emulated stays good.
    pub platforms_cache_max_age: Option<Duration>,
    /// Requests at once to one registry.
    pub max_registry_concurrency: Option<usize>,
}
