//! All builds of the daemon: starts them, finds them by id, and sees each one to its end even if its client is gone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shipway_backend::{Networks, Registry, Sessions, Web};
use shipway_cache::KeyStore;
use shipway_engine::Engine;
use shipway_frontend::gateway::Policy;
use shipway_layers::{Layers, Snapshot};
use shipway_model::{Failure, Platform};
use shipway_ops::cdi::CdiDirs;
use shipway_ops::{CacheMounts, DnsConfig, LogLimits};
use shipway_source::ImageResolver;
use shipway_source::local::Mirrors;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::builds::{Builds, Found};
use crate::image_frontend::BridgeServer;
use crate::job::Build;
use crate::recording::{Recorder, Recording};
use crate::request::Request;
use crate::scope::Producers;

/// What builds share.
pub struct Parts {
    /// Schedules all builds' vertices.
    pub engine: Engine<Snapshot>,
    /// The engine's key store, for upkeep.
    pub keys: KeyStore,
    /// Layers of this machine.
    pub layers: Layers,
    /// Registries.
    pub registry: Arc<dyn Registry>,
    /// Files on the web.
    pub web: Arc<dyn Web>,
    /// Finds images.
    pub resolver: Arc<ImageResolver>,
    /// Connected clients.
    pub sessions: Arc<dyn Sessions>,
    /// Mirrors of client directories.
    pub mirrors: Arc<Mirrors>,
    /// Directories of cache mounts.
    pub cache_mounts: Arc<CacheMounts>,
    /// Speaks with frontends in containers.
    pub bridge: Arc<dyn BridgeServer>,
    /// Networks of steps; the host's if there are none.
    pub networks: Option<Arc<dyn Networks>>,
    /// Where results of running builds come from.
    pub producers: Producers,
    /// Remembers builds.
    pub recorder: Arc<Recorder>,
    /// The daemon's settings.
    pub settings: Settings,
}

/// What the daemon's configuration decides for all builds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Snapshotter that unpacked images land in.
    pub snapshotter: String,
    /// Name that containerd knows our own snapshotter by.
    pub own_snapshotter: String,
    /// Platform of this machine.
    pub platform: Platform,
    /// Frontends that builds may ask for.
    pub frontends: Policy,
    /// Entitlements that builds may ask for.
    pub allowed_entitlements: Vec<String>,
    /// Private directory in memory for files of steps.
    pub step_files: PathBuf,
    /// Limits of a step's output.
    pub log_limits: LogLimits,
    /// Name service of steps.
    pub dns: DnsConfig,
    /// Where devices are described.
    pub cdi: CdiDirs,
    /// Distinguishes this daemon's tasks from another's.
    pub instance: String,
    /// Directory on the disk that the cache is on.
    pub disk: PathBuf,
    /// Version of the Dockerfile syntax that the built-in frontend reads.
    pub dockerfile_version: String,
    /// Fields that the operator adds to provenance.
    pub provenance_environment: serde_json::Map<String, serde_json::Value>,
}

/// All builds of the daemon.
pub struct Builder {
    pub(crate) parts: Arc<Parts>,
    builds: Builds<Build>,
    tasks: TaskTracker,
    /// How many builds have been answered and still clean up.
    leaving: watch::Sender<usize>,
    stopping: CancellationToken,
}

/// For how long an upkeep waits for builds that are just leaving.
const LEAVING: Duration = Duration::from_secs(10);

impl Builder {
    /// A builder with nothing to do.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts: Arc::new(parts),
            builds: Builds::default(),
            tasks: TaskTracker::new(),
            leaving: watch::Sender::new(0),
            stopping: CancellationToken::new(),
        })
    }

    /// What builds share.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Runs a request. Dropping the future cancels the build; what it leaves is cleaned up all the same.
    pub async fn solve(
        self: &Arc<Self>,
        request: Request,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let build = Build::open(
            Arc::clone(&self.parts),
            &request,
            self.stopping.child_token(),
        );
        let build = build.await.inspect_err(|_| self.refuse(&request.id))?;
        self.builds.add(build.id(), &build)?;
        let on_drop = build.cancelled().clone().drop_guard();
        let (reply, outcome) = oneshot::channel();
        let builder = Arc::clone(self);
        let mut recording = Recording::begin(&self.parts.recorder, &request);
        self.tasks.spawn(async move {
            let response = build.run(request).await;
            let failure = response.as_ref().err().cloned();
            if let Some(recording) = &mut recording {
                recording.ending();
            }
            builder.leaving.send_modify(|count| *count += 1);
            // A client that is gone takes no reply.
            drop(reply.send(response));
            if let Some(recording) = recording {
                recording.end(&build, failure.as_ref()).await;
            }
            build.clean_up().await;
            builder.builds.ended(build.id());
            builder.leaving.send_modify(|count| *count -= 1);
        });
        let response = outcome
            .await
            .unwrap_or_else(|_| Err(Failure::new("the build ended without an answer")));
        on_drop.disarm();
        response
    }

    /// Notes that the request with this id is refused, so that nobody waits for its build.
    pub fn refuse(&self, id: &str) {
        self.builds.refused(id);
    }

    /// The build of an id, waited for up to `patience`.
    pub async fn find(&self, id: &str, patience: Duration) -> Result<Found<Build>, Failure> {
        self.builds.find(id, patience).await
    }

    /// Cancels all builds and waits for their ends.
    pub async fn shutdown(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.parts.recorder.history.close().await;
        self.parts.engine.shutdown().await;
    }

    /// Waits until builds that have been answered hold nothing any more: what their clients remove next must go.
    pub(crate) async fn settled(&self) {
        let mut leaving = self.leaving.subscribe();
        let none = leaving.wait_for(|count| *count == 0);
        if tokio::time::timeout(LEAVING, none).await.is_err() {
            tracing::warn!("builds that have ended hold on to what they made");
        }
    }

    /// Number of builds that have been answered and are about to end; changes with each.
    #[must_use]
    pub fn leaving(&self) -> watch::Receiver<usize> {
        self.leaving.subscribe()
    }

    /// True where no build runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.builds.is_idle()
    }
}
