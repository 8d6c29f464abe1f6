//! Containers that a client or a frontend runs processes in by hand: mounts of results, a first process that is the
//! container, others that enter it. What they write is thrown away.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use shipway_backend::{Process, Sandbox, StepIo};
use shipway_layers::{Need, NoReport, Snapshot};
use shipway_model::op::{ExecOp, HostIp, Meta, Mount, NetMode, SecretEnv, SecurityMode};
use shipway_model::{Failure, Platform};
use shipway_source::env::SandboxUse;
use shipway_step::{MountAttribute, MountSource, StepMount, StepSpec, VisitSpec};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::caller::Caller;
use super::ends::Ends;
use super::plan::{Plan, Planner, View};
use super::scratch::StepFiles;
use super::spec::{SpecInputs, runtime_spec};
use super::specification::{Around, secret_env, specification};
use crate::graph::{OpsEnv, granted};

/// What a container is made of.
#[derive(Debug, Clone, Default)]
pub struct ContainerRequest {
    /// Mounts and the results that they show; one is at `/`. `input` and `output` of a mount do not count.
    pub mounts: Vec<(Mount, Option<Snapshot>)>,
    /// Files to show read-only, by their place in the container; only root reads them.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Its network.
    pub network: NetMode,
    /// Its host name; empty for the default.
    pub hostname: String,
    /// Extra lines for its hosts file.
    pub extra_hosts: Vec<HostIp>,
    /// Platform that its programs are for, which decides where they are looked for; `None` is this machine's.
    pub platform: Option<Platform>,
}

/// Where programs for Windows are looked for.
const WINDOWS_PATH: &str =
    r"PATH=c:\Windows\System32;c:\Windows;C:\Windows\System32\WindowsPowerShell\v1.0";

/// A process to run in a container.
#[expect(
    clippy::struct_excessive_bools,
    reason = "two independent switches of the wire's message"
)]
#[derive(Debug, Clone, Default)]
pub struct ProcessRequest {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Secrets that become variables.
    pub secret_env: Vec<SecretEnv>,
    /// Working directory; empty is `/`.
    pub cwd: String,
    /// User, as a Dockerfile has it.
    pub user: String,
    /// On a terminal.
    pub tty: bool,
    /// Sandbox or not.
    pub security: SecurityMode,
    /// Remove mount stubs with all parents that they needed.
    pub remove_mount_stubs_recursive: bool,
}

/// A container. [`Container::release`] must be awaited: dropping it alone leaves processes to the end of the build.
pub struct Container {
    ops: Arc<OpsEnv>,
    caller: Caller,
    /// The op that a step with these mounts would be.
    op: ExecOp,
    files: StepFiles,
    state: tokio::sync::Mutex<State>,
    views: Vec<View>,
    processes: Mutex<u64>,
    ends: Mutex<Ends>,
    /// Programs are for Windows.
    windows: bool,
    released: CancellationToken,
}

/// A container's life.
enum State {
    /// Nothing has run.
    Prepared(Box<Plan>),
    /// Its first process was started.
    Started(Box<Running>),
    /// It is no more.
    Released,
}

struct Running {
    plan: Plan,
    slot: SandboxUse,
    /// The container's first process, unless it could not be started.
    first: Option<Arc<dyn Process>>,
    agents: JoinSet<()>,
}

impl Container {
    /// Takes what a container needs: results are made files, cache directories and secrets are got. `sessions` answer
    /// for secrets and agents; `cancelled` ends the waiting.
    pub async fn prepare(
        ops: Arc<OpsEnv>,
        request: ContainerRequest,
        sessions: Vec<Arc<str>>,
        cancelled: CancellationToken,
    ) -> Result<Self, Failure> {
        granted(ops.entitlements, request.network, SecurityMode::Sandbox)?;
        let need = Need {
            namespace: ops.env.namespace.clone(),
            lease: ops.env.lease.hold().await?,
            access: ops.env.access(&sessions).await,
            report: Arc::new(NoReport),
        };
        let (op, inputs) = as_step(&request);
        for input in &inputs {
            input.materialise(&ops.env.layers, &need).await?;
        }
        let files = StepFiles::create(&ops.step_files)?;
        let caller = Caller {
            sessions,
            cancelled,
        };
        let planner = Planner {
            ops: &ops,
            caller: &caller,
            op: &op,
            files: &files,
            plan: Plan::new(inputs),
        };
        let mut plan = planner.plan().await?;
        for (number, (place, content)) in request.files.iter().enumerate() {
            let file = files.file(&format!("file-{number}"), content, 0o400)?;
            let mount = StepMount::new(place, MountSource::path(file));
            plan.mounts.push(mount.with([
                MountAttribute::ReadOnly,
                MountAttribute::NoSuid,
                MountAttribute::NoDev,
                MountAttribute::NoExec,
            ]));
        }
        let views = plan.views.clone();
        Ok(Self {
            ops,
            caller,
            op,
            files,
            state: tokio::sync::Mutex::new(State::Prepared(Box::new(plan))),
            views,
            processes: Mutex::new(0),
            ends: Mutex::default(),
            windows: request
                .platform
                .is_some_and(|platform| platform.os == "windows"),
            released: CancellationToken::new(),
        })
    }

    /// Starts a process: the first one is the container, and its end is the end of all others.
    pub async fn start(
        &self,
        process: ProcessRequest,
        io: StepIo,
    ) -> Result<Arc<dyn Process>, Failure> {
        granted(self.ops.entitlements, self.op.network, process.security)?;
        let secrets = secret_env(&self.ops, &self.caller, &process.secret_env).await?;
        let op = self.op_of(&process);
        let mut state = self.state.lock().await;
        match std::mem::replace(&mut *state, State::Released) {
            State::Released => Err(Failure::new("the container has been released")),
            State::Prepared(plan) => {
                let (next, started) = self.start_first(*plan, &op, &process, secrets, io).await;
                *state = next;
                started
            }
            State::Started(running) => {
                let entered = self.enter(&running, &op, &process, secrets, io).await;
                *state = State::Started(running);
                entered
            }
        }
    }

    async fn start_first(
        &self,
        mut plan: Plan,
        op: &ExecOp,
        process: &ProcessRequest,
        secret_env: Vec<String>,
        io: StepIo,
    ) -> (State, Result<Arc<dyn Process>, Failure>) {
        let slot = match self.ops.env.sandbox.enter().await {
            Ok(slot) => slot,
            Err(failure) => return (State::Prepared(Box::new(plan)), Err(failure)),
        };
        let around = Around {
            secret_env,
            terminal: process.tty,
            id: &slot.step_id,
            resources: None,
        };
        let mut agents = JoinSet::new();
        for agent in plan.agents.drain(..) {
            agents.spawn(agent.serve());
        }
        let started: Result<Arc<dyn Process>, Failure> =
            match specification(&self.ops, op, &plan, around, &self.files) {
                Ok(spec) => started(slot.sandbox.as_ref(), &slot.step_id, spec, io).await,
                Err(failure) => Err(failure),
            };
        let first = started.as_ref().ok().cloned();
        let running = Running {
            plan,
            slot,
            first,
            agents,
        };
        (State::Started(Box::new(running)), started)
    }

    async fn enter(
        &self,
        running: &Running,
        op: &ExecOp,
        process: &ProcessRequest,
        secret_env: Vec<String>,
        io: StepIo,
    ) -> Result<Arc<dyn Process>, Failure> {
        let number = {
            let mut processes = self.processes.lock();
            *processes += 1;
            *processes
        };
        let id = format!("{}-{number}", running.slot.step_id);
        let inputs = SpecInputs {
            secret_env,
            ssh_socket: running.plan.ssh_socket.clone(),
            shm_size: None,
            resources: None,
            terminal: process.tty,
            readonly_root: false,
            // It is in the namespaces of the process that it joins.
            network: None,
            id: &id,
        };
        let spec = runtime_spec(op, &inputs);
        let described = spec.process().clone();
        let described = described.ok_or_else(|| Failure::new("a process has no description"))?;
        let visit = VisitSpec {
            step: running.slot.step_id.clone(),
            process: described,
            user: process.user.clone(),
        };
        let entered = running.slot.sandbox.enter(&id, visit, io).await;
        entered.map(Arc::from).map_err(Failure::from)
    }

    fn op_of(&self, process: &ProcessRequest) -> ExecOp {
        let mut env = process.env.clone();
        if process.tty && !env.iter().any(|variable| variable.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
        }
        if self.windows && !env.iter().any(|variable| variable.starts_with("PATH=")) {
            env.push(WINDOWS_PATH.to_owned());
        }
        let cwd = match process.cwd.as_str() {
            "" => "/",
            cwd => cwd,
        };
        ExecOp {
            meta: Meta {
                args: process.args.clone(),
                env,
                cwd: cwd.to_owned(),
                user: process.user.clone(),
                remove_mount_stubs_recursive: process.remove_mount_stubs_recursive,
                ..self.op.meta.clone()
            },
            security: process.security,
            ..self.op.clone()
        }
    }

    /// What a mount shows, by its position in the request.
    pub fn view(&self, mount: usize) -> Result<View, Failure> {
        let view = self.views.get(mount).ok_or_else(|| {
            let mounts = self.views.len();
            Failure::new(format!(
                "mount index {mount} is out of bounds ({mounts} available)"
            ))
        })?;
        Ok(view.clone())
    }

    /// Notes that a process begins whose caller will be told of its end.
    pub fn process_begins(&self) {
        self.ends.lock().begins();
    }

    /// Notes how a process has ended, before its caller is told.
    pub fn process_ends(&self, failure: Option<&Failure>) {
        self.ends.lock().ends(failure);
    }

    /// How its processes have done: the first failure, or that one of them still runs and a release will end it.
    pub fn outcome(&self) -> Result<(), Failure> {
        self.ends.lock().outcome()
    }

    /// True where its processes are being ended, or have been.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.released.is_cancelled()
    }

    /// Ends its processes and lets go of all that it had. The first call counts.
    pub async fn release(&self) -> Result<(), Failure> {
        self.released.cancel();
        let mut state = self.state.lock().await;
        let State::Started(mut running) = std::mem::replace(&mut *state, State::Released) else {
            return Ok(());
        };
        let ended = match &running.first {
            Some(first) => first.kill().await,
            None => Ok(()),
        };
        running.agents.shutdown().await;
        running.slot.release().await;
        drop(running.plan);
        ended.map_err(Failure::from)
    }
}

/// Starts the first process; others may enter when this has returned.
async fn started(
    sandbox: &dyn Sandbox,
    id: &str,
    spec: StepSpec,
    io: StepIo,
) -> Result<Arc<dyn Process>, Failure> {
    let process = sandbox.start(id, spec, io).await?;
    process.started().await?;
    Ok(Arc::from(process))
}

/// The op of a step with these mounts, and the op's inputs.
fn as_step(request: &ContainerRequest) -> (ExecOp, Vec<Snapshot>) {
    let mut inputs = Vec::new();
    let mounts = request.mounts.iter().map(|(mount, result)| {
        let input = result.clone().map(|result| {
            inputs.push(result);
            inputs.len() - 1
        });
        Mount {
            input,
            output: None,
            ..mount.clone()
        }
    });
    let op = ExecOp {
        mounts: mounts.collect(),
        network: request.network,
        meta: Meta {
            hostname: request.hostname.clone(),
            extra_hosts: request.extra_hosts.clone(),
            ..Meta::default()
        },
        ..ExecOp::default()
    };
    (op, inputs)
}
