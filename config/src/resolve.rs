//! From the file's keys and the command line to the configuration that the daemon runs with.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    Address, Cdi, Config, ConfigError, DEFAULT_ADDRESS, DEFAULT_ROOT, DEFAULT_SNAPSHOTTER_SOCKET,
    Dns, Entitlement, Flags, Frontends, GatewayFrontend, History, KeyPair, Listen, Log, LogFormat,
    LogLevel, NamespaceSocket, Registry, SnapshotterPlugin, System, Tls, Worker, schema,
    unsupported, worker::checked_namespace,
};

impl Config {
    /// Reads `path`, lets `flags` override it and checks the result. A file that isn't there counts as empty if
    /// `path` is only the default place.
    pub fn load(path: &Path, required: bool, flags: &Flags) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path, flags),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => {
                Self::parse("", path, flags)
            }
            Err(source) => Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// As `load`, from the file's text; `path` is for messages only.
    pub fn parse(text: &str, path: &Path, flags: &Flags) -> Result<Self, ConfigError> {
        let file: schema::File = toml::from_str(text).map_err(|e| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(e),
        })?;
        unsupported::check(&file)?;
        if flags.oci_worker == Some(true) {
            let reason = "only the containerd worker exists";
            return Err(ConfigError::Unsupported {
                key: "--oci-worker".to_owned(),
                reason,
            });
        }
        resolve(file, flags)
    }
}

fn resolve(file: schema::File, flags: &Flags) -> Result<Config, ConfigError> {
    let root = flags
        .root
        .clone()
        .or(file.root.clone())
        .unwrap_or_else(|| DEFAULT_ROOT.into());
    Ok(Config {
        log: log(&file, flags)?,
        listen: listen(&file.grpc, flags)?,
        namespaces: namespaces(&file.shipway)?,
        hosts_dirs: file.shipway.hosts_dir,
        snapshotter: snapshotter(file.shipway.snapshotter, flags, &root),
        worker: Worker::resolve(file.worker.containerd, flags)?,
        entitlements: entitlements(&file.insecure_entitlements, flags)?,
        provenance_env_dir: file
            .provenance_env_dir
            .unwrap_or_else(|| "/etc/buildkit/provenance.d".into()),
        dns: Dns {
            nameservers: file.dns.nameservers,
            options: file.dns.options,
            search_domains: file.dns.search_domains,
        },
        otel_socket: flags.otel_socket.clone().or(file.otel.socket_path),
        cdi: cdi(&file.cdi, flags),
        history: history(file.history),
        registries: file
            .registry
            .into_iter()
            .map(|(host, raw)| (host, raw.into()))
            .collect(),
        frontends: file.frontend.into(),
        system: system(&file.system)?,
        root,
    })
}

fn snapshotter(written: schema::Snapshotter, flags: &Flags, root: &Path) -> SnapshotterPlugin {
    let address = flags.snapshotter_socket.clone().or(written.address);
    SnapshotterPlugin {
        name: written.name.unwrap_or_else(|| "shipway".to_owned()),
        address: address.unwrap_or_else(|| DEFAULT_SNAPSHOTTER_SOCKET.into()),
        root: written.root.unwrap_or_else(|| root.join("layers")),
    }
}

fn system(written: &schema::System) -> Result<System, ConfigError> {
    let maximum = written.max_registry_concurrency;
    if maximum == Some(0) {
        let key = "system.maxRegistryConcurrency";
        return Err(ConfigError::value(key, "0", "a number greater than zero"));
    }
    Ok(System {
        platforms_cache_max_age: written.platforms_cache_max_age,
        max_registry_concurrency: maximum,
    })
}

fn cdi(written: &schema::Cdi, flags: &Flags) -> Cdi {
    let dirs = if flags.cdi_spec_dirs.is_empty() {
        &written.spec_dirs
    } else {
        &flags.cdi_spec_dirs
    };
    let defaults = || {
        ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"]
            .map(PathBuf::from)
            .to_vec()
    };
    Cdi {
        enabled: !flags.cdi_disabled.or(written.disabled).unwrap_or(false),
        spec_dirs: if dirs.is_empty() {
            defaults()
        } else {
            dirs.clone()
        },
    }
}

/// BuildKit keeps 50 builds for two days where nothing is said, and no bound that isn't written where something is.
fn history(written: Option<schema::History>) -> History {
    match written {
        None => History {
            max_age: Some(Duration::from_hours(48)),
            max_entries: Some(50),
        },
        Some(raw) => History {
            max_age: raw.max_age,
            max_entries: raw.max_entries,
        },
    }
}

fn log(file: &schema::File, flags: &Flags) -> Result<Log, ConfigError> {
    let older = if file.trace {
        "trace"
    } else if file.debug {
        "debug"
    } else {
        "info"
    };
    let level = flags
        .log_level
        .as_deref()
        .or(file.log.level.as_deref())
        .unwrap_or(older);
    let level = match level {
        "panic" | "fatal" | "error" => LogLevel::Error,
        "warn" | "warning" => LogLevel::Warn,
        "info" | "" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        other => {
            return Err(ConfigError::value(
                "log.level",
                other,
                "error, warn, info, debug or trace",
            ));
        }
    };
    let format = match flags
        .log_format
        .as_deref()
        .or(file.log.format.as_deref())
        .unwrap_or("text")
    {
        "text" | "" => LogFormat::Text,
        "json" => LogFormat::Json,
        other => return Err(ConfigError::value("log.format", other, "text or json")),
    };
    Ok(Log { level, format })
}

fn listen(grpc: &schema::Grpc, flags: &Flags) -> Result<Listen, ConfigError> {
    let mut written = if flags.addresses.is_empty() {
        grpc.address.clone()
    } else {
        flags.addresses.clone()
    };
    if written.is_empty() {
        written.push(DEFAULT_ADDRESS.to_owned());
    }
    let parse = |text: &String| {
        text.parse::<Address>()
            .map_err(|source| ConfigError::Address {
                key: "grpc.address".to_owned(),
                source,
            })
    };
    Ok(Listen {
        addresses: written.iter().map(parse).collect::<Result<_, _>>()?,
        uid: grpc.uid,
        gid: flags.gid.or(grpc.gid),
        tls: tls(grpc, flags)?,
    })
}

fn tls(grpc: &schema::Grpc, flags: &Flags) -> Result<Option<Tls>, ConfigError> {
    let either =
        |flag: &Option<PathBuf>, key: &Option<PathBuf>| flag.clone().or_else(|| key.clone());
    let cert = either(&flags.tls_cert, &grpc.tls.cert);
    let key = either(&flags.tls_key, &grpc.tls.key);
    let client_ca = either(&flags.tls_ca, &grpc.tls.ca);
    match (cert, key, client_ca) {
        (Some(cert), Some(key), client_ca) => Ok(Some(Tls {
            cert,
            key,
            client_ca,
        })),
        (None, None, None) => Ok(None),
        _ => Err(ConfigError::value(
            "grpc.tls",
            "one file without the other",
            "both cert and key",
        )),
    }
}

fn namespaces(shipway: &schema::Shipway) -> Result<Vec<NamespaceSocket>, ConfigError> {
    let dir = shipway.socket_dir.clone().unwrap_or_else(|| "/run".into());
    let mut sockets = Vec::with_capacity(shipway.namespaces.len());
    for name in &shipway.namespaces {
        let namespace = checked_namespace("shipway.namespaces", name.clone())?;
        // nerdctl looks for a namespace's own BuildKit under exactly this name.
        let path = dir
            .join(format!("buildkit-{namespace}"))
            .join("buildkitd.sock");
        sockets.push(NamespaceSocket { namespace, path });
    }
    Ok(sockets)
}

fn entitlements(written: &[String], flags: &Flags) -> Result<BTreeSet<Entitlement>, ConfigError> {
    let names = if flags.entitlements.is_empty() {
        written
    } else {
        &flags.entitlements
    };
    let parse = |name: &String| match name.as_str() {
        "network.host" => Ok(Entitlement::NetworkHost),
        "security.insecure" => Ok(Entitlement::SecurityInsecure),
        "device" => Ok(Entitlement::Device),
        other => Err(ConfigError::value(
            "insecure-entitlements",
            other,
            "network.host, security.insecure or device",
        )),
    };
    names.iter().map(parse).collect()
}

impl From<schema::Registry> for Registry {
    fn from(raw: schema::Registry) -> Self {
        Self {
            mirrors: raw.mirrors,
            plain_http: raw.http,
            insecure: raw.insecure.unwrap_or(false),
            authorities: raw.ca,
            key_pairs: raw
                .keypair
                .into_iter()
                .map(|pair| KeyPair {
                    key: pair.key,
                    cert: pair.cert,
                })
                .collect(),
        }
    }
}

impl From<schema::Frontends> for Frontends {
    fn from(raw: schema::Frontends) -> Self {
        let repositories = raw.gateway.allowed_repositories;
        let gateway = match raw.gateway.enabled {
            Some(false) => GatewayFrontend::Disabled,
            _ if repositories.is_empty() => GatewayFrontend::Any,
            _ => GatewayFrontend::Only(repositories),
        };
        Self {
            dockerfile: raw.dockerfile.enabled.unwrap_or(true),
            gateway,
        }
    }
}
