//! One build: gets results from its plan, evaluates them, hands them to exporters, and cleans up behind itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::{BoxFuture, try_join_all};
use jiff::Timestamp;
use parking_lot::Mutex;
use shipway_attest::Attestations;
use shipway_backend::Namespace;
use shipway_engine::{Edge, Graph, Job, JobId, JobSpec};
use shipway_export::Exporter;
use shipway_frontend::dockerfile::Dockerfile;
use shipway_frontend::{
    Bridge as _, Frontend as _, FrontendRequest, FrontendResult, Ref, Refs, SolveOptions, gateway,
};
use shipway_layers::Snapshot;
use shipway_model::failure::FailureKind;
use shipway_model::progress::Sink;
use shipway_model::{Definition, Failure, FailureDetail};
use shipway_ops::cdi::DeviceGrants;
use shipway_ops::graph::{Entitlements, Judge};
use shipway_ops::{Eager, FailedStep, OpsEnv, graph as operations};
use shipway_source::env::SandboxSlot;
use shipway_source::{Env, LeaseSlot};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::builder::Parts;
use crate::cache::Caches;
use crate::conversation::Conversation;
use crate::explain::explain;
use crate::judging::Judges;
use crate::lookup::SourceLookup;
use crate::policy::Policies;
use crate::progress::Progress;
use crate::recording::Made;
use crate::request::{Plan, Request};
use crate::scope::{Question, Registered, Scope};
use crate::scoped::Scoped;

/// One build.
pub struct Build {
    id: String,
    pub(crate) parts: Arc<Parts>,
    pub(crate) session: String,
    pub(crate) progress: Arc<Progress>,
    pub(crate) ops: Arc<OpsEnv>,
    job: Mutex<Option<Arc<Job<Snapshot>>>>,
    pub(crate) caches: Caches,
    pub(crate) judges: Arc<Judges>,
    refs: Mutex<HashMap<Arc<str>, Arc<RefState>>>,
    /// Results behind failed steps' mounts, by the ids that their failures name.
    failed: Mutex<HashMap<Arc<str>, Snapshot>>,
    /// The client's own conversation over the bridge.
    conversation: Arc<Conversation>,
    /// Frontends in containers.
    pub(crate) tasks: TaskTracker,
    cancelled: CancellationToken,
    pub(crate) made: Mutex<Made>,
    /// What the build as a whole was asked.
    question: Question,
    /// The client's own solves.
    root: Arc<Scope>,
    pub(crate) registered: Mutex<Vec<Registered>>,
    /// Attestations that are wanted.
    pub(crate) wanted: Attestations,
    started: Timestamp,
    /// Names it in its provenance.
    invocation: String,
    finished: Mutex<Option<FrontendResult>>,
}

/// A lazy result.
pub(crate) struct RefState {
    pub(crate) definition: Arc<Definition>,
    pub(crate) graph: Graph<Snapshot>,
    pub(crate) target: Edge,
    /// Who asked for it.
    pub(crate) scope: Arc<Scope>,
    value: OnceCell<Snapshot>,
}

impl RefState {
    /// True where its files are known.
    pub(crate) fn has_run(&self) -> bool {
        self.value.get().is_some()
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A name that nothing else in the daemon has.
pub(crate) fn unique(prefix: &str) -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{prefix}{}-{number}",
        jiff::Timestamp::now().as_nanosecond()
    )
}

impl Build {
    pub(crate) async fn open(
        parts: Arc<Parts>,
        request: &Request,
        cancelled: CancellationToken,
    ) -> Result<Arc<Self>, Failure> {
        let (entitlements, devices) = entitlements(request, &parts.settings.allowed_entitlements)?;
        let caches = check(request)?;
        let wanted = Attestations::parse(&request.options)
            .map_err(|e| Failure::of_kind(FailureKind::InvalidArgument, e.to_string()))?;
        let lease = LeaseSlot::open(request.namespace.clone()).await?;
        let (ops, judges) = surroundings(&parts, request, lease, (entitlements, devices));
        let progress = Arc::new(Progress::default());
        let sessions = Some(request.session.as_str()).filter(|id| !id.is_empty());
        let job = parts.engine.job(JobSpec {
            id: JobId::new(request.id.as_str()),
            sessions: sessions.into_iter().map(Arc::from).collect(),
            progress: Arc::clone(&progress) as Arc<dyn Sink>,
        });
        let root = Scope::root();
        Ok(Arc::new(Self {
            id: request.id.clone(),
            parts,
            session: request.session.clone(),
            progress,
            ops,
            job: Mutex::new(Some(Arc::new(job))),
            caches,
            judges,
            refs: Mutex::default(),
            failed: Mutex::default(),
            conversation: Conversation::new(request.inputs.clone(), Arc::clone(&root)),
            tasks: TaskTracker::new(),
            cancelled,
            made: Mutex::default(),
            question: question(request),
            root,
            registered: Mutex::default(),
            wanted,
            started: Timestamp::now(),
            invocation: unique("build-"),
            finished: Mutex::default(),
        }))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Name of the containerd namespace that it builds in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.ops.env.namespace.name
    }

    /// Where it belongs.
    pub(crate) fn place(&self) -> &Namespace {
        &self.ops.env.namespace
    }

    /// What the build as a whole was asked.
    pub(crate) fn question(&self) -> &Question {
        &self.question
    }

    /// The client's own solves.
    pub(crate) fn root(&self) -> &Arc<Scope> {
        &self.root
    }

    /// When it began.
    pub(crate) fn started(&self) -> Timestamp {
        self.started
    }

    /// Its name in provenance.
    pub(crate) fn invocation(&self) -> &str {
        &self.invocation
    }

    /// Its result, once all of it has run.
    pub(crate) fn finished(&self) -> Option<FrontendResult> {
        self.finished.lock().clone()
    }

    /// What it has made so far, for its record.
    pub(crate) fn made(&self) -> Made {
        self.made.lock().clone()
    }

    /// Its progress.
    #[must_use]
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Fires when somebody ends it.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// The client's own conversation over the bridge.
    #[must_use]
    pub fn conversation(&self) -> &Arc<Conversation> {
        &self.conversation
    }

    pub(crate) fn job(&self) -> Result<Arc<Job<Snapshot>>, Failure> {
        self.job.lock().clone().ok_or_else(Failure::cancelled)
    }

    pub(crate) async fn run(
        self: &Arc<Self>,
        request: Request,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let work = async {
            match self.work(&request).await {
                Err(failure) if !failure.is_cancelled() => {
                    Err(self.keep_failed_step(&request, failure).await)
                }
                ended => ended,
            }
        };
        let response = tokio::select! {
            response = work => response,
            () = self.cancelled.cancelled() => {
                if let Ok(job) = self.job() {
                    job.cancel(Failure::cancelled());
                }
                Err(Failure::cancelled())
            }
        };
        if let Ok(job) = self.job() {
            job.recorded().await;
            // The client may build again as soon as it has its answer, while this build is being written down.
            job.retire();
        }
        if self.cancelled.is_cancelled() {
            // Steps that are still ending must tell so before the progress ends.
            self.discard_job().await;
        }
        self.progress.close();
        response
    }

    async fn discard_job(&self) {
        let job = self.job.lock().take();
        // A bridge call that still holds the job discards it when it ends.
        if let Some(job) = job.and_then(Arc::into_inner) {
            job.discard().await;
        }
    }

    pub(crate) async fn clean_up(&self) {
        self.cancelled.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.conversation.close().await;
        self.discard_job().await;
        self.ops.eager.stop().await;
        self.refs.lock().clear();
        self.failed.lock().clear();
        self.finished.lock().take();
        for registered in self.registered.lock().drain(..) {
            self.parts.producers.remove(&registered);
        }
        self.ops.env.sandbox.build_ended().await;
        if let Err(error) = self.ops.env.lease.build_ended().await {
            tracing::warn!(build = self.id, %error, "ending a build's lease");
        }
    }

    async fn work(
        self: &Arc<Self>,
        request: &Request,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let mut result = self.result(request).await?;
        self.make_blobs_ahead(request, &result)?;
        let snapshots = self.evaluate_all(&result).await?;
        self.made.lock().tell(&result);
        if let Some(sbom) = &self.wanted.sbom {
            self.scan(sbom, &mut result).await?;
        }
        *self.finished.lock() = Some(result.clone());
        let attestations = self.attestations(&result).await?;
        let exported = self.export(request, &result, snapshots, attestations).await;
        let mut response = exported?;
        response.extend(self.export_caches(&result).await?);
        Ok(response)
    }

    /// Has the layers of the exported images archived while their steps run.
    fn make_blobs_ahead(&self, request: &Request, result: &FrontendResult) -> Result<(), Failure> {
        for export in &request.exporters {
            let Some((options, force)) = Exporter::new(export)?.blob_options(request.epoch())
            else {
                continue;
            };
            let refs = match &result.refs {
                Refs::Single(single) => vec![single.as_ref()],
                Refs::Map(map) => map.iter().map(|(_, of)| of.as_ref()).collect(),
            };
            for of in refs.into_iter().flatten() {
                self.ops.eager.want(&of.definition, options, force);
            }
        }
        Ok(())
    }

    async fn result(self: &Arc<Self>, request: &Request) -> Result<FrontendResult, Failure> {
        match &request.plan {
            Plan::Definition(definition) => {
                let how = SolveOptions {
                    cache_imports: request.cache_imports.clone(),
                    ..SolveOptions::default()
                };
                let solved = self.solve(definition.clone(), how).await?;
                Ok(FrontendResult {
                    refs: Refs::Single(solved),
                    ..FrontendResult::default()
                })
            }
            Plan::Frontend { name, request } => {
                let solved = self.solve_frontend(name, request.clone(), &self.root);
                solved.await
            }
            Plan::Gateway => self.conversation.answered().await,
        }
    }

    /// Has a frontend solve a request, which comes from `asker`.
    pub(crate) async fn solve_frontend(
        self: &Arc<Self>,
        name: &str,
        request: FrontendRequest,
        asker: &Scope,
    ) -> Result<FrontendResult, Failure> {
        self.parts.settings.frontends.check(name)?;
        let scope = asker.below(Question::new(name, &request));
        let solved = if name == gateway::NAME {
            self.image_frontend(request, &scope).await
        } else {
            let bridge = Scoped::new(Arc::clone(self), scope);
            Dockerfile.solve(Arc::new(bridge), request).await
        };
        let solved =
            solved.map_err(|failure| failure.with(FailureDetail::Frontend(name.to_owned())))?;
        self.make_known(&solved);
        Ok(solved)
    }

    /// Runs what every part of a result needs.
    pub async fn evaluate_result(&self, result: &FrontendResult) -> Result<(), Failure> {
        self.evaluate_all(result).await.map(drop)
    }

    async fn evaluate_all(
        &self,
        result: &FrontendResult,
    ) -> Result<Vec<(String, Snapshot)>, Failure> {
        let refs: Vec<(String, Option<Ref>)> = match &result.refs {
            Refs::Single(single) => vec![(String::new(), single.clone())],
            Refs::Map(map) => map.clone(),
        };
        let mut each: Vec<BoxFuture<'_, Result<(String, Snapshot), Failure>>> = Vec::new();
        for (key, of) in refs {
            each.push(Box::pin(async move {
                let snapshot = match of {
                    Some(of) => self.value(&of.id).await?,
                    None => Snapshot::default(),
                };
                Ok((key, snapshot))
            }));
        }
        try_join_all(each).await
    }

    /// The result of a graph, lazily.
    pub(crate) fn add_ref(
        &self,
        definition: Definition,
        scope: &Arc<Scope>,
    ) -> Result<Option<Ref>, Failure> {
        let (graph, target) = operations(&definition, &self.ops)?;
        let Some(target) = target else {
            return Ok(None);
        };
        let definition = Arc::new(definition);
        let id: Arc<str> = unique("ref-").into();
        let state = RefState {
            definition: Arc::clone(&definition),
            graph,
            target,
            scope: Arc::clone(scope),
            value: OnceCell::new(),
        };
        scope.solved(&id);
        self.refs.lock().insert(Arc::clone(&id), Arc::new(state));
        Ok(Some(Ref { id, definition }))
    }

    /// A result of this build as the engine knows it.
    pub(crate) fn ref_state(&self, id: &str) -> Option<Arc<RefState>> {
        self.refs.lock().get(id).cloned()
    }

    /// What is known of a result.
    pub(crate) fn find_state(&self, id: &str) -> Result<Arc<RefState>, Failure> {
        let state = self.ref_state(id);
        state.ok_or_else(|| Failure::of_kind(FailureKind::NotFound, format!("no such ref: {id}")))
    }

    /// A result of this build by its id.
    pub fn find_ref(&self, id: &str) -> Result<Ref, Failure> {
        let refs = self.refs.lock();
        let (id, state) = refs
            .get_key_value(id)
            .ok_or_else(|| Failure::of_kind(FailureKind::NotFound, format!("no such ref: {id}")))?;
        Ok(Ref {
            id: Arc::clone(id),
            definition: Arc::clone(&state.definition),
        })
    }

    /// The files of a result: runs what it needs, once.
    pub(crate) async fn value(&self, id: &str) -> Result<Snapshot, Failure> {
        let state = self.find_state(id)?;
        let value = state.value.get_or_try_init(|| async {
            let job = self.job()?;
            self.imported().await;
            let built = job.build(state.graph.clone(), state.target).await;
            built.map_err(|error| {
                let failure = explain(error, &state.definition);
                self.keep_failed(&failure);
                failure
            })
        });
        value.await.cloned()
    }

    /// Keeps what failed steps left, for containers made of it.
    fn keep_failed(&self, failure: &Failure) {
        let mut failed = self.failed.lock();
        for step in failure.details.iter().filter_map(FailedStep::of) {
            for kept in step.inputs.iter().chain(&step.mounts).flatten() {
                failed.insert(Arc::clone(&kept.id), kept.snapshot.clone());
            }
        }
    }

    /// The files that an id of a result, or of a failed step's mount, stands for.
    pub(crate) async fn result_files(&self, id: &str) -> Result<Snapshot, Failure> {
        let kept = self.failed.lock().get(id).cloned();
        match kept {
            Some(kept) => Ok(kept),
            None => self.value(id).await,
        }
    }
}

/// What a build's operations work with.
fn surroundings(
    parts: &Parts,
    request: &Request,
    lease: LeaseSlot,
    granted: (Entitlements, DeviceGrants),
) -> (Arc<OpsEnv>, Arc<Judges>) {
    let (entitlements, devices) = granted;
    let env = Arc::new(Env {
        layers: parts.layers.clone(),
        namespace: request.namespace.clone(),
        lease,
        registry: Arc::clone(&parts.registry),
        web: Arc::clone(&parts.web),
        sessions: Arc::clone(&parts.sessions),
        resolver: Arc::clone(&parts.resolver),
        sandbox: sandbox(&parts.settings.instance, request),
        platform: parts.settings.platform.clone(),
    });
    let judges = Arc::new(Judges {
        rules: request.source_policy.clone(),
        client: request.policy_session.as_deref().map(Arc::from),
        lookup: SourceLookup {
            env: Arc::clone(&env),
            session: request.session.as_str().into(),
        },
    });
    let ops = Arc::new(OpsEnv {
        env,
        mirrors: Arc::clone(&parts.mirrors),
        cache_mounts: Arc::clone(&parts.cache_mounts),
        step_files: parts.settings.step_files.clone(),
        log_limits: parts.settings.log_limits,
        dns: parts.settings.dns.clone(),
        networks: parts.networks.clone(),
        eager: Eager::default(),
        engine: parts.engine.clone(),
        judge: judge(Arc::clone(&judges)),
        entitlements,
        cdi: parts.settings.cdi.clone(),
        devices,
    });
    (ops, judges)
}

/// What a build as a whole was asked.
fn question(request: &Request) -> Question {
    Question {
        frontend: match &request.plan {
            Plan::Frontend { name, .. } => name.clone(),
            Plan::Definition(_) | Plan::Gateway => String::new(),
        },
        options: request.options.clone(),
        inputs: request.inputs.clone(),
    }
}

/// The task that a build's steps will run in.
fn sandbox(instance: &str, request: &Request) -> Arc<SandboxSlot> {
    let task = format!("shipway-{instance}-{}", unique(""));
    let labels = BTreeMap::from([
        ("shipway.dev/build".to_owned(), request.id.clone()),
        ("shipway.dev/instance".to_owned(), instance.to_owned()),
    ]);
    SandboxSlot::new(request.namespace.clone(), task, labels)
}

/// What a build's own policies make of the graphs of nested builds.
fn judge(judges: Arc<Judges>) -> Judge {
    Arc::new(move |definition| {
        let judges = Arc::clone(&judges);
        Box::pin(async move { judges.apply(definition, &[]).await })
    })
}

/// Checks exporters, caches and policies before anything runs.
fn check(request: &Request) -> Result<Caches, Failure> {
    let exporters = request.exporters.iter();
    exporters.map(Exporter::new).try_for_each(|e| e.map(drop))?;
    Policies::new([&request.source_policy])?;
    Caches::new(&request.cache_exports)
}

/// The entitlements that a build gets; one that the daemon does not allow is refused by name.
fn entitlements(
    request: &Request,
    allowed: &[String],
) -> Result<(Entitlements, DeviceGrants), Failure> {
    let mut granted = Entitlements::default();
    let mut devices = DeviceGrants::default();
    for wanted in &request.entitlements {
        let kind = wanted.split('=').next().unwrap_or_default();
        if !allowed.iter().any(|allowed| allowed == kind) {
            return Err(Failure::new(format!(
                "granting entitlement {kind} is not allowed by build daemon configuration"
            )));
        }
        match wanted.as_str() {
            "network.host" => granted.network_host = true,
            "security.insecure" => granted.security_insecure = true,
            _ if kind == "device" => devices.add(wanted)?,
            other => return Err(Failure::new(format!("unknown entitlement {other}"))),
        }
    }
    Ok((granted, devices))
}
