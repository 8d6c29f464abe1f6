//! Starts the daemon's parts in order, serves, and stops them in reverse.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use shipway_api::{Endpoint, Identity, Repair, StdioBridge, Workers};
use shipway_backend::{BackendError, Host, LayerUpkeep, Networks, Registry};
use shipway_build::{
    Builder, FrontendPolicy, ImagePolicy, Parts, Producers, Recorder, Settings, StoredResults,
};
use shipway_cache::KeyStore;
use shipway_config::{Address, Config, Entitlement, Frontends, GatewayFrontend, Listen, Runtime};
use shipway_containerd::{Containerd, ExecutorKind};
use shipway_engine::Engine;
use shipway_history::{History, Retention};
use shipway_layers::Layers;
use shipway_model::{Digest, Failure, Platform};
use shipway_network::Cni;
use shipway_ops::cdi::CdiDirs;
use shipway_ops::{CacheMounts, DnsConfig, LogLimits};
use shipway_registry::{RegistryClient, WebClient};
use shipway_session::SessionHub;
use shipway_snapshotter::LayerStore;
use shipway_source::ImageResolver;
use shipway_source::local::Mirrors;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity as TlsIdentity, Server, ServerTlsConfig};

use crate::collect;
use crate::listen::{self, Incoming, Inherited};
use crate::repair::Repairer;
use crate::{network, state};

type AnyError = Box<dyn Error + Send + Sync>;

/// Steps at a time where the configuration sets no limit.
const UNLIMITED: usize = 1 << 20;

/// Stream windows of HTTP/2: contexts and blobs travel over these connections.
const WINDOW: u32 = 4 << 20;

/// Runs the daemon until a signal ends it.
pub(crate) async fn run(config: Config) -> Result<(), AnyError> {
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::debug!("a TLS provider is installed already");
    }
    state::raise_file_limit().map_err(|e| format!("raising the limit of open files: {e}"))?;
    let mut inherited = Inherited::take();
    std::fs::create_dir_all(&config.root)
        .map_err(|e| format!("making the root directory {}: {e}", config.root.display()))?;
    let stopping = CancellationToken::new();
    let mut services = JoinSet::new();

    let plugin = &config.snapshotter;
    let store = LayerStore::open(&plugin.root)?;
    let listener = match inherited.unix(Some("snapshotter"))? {
        Some(listener) => listener,
        None => listen::unix(&plugin.address, None, None)?,
    };
    services.spawn(snapshots(store.clone(), listener, stopping.clone()));

    let daemon = Daemon::assemble(&config, store).await?;
    daemon
        .serve(&config, &mut inherited, &stopping, &mut services)
        .await?;
    tracing::info!(root = %config.root.display(), "serving");
    let outcome = tokio::select! {
        () = signalled() => Ok(()),
        ended = services.join_next() => match ended {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => Err(error.into()),
            None => Ok(()),
        },
    };
    tracing::info!("stopping");
    daemon.builder.shutdown().await;
    // What a build has committed shall outlive an orderly reboot.
    let upkeep = daemon.builder.parts().layers.clone();
    tokio::task::spawn_blocking(move || upkeep.upkeep().sync()).await??;
    daemon.hub.close().await;
    stopping.cancel();
    while let Some(ended) = services.join_next().await {
        ended??;
    }
    daemon.containerd.drain().await;
    state::remove_private_dir(&daemon.private)
        .map_err(|e| format!("removing {}: {e}", daemon.private.display()))?;
    outcome
}

async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = async |kind| match signal(kind) {
        Ok(mut signals) => {
            signals.recv().await;
        }
        Err(error) => {
            tracing::error!(%error, "a signal cannot be waited for");
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}

async fn snapshots(
    store: LayerStore,
    listener: UnixListener,
    stopping: CancellationToken,
) -> Result<(), AnyError> {
    shipway_snapshotter::serve(store, listener, stopping.cancelled_owned()).await?;
    Ok(())
}

/// The daemon's parts.
struct Daemon {
    containerd: Arc<Containerd>,
    builder: Arc<Builder>,
    hub: Arc<SessionHub>,
    identity: Arc<Identity>,
    repairer: Arc<Repairer>,
    network: Option<Cni>,
    /// What passes through memory only.
    private: std::path::PathBuf,
}

/// The private directory, and containerd without what an earlier daemon left in it.
async fn ready(
    config: &Config,
    instance: &str,
) -> Result<(std::path::PathBuf, Arc<Containerd>), AnyError> {
    let private = state::private_dir(&config.root, instance)
        .map_err(|e| format!("making a private directory: {e}"))?;
    let containerd = connect(config, &private, instance).await?;
    clean_up(config, &containerd).await?;
    let swept = instance.to_owned();
    tokio::task::spawn_blocking(move || state::sweep_cgroups(&swept)).await?;
    Ok((private, containerd))
}

impl Daemon {
    async fn assemble(config: &Config, store: LayerStore) -> Result<Self, AnyError> {
        let instance = state::instance(&config.root);
        let (private, containerd) = ready(config, &instance).await?;
        let network = network::open(config).await?;
        let registry = registry(config);
        let repairer = Arc::new(Repairer {
            store: store.clone(),
            host: Arc::clone(&containerd) as Arc<dyn Host>,
            snapshotter: config.snapshotter.name.clone(),
            busy: tokio::sync::Mutex::default(),
        });
        let store = Arc::new(store);
        let upkeep: Arc<dyn LayerUpkeep> = store.clone();
        let layers = Layers::new(store.clone(), Arc::clone(&upkeep))?;
        state::drop_foreign_cache(&config.root, store.identity())
            .map_err(|e| format!("dropping the cache of another layer store: {e}"))?;
        let keys = KeyStore::open(&config.root.join(state::CACHE))?;
        let results = StoredResults::new(layers.clone(), Arc::clone(&registry));
        let engine = Engine::new(keys.clone(), Arc::new(results), limits(config));
        let resolver = ImageResolver::new(Arc::clone(&registry), upkeep.scratch_dir("manifests")?);
        let hub = SessionHub::new();
        let identity = Arc::new(Identity {
            network: if network.is_some() { "cni" } else { "host" }.to_owned(),
            executor: containerd.executor_kind().to_string(),
            ..identity(config)?
        });
        let step_files = step_files(&private)?;
        let workers = Workers {
            host: Arc::clone(&containerd) as Arc<dyn Host>,
            identity: Arc::clone(&identity),
        };
        let builder = Builder::new(Parts {
            engine,
            keys,
            layers,
            registry,
            web: Arc::new(web()?),
            resolver: Arc::new(resolver),
            sessions: hub.clone(),
            mirrors: Arc::new(Mirrors::new(upkeep.scratch_dir("mirrors")?)),
            cache_mounts: CacheMounts::new(upkeep.scratch_dir("cache-mounts")?),
            bridge: Arc::new(StdioBridge(workers)),
            networks: network
                .clone()
                .map(|cni| Arc::new(cni) as Arc<dyn Networks>),
            recorder: Arc::new(recorder(config, &containerd)?),
            producers: Producers::default(),
            settings: settings(config, step_files, instance)?,
        });
        builder.sweep().await?;
        Ok(Self {
            containerd,
            builder,
            hub,
            identity,
            repairer,
            network,
            private,
        })
    }

    async fn serve(
        &self,
        config: &Config,
        inherited: &mut Inherited,
        stopping: &CancellationToken,
        services: &mut JoinSet<Result<(), AnyError>>,
    ) -> Result<(), AnyError> {
        for address in &config.listen.addresses {
            let incoming = listen::open(address, &config.listen, inherited).await?;
            let endpoint = self.endpoint(&config.worker.namespace);
            let tls = tls(&config.listen)?;
            services.spawn(serve(endpoint, incoming, tls, stopping.clone()));
        }
        if config.worker.gc.enabled {
            let (settings, root) = (config.worker.gc.clone(), config.snapshotter.root.clone());
            let (builder, stopping) = (Arc::clone(&self.builder), stopping.clone());
            services.spawn(async move {
                collect::run(settings, root, builder, stopping).await;
                Ok(())
            });
        }
        let (builder, ending) = (Arc::clone(&self.builder), stopping.clone());
        services.spawn(async move {
            collect::return_memory(builder, ending).await;
            Ok(())
        });
        if let Some(network) = self.network.clone() {
            let stopping = stopping.clone();
            services.spawn(async move {
                network.maintain(stopping).await;
                Ok(())
            });
        }
        let namespaces = namespaces(config);
        let (history, ending) = (
            Arc::clone(&self.builder.parts().recorder.history),
            stopping.clone(),
        );
        services.spawn(async move {
            collect::forget(history, namespaces, ending).await;
            Ok(())
        });
        for socket in &config.namespaces {
            let address = Address::Unix(socket.path.clone());
            let incoming = listen::open(&address, &config.listen, inherited).await?;
            let endpoint = self.endpoint(&socket.namespace);
            services.spawn(serve(endpoint, incoming, None, stopping.clone()));
        }
        Ok(())
    }

    fn endpoint(&self, namespace: &str) -> Endpoint {
        Endpoint {
            builder: Arc::clone(&self.builder),
            hub: Arc::clone(&self.hub),
            host: Arc::clone(&self.containerd) as Arc<dyn Host>,
            namespace: self.containerd.namespace(namespace),
            identity: Arc::clone(&self.identity),
            repair: Arc::clone(&self.repairer) as Arc<dyn Repair>,
        }
    }
}

/// How much the engine does at a time.
fn limits(config: &Config) -> shipway_engine::Config {
    shipway_engine::Config {
        max_parallelism: config.worker.max_parallelism.unwrap_or(UNLIMITED),
        ..shipway_engine::Config::default()
    }
}

/// The directory for secrets and sockets of steps.
fn step_files(private: &Path) -> Result<std::path::PathBuf, String> {
    let dir = private.join("steps");
    let made = std::fs::create_dir(&dir);
    made.map_err(|e| format!("making {}: {e}", dir.display()))?;
    Ok(dir)
}

fn recorder(config: &Config, containerd: &Arc<Containerd>) -> Result<Recorder, AnyError> {
    let retention = Retention {
        max_age: config.history.max_age,
        max_entries: config.history.max_entries,
    };
    let host = Arc::clone(containerd) as Arc<dyn Host>;
    Ok(Recorder {
        history: History::open(&config.root.join("history.db"), host, retention)?,
        format: Arc::new(shipway_api::wire::history::Format),
    })
}

async fn connect(
    config: &Config,
    private: &Path,
    instance: &str,
) -> Result<Arc<Containerd>, AnyError> {
    let settings = shipway_containerd::Settings {
        socket: config.worker.address.clone(),
        state: private.to_owned(),
        instance: instance.to_owned(),
        runtime: shipway_step::RUNTIME.to_owned(),
        step_tasks: config.worker.runtime == Runtime::Runc,
        cgroup_parent: "/shipway".to_owned(),
    };
    let containerd = Containerd::connect(settings).await?;
    let kind = containerd.executor_kind();
    if config.worker.runtime == Runtime::Shipway && kind != ExecutorKind::BuildTask {
        let version = containerd.version();
        return Err(format!(
            "worker.containerd.runtime.name: containerd {version} cannot start {}, leave it at \"auto\"",
            shipway_step::RUNTIME
        )
        .into());
    }
    Ok(Arc::new(containerd))
}

/// Every namespace that is served.
fn namespaces(config: &Config) -> Vec<String> {
    let own = std::iter::once(config.worker.namespace.clone());
    let others = config.namespaces.iter();
    let mut all: Vec<String> = own.chain(others.map(|s| s.namespace.clone())).collect();
    all.sort();
    all.dedup();
    all
}

/// Removes what an earlier daemon left behind in each namespace that is served.
async fn clean_up(config: &Config, containerd: &Containerd) -> Result<(), BackendError> {
    for name in namespaces(config) {
        let namespace = containerd.namespace(&name);
        namespace.executor.clean_up().await?;
        namespace.leases.clean_up().await?;
    }
    Ok(())
}

fn registry(config: &Config) -> Arc<dyn Registry> {
    let defaults = shipway_registry::Settings::default();
    Arc::new(RegistryClient::new(shipway_registry::Settings {
        hosts: config.registries.clone(),
        hosts_dirs: config.hosts_dirs.clone(),
        concurrency: config
            .system
            .max_registry_concurrency
            .unwrap_or(defaults.concurrency),
        ..defaults
    }))
}

fn web() -> Result<WebClient, BackendError> {
    let limits = shipway_registry::Settings::default();
    WebClient::new(limits.connect_timeout, limits.stall_timeout)
}

fn settings(
    config: &Config,
    step_files: std::path::PathBuf,
    instance: String,
) -> Result<Settings, AnyError> {
    let allowed = config
        .entitlements
        .iter()
        .map(|entitlement| match entitlement {
            Entitlement::NetworkHost => "network.host",
            Entitlement::SecurityInsecure => "security.insecure",
            Entitlement::Device => "device",
        });
    // As BuildKit: a build may ask for devices wherever there may be any.
    let allowed = allowed.chain(config.cdi.enabled.then_some("device"));
    Ok(Settings {
        snapshotter: config.worker.snapshotter.clone(),
        own_snapshotter: config.snapshotter.name.clone(),
        platform: Platform::host(),
        frontends: frontends(&config.frontends),
        allowed_entitlements: allowed.map(str::to_owned).collect(),
        step_files,
        log_limits: log_limits(),
        cdi: cdi(config),
        dns: DnsConfig {
            nameservers: config.dns.nameservers.clone(),
            search_domains: config.dns.search_domains.clone(),
            options: config.dns.options.clone(),
        },
        instance,
        disk: config.snapshotter.root.clone(),
        dockerfile_version: shipway_api::DOCKERFILE_SYNTAX.to_owned(),
        provenance_environment: state::provenance_environment(&config.provenance_env_dir)?,
    })
}

/// The frontends that the configuration allows.
fn frontends(configured: &Frontends) -> FrontendPolicy {
    FrontendPolicy {
        dockerfile: configured.dockerfile,
        images: match &configured.gateway {
            GatewayFrontend::Disabled => ImagePolicy::Nobody,
            GatewayFrontend::Any => ImagePolicy::Anybody,
            GatewayFrontend::Only(repositories) => ImagePolicy::Only(repositories.clone()),
        },
    }
}

/// Limits of step output, from the variables that buildkitd reads; -1 is no limit.
fn log_limits() -> LogLimits {
    let defaults = LogLimits::default();
    let limit = |name: &str, default: Option<usize>| match std::env::var(name) {
        Ok(text) => text
            .parse::<i64>()
            .map_or(default, |n| usize::try_from(n).ok()),
        Err(_) => default,
    };
    LogLimits {
        total: limit("BUILDKIT_STEP_LOG_MAX_SIZE", defaults.total),
        per_second: limit("BUILDKIT_STEP_LOG_MAX_SPEED", defaults.per_second),
    }
}

fn identity(config: &Config) -> Result<Identity, AnyError> {
    let platforms: Result<Vec<Platform>, _> = config
        .worker
        .platforms
        .iter()
        .map(|text| text.parse())
        .collect();
    let labels: BTreeMap<String, String> = config.worker.labels.clone();
    Ok(Identity {
        worker: state::worker_id(&config.root)?,
        labels,
        snapshotter: config.worker.snapshotter.clone(),
        hostname: state::hostname(),
        network: String::new(),
        executor: String::new(),
        platforms: platforms?,
        cdi: cdi(config),
        package: "github.com/shipway/shipway".to_owned(),
        version: format!("v{}", env!("CARGO_PKG_VERSION")),
        revision: Digest::of(env!("CARGO_PKG_VERSION")).hex()[..12].to_owned(),
    })
}

/// Where devices are described.
fn cdi(config: &Config) -> CdiDirs {
    let dirs = &config.cdi.spec_dirs;
    CdiDirs(config.cdi.enabled.then(|| dirs.clone()))
}

fn tls(listen: &Listen) -> Result<Option<ServerTlsConfig>, AnyError> {
    let Some(tls) = &listen.tls else {
        return Ok(None);
    };
    let read = |path: &Path| {
        std::fs::read(path)
            .map_err(|e| Failure::from_error(&e).context(format!("reading {}", path.display())))
    };
    let identity = TlsIdentity::from_pem(read(&tls.cert)?, read(&tls.key)?);
    let mut config = ServerTlsConfig::new().identity(identity);
    if let Some(ca) = &tls.client_ca {
        config = config.client_ca_root(Certificate::from_pem(read(ca)?));
    }
    Ok(Some(config))
}

async fn serve(
    endpoint: Endpoint,
    incoming: Incoming,
    tls: Option<ServerTlsConfig>,
    stopping: CancellationToken,
) -> Result<(), AnyError> {
    let mut server = Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        // Clients send as many headers as a context has patterns.
        .http2_max_header_list_size(1 << 20);
    let until = stopping.cancelled_owned();
    match incoming {
        Incoming::Unix(incoming) => {
            server
                .add_routes(endpoint.routes())
                .serve_with_incoming_shutdown(incoming, until)
                .await?;
        }
        Incoming::Tcp(incoming) => {
            if let Some(tls) = tls {
                server = server.tls_config(tls)?;
            }
            server
                .add_routes(endpoint.routes())
                .serve_with_incoming_shutdown(incoming, until)
                .await?;
        }
    }
    Ok(())
}
