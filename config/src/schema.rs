//! The shape of the file: every key that `buildkitd.toml` may have, and our own `[shipway]` table. Keys that nobody
//! knows are refused here, by serde; which known ones are honoured is decided in `unsupported` and `resolve`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;
use toml::Table;

use crate::{DiskSpace, duration};

#[expect(
    clippy::struct_excessive_bools,
    reason = "the keys are the file format\'s"
)]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    pub(crate) debug: bool,
    pub(crate) trace: bool,
    pub(crate) root: Option<PathBuf>,
    #[serde(rename = "insecure-entitlements")]
    pub(crate) insecure_entitlements: Vec<String>,
    #[serde(rename = "proxyNetwork")]
    pub(crate) proxy_network: bool,
    pub(crate) log: Log,
    pub(crate) grpc: Grpc,
    pub(crate) otel: Otel,
    pub(crate) cdi: Cdi,
    pub(crate) worker: Workers,
    pub(crate) registry: BTreeMap<String, Registry>,
    pub(crate) dns: Dns,
    pub(crate) history: Option<History>,
    pub(crate) frontend: Frontends,
    pub(crate) system: System,
    #[serde(rename = "provenanceEnvDir")]
    pub(crate) provenance_env_dir: Option<PathBuf>,
    pub(crate) cache: Table,
    pub(crate) ghacache: Table,
    pub(crate) shipway: Shipway,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    pub(crate) format: Option<String>,
    pub(crate) level: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Grpc {
    pub(crate) address: Vec<String>,
    #[serde(rename = "debugAddress")]
    pub(crate) debug_address: String,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    #[serde(rename = "securityDescriptor")]
    pub(crate) security_descriptor: String,
    pub(crate) tls: GrpcTls,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GrpcTls {
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Otel {
    #[serde(rename = "socketPath")]
    pub(crate) socket_path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Cdi {
    pub(crate) disabled: Option<bool>,
    pub(crate) spec_dirs: Vec<PathBuf>,
    pub(crate) auto_allowed: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Workers {
    /// Accepted as a whole when it is switched off, refused otherwise.
    pub(crate) oci: Option<Table>,
    pub(crate) containerd: Containerd,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "the keys are the file format\'s"
)]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Containerd {
    pub(crate) address: Option<String>,
    pub(crate) enabled: Option<bool>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) platforms: Vec<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) runtime: Runtime,
    pub(crate) gc: Option<bool>,
    pub(crate) gckeepstorage: Option<DiskSpace>,
    pub(crate) reserved_space: Option<DiskSpace>,
    pub(crate) max_used_space: Option<DiskSpace>,
    pub(crate) min_free_space: Option<DiskSpace>,
    pub(crate) gcpolicy: Vec<GcPolicy>,
    pub(crate) network_mode: Option<String>,
    pub(crate) cni_config_path: Option<PathBuf>,
    pub(crate) cni_binary_path: Option<PathBuf>,
    pub(crate) cni_pool_size: Option<usize>,
    pub(crate) bridge_name: Option<String>,
    pub(crate) bridge_subnet: Option<String>,
    pub(crate) snapshotter: Option<String>,
    #[serde(rename = "apparmor-profile")]
    pub(crate) apparmor_profile: String,
    pub(crate) selinux: bool,
    #[serde(rename = "max-parallelism")]
    pub(crate) max_parallelism: Option<usize>,
    pub(crate) default_cgroup_parent: String,
    pub(crate) rootless: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Runtime {
    pub(crate) name: Option<String>,
    pub(crate) path: String,
    pub(crate) options: Table,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct GcPolicy {
    pub(crate) all: bool,
    pub(crate) filters: Vec<String>,
    #[serde(deserialize_with = "duration::optional")]
    pub(crate) keep_duration: Option<Duration>,
    pub(crate) keep_bytes: Option<DiskSpace>,
    pub(crate) reserved_space: Option<DiskSpace>,
    pub(crate) max_used_space: Option<DiskSpace>,
    pub(crate) min_free_space: Option<DiskSpace>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Registry {
    pub(crate) mirrors: Vec<String>,
    pub(crate) http: Option<bool>,
    pub(crate) insecure: Option<bool>,
    pub(crate) ca: Vec<PathBuf>,
    pub(crate) keypair: Vec<KeyPair>,
    pub(crate) tlsconfigdir: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyPair {
    pub(crate) key: PathBuf,
    pub(crate) cert: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Dns {
    pub(crate) nameservers: Vec<String>,
    pub(crate) options: Vec<String>,
    pub(crate) search_domains: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct History {
    #[serde(deserialize_with = "duration::optional")]
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_entries: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Frontends {
    #[serde(rename = "dockerfile.v0")]
    pub(crate) dockerfile: DockerfileFrontend,
    #[serde(rename = "gateway.v0")]
    pub(crate) gateway: GatewayFrontend,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DockerfileFrontend {
    pub(crate) enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct GatewayFrontend {
    pub(crate) enabled: Option<bool>,
    pub(crate) allowed_repositories: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct System {
    #[serde(deserialize_with = "duration::optional")]
    pub(crate) platforms_cache_max_age: Option<Duration>,
    pub(crate) max_registry_concurrency: Option<usize>,
}

/// Keys that BuildKit doesn't have.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Shipway {
    pub(crate) namespaces: Vec<String>,
    pub(crate) socket_dir: Option<PathBuf>,
    pub(crate) hosts_dir: Vec<PathBuf>,
    pub(crate) snapshotter: Snapshotter,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Snapshotter {
    pub(crate) name: Option<String>,
    pub(crate) address: Option<PathBuf>,
    pub(crate) root: Option<PathBuf>,
}
