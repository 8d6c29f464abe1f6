//! The daemon's command line as plain values: what a flag sets overrides what the file says. Parsing the words of the
//! command line is the binary's work; which flags exist and what they mean is decided here.

use std::{path::PathBuf, str::FromStr};

use crate::{ConfigError, DiskSpace};

/// What the command line says; a value that wasn't given is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--root`
    pub root: Option<PathBuf>,
    /// `--addr`, repeatable
    pub addresses: Vec<String>,
    /// `--group`, as a number
    pub gid: Option<u32>,
    /// `--debug`, `--trace` or `--log-level`, the last one given
    pub log_level: Option<String>,
    /// `--log-format`
    pub log_format: Option<String>,
    /// `--tlscert`
    pub tls_cert: Option<PathBuf>,
    /// `--tlskey`
    pub tls_key: Option<PathBuf>,
    /// `--tlscacert`
    pub tls_ca: Option<PathBuf>,
    /// `--allow-insecure-entitlement`, repeatable; replaces the file's list
    pub entitlements: Vec<String>,
    /// `--otel-socket-path`
    pub otel_socket: Option<PathBuf>,
    /// `--cdi-disabled`
    pub cdi_disabled: Option<bool>,
    /// `--cdi-spec-dir`, repeatable
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// `--containerd-worker-addr`
    pub containerd: Option<String>,
    /// `--containerd-worker-labels`, repeatable; added to the file's
    pub labels: Vec<(String, String)>,
    /// `--containerd-worker-platform`, repeatable
    pub platforms: Vec<String>,
    /// `--containerd-worker-namespace`
    pub namespace: Option<String>,
    /// `--containerd-worker-runtime`
    pub runtime: Option<String>,
    /// `--containerd-worker-net`
    pub network: Option<String>,
    /// `--containerd-cni-config-path`
    pub cni_config: Option<PathBuf>,
    /// `--containerd-cni-binary-dir`
    pub cni_binaries: Option<PathBuf>,
    /// `--containerd-cni-pool-size`
    pub cni_pool_size: Option<usize>,
    /// `--containerd-worker-snapshotter`
    pub snapshotter: Option<String>,
    /// `--containerd-max-parallelism`
    pub max_parallelism: Option<usize>,
    /// `--containerd-worker-gc`
    pub gc: Option<bool>,
    /// `--containerd-worker-gc-keepstorage`
    pub gc_limits: Option<GcLimits>,
    /// `--snapshotter-socket`, ours
    pub snapshotter_socket: Option<PathBuf>,
    /// `--oci-worker`: BuildKit's other worker, which is not to be asked for
    pub oci_worker: Option<bool>,
}

/// `Reserved[,Free[,Maximum]]`, in MB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcLimits {
    /// Usage below this is never collected.
    pub reserved: DiskSpace,
    /// So much of the disk is to stay free.
    pub free: Option<DiskSpace>,
    /// Usage above this is collected.
    pub maximum: Option<DiskSpace>,
}

const KEEP_STORAGE: &str = "--containerd-worker-gc-keepstorage";

impl FromStr for GcLimits {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let invalid = || ConfigError::value(KEEP_STORAGE, text, "Reserved[,Free[,Maximum]] in MB");
        let mut parts = Vec::with_capacity(3);
        for part in text.split(',') {
            let megabytes = part.parse::<u64>().map_err(|_| invalid())?;
            parts.push(DiskSpace::Bytes(
                megabytes.checked_mul(1_000_000).ok_or_else(invalid)?,
            ));
        }
        match *parts.as_slice() {
            [reserved] => Ok(Self {
                reserved,
                free: None,
                maximum: None,
            }),
            [reserved, free] => Ok(Self {
                reserved,
                free: Some(free),
                maximum: None,
            }),
            [reserved, free, maximum] => Ok(Self {
                reserved,
                free: Some(free),
                maximum: Some(maximum),
            }),
            _ => Err(invalid()),
        }
    }
}
