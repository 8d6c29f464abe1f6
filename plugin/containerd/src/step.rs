//! One step of a build: an exec in its task, or a task of its own. Decides when a step has ended and what is told about it:
//! the result file that the launcher leaves counts for more than containerd's answer, which a dead shim cannot give.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use containerd_client::services::v1 as wire;
use prost_types::Any;
use shipway_backend::{BackendError, ErrorKind, Exit, Process, StepIo};
use shipway_model::Digest;
use shipway_step::{STEP_TYPE_URL, StepOutcome, StepSpec, VISIT_TYPE_URL, VisitSpec};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::connection::{once, repeat};
use crate::error::{failed, is_down};
use crate::fifo::{self, Ends, Pipes};
use crate::scope::Scope;
use crate::single::{Figures, Rootfs};

/// How long output may take to arrive after the step's end.
const LAST_OUTPUT: Duration = Duration::from_secs(10);
const SIGKILL: u32 = 9;

/// A started step.
pub(crate) struct Step {
    name: Name,
    exit: watch::Receiver<Option<Ended>>,
}

/// Which step, and what containerd calls it.
#[derive(Clone)]
pub(crate) struct Name {
    pub(crate) scope: Scope,
    build: String,
    step: String,
    pub(crate) container: String,
    /// Empty where the step is its container's first process.
    exec: String,
}

/// Most characters that an id may have.
const ID: usize = 76;

/// What the shim is asked to run as an exec.
pub(crate) struct Recipe {
    pub(crate) type_url: &'static str,
    pub(crate) value: Vec<u8>,
    pub(crate) terminal: bool,
}

impl Recipe {
    /// A process that enters a step of a build's task.
    pub(crate) fn visit(name: &Name, visit: &VisitSpec) -> Result<Self, BackendError> {
        let value = visit.to_any_value();
        Ok(Self {
            type_url: VISIT_TYPE_URL,
            value: value.map_err(|error| name.error("describing", error))?,
            terminal: visit.process.terminal().unwrap_or(false),
        })
    }
}

/// What is to be removed when a step has ended.
pub(crate) struct Traces {
    /// Its pipes.
    dir: PathBuf,
    own: Own,
}

enum Own {
    /// An exec, and the file where its launcher says how it ended.
    Exec { result: PathBuf },
    /// A container, and what is mounted for it.
    Container(Option<Rootfs>),
}

impl Traces {
    fn of_exec(dir: PathBuf, result: PathBuf) -> Self {
        let own = Own::Exec { result };
        Self { dir, own }
    }

    pub(crate) fn of_task(dir: PathBuf, rootfs: Option<Rootfs>) -> Self {
        let own = Own::Container(rootfs);
        Self { dir, own }
    }
}

/// How a step ended, for every waiter.
type Ended = Result<Exit, Problem>;

/// Why there is no exit code.
#[derive(Debug, Clone)]
struct Problem {
    kind: ErrorKind,
    attempt: String,
    why: String,
}

impl From<Problem> for BackendError {
    fn from(problem: Problem) -> Self {
        Self::caused(problem.kind, problem.attempt, problem.why)
    }
}

impl Step {
    pub(crate) async fn start(
        name: Name,
        dir: PathBuf,
        mut step: StepSpec,
        io: StepIo,
    ) -> Result<Self, BackendError> {
        let result = step
            .result
            .get_or_insert_with(|| dir.join("outcome.json"))
            .clone();
        let pipes = Pipes::create(&dir, io);
        let pipes = pipes.map_err(|error| name.error("preparing", error))?;
        let process = step.spec.process().as_ref();
        let terminal = process.and_then(oci_spec::runtime::Process::terminal);
        let value = step.to_any_value();
        let recipe = Recipe {
            type_url: STEP_TYPE_URL,
            value: value.map_err(|error| name.error("describing", error))?,
            terminal: terminal.unwrap_or(false),
        };
        Self::exec(name, dir, recipe, pipes, result).await
    }

    /// A process that enters a running step, as its task's shim understands `recipe`.
    pub(crate) async fn enter(
        name: Name,
        dir: PathBuf,
        recipe: Recipe,
        io: StepIo,
    ) -> Result<Self, BackendError> {
        let pipes = Pipes::create(&dir, io);
        let pipes = pipes.map_err(|error| name.error("preparing", error))?;
        // Nobody writes it: what containerd says of the end counts.
        let result = dir.join("outcome.json");
        Self::exec(name, dir, recipe, pipes, result).await
    }

    async fn exec(
        name: Name,
        dir: PathBuf,
        recipe: Recipe,
        pipes: Pipes,
        result: PathBuf,
    ) -> Result<Self, BackendError> {
        let started = name.exec_and_start(recipe, &pipes, &result).await;
        let traces = Traces::of_exec(dir, result);
        if let Err(error) = started {
            name.forget(traces);
            return Err(error);
        }
        let (step, life) = Self::run(name.clone(), traces, pipes.started());
        name.scope.in_background(life);
        Ok(step)
    }

    /// A step that has been started, and the rest of its life.
    pub(crate) fn run(
        name: Name,
        traces: Traces,
        ends: Ends,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (ended, exit) = watch::channel(None);
        let life = Life {
            name: name.clone(),
            traces,
        };
        (Self { name, exit }, life.run(ends, ended))
    }

    async fn ended(&self) -> Ended {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().expect("waited until it is some"),
            Err(_) => Err(self
                .name
                .problem(ErrorKind::Cancelled, "the daemon is ending")),
        }
    }
}

#[async_trait]
impl Process for Step {
    async fn wait(&self) -> Result<Exit, BackendError> {
        Ok(self.ended().await?)
    }

    async fn signal(&self, signal: i32) -> Result<(), BackendError> {
        let number = u32::try_from(signal);
        let number = number.map_err(|error| self.name.error("signalling", error))?;
        let Name {
            scope,
            container,
            exec,
            ..
        } = &self.name;
        scope.send_signal(container, exec, number, false).await
    }

    async fn kill(&self) -> Result<(), BackendError> {
        self.name.kill().await?;
        // How it ended does not matter, only that it has.
        let _ended = self.ended().await;
        Ok(())
    }

    async fn resize(&self, rows: u16, columns: u16) -> Result<(), BackendError> {
        let resized = repeat(|| {
            let message = wire::ResizePtyRequest {
                container_id: self.name.container.clone(),
                exec_id: self.name.exec.clone(),
                width: columns.into(),
                height: rows.into(),
            };
            let (mut client, request) = (self.name.scope.tasks(), self.name.scope.request(message));
            async move { client.resize_pty(request).await }
        });
        let resized = resized.await;
        resized.map_err(|status| failed(self.name.attempt("resizing"), &status))
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.exit.borrow().is_some() {
            return;
        }
        let name = self.name.clone();
        self.name.scope.in_background(async move {
            if let Err(error) = name.kill().await {
                tracing::warn!(?error, "a step runs until its build is closed");
            }
        });
    }
}

impl Name {
    /// A step that is an exec in its build's task.
    pub(crate) fn of_exec(scope: Scope, container: &str, exec: &str) -> Self {
        Self {
            scope,
            build: container.to_owned(),
            step: exec.to_owned(),
            container: container.to_owned(),
            exec: exec.to_owned(),
        }
    }

    /// A step that has a container for itself.
    pub(crate) fn of_task(scope: Scope, build: &str, step: &str) -> Self {
        let mut container = format!("{build}-{step}");
        if container.len() > ID {
            container = Digest::of(container).hex();
        }
        Self {
            scope,
            build: build.to_owned(),
            step: step.to_owned(),
            container,
            exec: String::new(),
        }
    }

    /// A further process in the container of a step.
    pub(crate) fn in_task(self, exec: &str) -> Self {
        Self {
            exec: exec.to_owned(),
            ..self
        }
    }

    pub(crate) fn attempt(&self, what: &str) -> String {
        format!("{what} step {} of build {}", self.step, self.build)
    }

    /// The error of a step that comes too late.
    pub(crate) fn ended(&self) -> BackendError {
        let attempt = self.attempt("starting");
        BackendError::caused(ErrorKind::Cancelled, attempt, "the build has ended")
    }

    pub(crate) async fn kill_quietly(&self) {
        if let Err(error) = self.kill().await {
            tracing::debug!(?error, "killing a step");
        }
    }

    pub(crate) fn error(
        &self,
        what: &str,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> BackendError {
        BackendError::caused(ErrorKind::Other, self.attempt(what), cause)
    }

    fn problem(&self, kind: ErrorKind, why: impl Into<String>) -> Problem {
        Problem {
            kind,
            attempt: self.attempt("waiting for"),
            why: why.into(),
        }
    }

    async fn kill(&self) -> Result<(), BackendError> {
        // The step is pid 1 of its own PID namespace: with it goes everything that it started.
        self.scope
            .send_signal(&self.container, &self.exec, SIGKILL, false)
            .await
    }

    async fn exec_and_start(
        &self,
        recipe: Recipe,
        pipes: &Pipes,
        result: &Path,
    ) -> Result<(), BackendError> {
        let path = |path: &Option<PathBuf>| {
            let path = path.as_deref().unwrap_or_else(|| "".as_ref());
            path.to_string_lossy().into_owned()
        };
        let message = wire::ExecProcessRequest {
            container_id: self.container.clone(),
            stdin: path(&pipes.stdin),
            stdout: path(&pipes.stdout),
            stderr: path(&pipes.stderr),
            terminal: recipe.terminal,
            spec: Some(Any {
                type_url: recipe.type_url.to_owned(),
                value: recipe.value,
            }),
            exec_id: self.exec.clone(),
        };
        let added = once(|| {
            let (mut client, request) = (self.scope.tasks(), self.scope.request(message.clone()));
            async move { client.exec(request).await }
        });
        added.await.map_err(|status| self.not_started(&status))?;
        let started = match self.request_start().await {
            // containerd ended with the answer on its way: what became of the step is asked when it is back.
            Err(status) if is_down(&status) => self.restart().await,
            answered => answered,
        };
        match started {
            Ok(()) => Ok(()),
            Err(status) => match StepOutcome::read(result) {
                Ok(Some(StepOutcome {
                    failure: Some(failure),
                    ..
                })) => Err(self.error("starting", failure.message)),
                _ => Err(self.not_started(&status)),
            },
        }
    }

    async fn request_start(&self) -> Result<(), Status> {
        let started = once(|| {
            let message = wire::StartRequest {
                container_id: self.container.clone(),
                exec_id: self.exec.clone(),
            };
            let (mut client, request) = (self.scope.tasks(), self.scope.request(message));
            async move { client.start(request).await }
        });
        started.await.map(drop)
    }

    /// After a lost answer: starts the step unless that has happened.
    async fn restart(&self) -> Result<(), Status> {
        let known = repeat(|| {
            let message = wire::GetRequest {
                container_id: self.container.clone(),
                exec_id: self.exec.clone(),
            };
            let (mut client, request) = (self.scope.tasks(), self.scope.request(message));
            async move { client.get(request).await }
        });
        let status = known.await?.process.unwrap_or_default().status();
        match status {
            containerd_client::types::v1::Status::Created => self.request_start().await,
            _ => Ok(()),
        }
    }

    fn not_started(&self, status: &Status) -> BackendError {
        let attempt = self.attempt("starting");
        match Self::lost(status) {
            Some(why) => BackendError::caused(ErrorKind::Unavailable, attempt, why),
            None => failed(attempt, status),
        }
    }

    /// What became of the task, where an answer shows that it is no more.
    fn lost(status: &Status) -> Option<&'static str> {
        if status.code() == Code::NotFound {
            return Some("build container was removed");
        }
        status
            .message()
            .contains("ttrpc: closed")
            .then_some("the build's shim has ended")
    }

    /// Removes what is left of a step; nobody waits for that.
    pub(crate) fn forget(&self, traces: Traces) {
        let name = self.clone();
        self.scope
            .in_background(async move { name.remove(traces).await });
    }

    async fn remove(&self, traces: Traces) {
        match traces.own {
            Own::Exec { .. } => self.delete().await,
            Own::Container(rootfs) => {
                if let Err(error) = self.scope.remove_container(&self.container).await {
                    tracing::warn!(?error, "a step's container stays until the next start");
                }
                undo(rootfs).await;
            }
        }
        fifo::remove_step(&traces.dir);
    }

    async fn delete(&self) {
        let deleted = repeat(|| {
            let message = wire::DeleteProcessRequest {
                container_id: self.container.clone(),
                exec_id: self.exec.clone(),
            };
            let (mut client, request) = (self.scope.tasks(), self.scope.request(message));
            async move { client.delete_process(request).await }
        });
        if let Err(status) = deleted.await {
            // The build may be closed by now, and everything of it gone.
            tracing::debug!(step = self.step, %status, "deleting an exec");
        }
    }
}

/// Takes a step's mounts away.
async fn undo(rootfs: Option<Rootfs>) {
    if let Some(rootfs) = rootfs
        && let Err(error) = tokio::task::spawn_blocking(move || rootfs.undo()).await
    {
        tracing::warn!(%error, "a step's mounts stay");
    }
}

/// A step from its start to the end of its traces.
struct Life {
    name: Name,
    traces: Traces,
}

impl Life {
    async fn run(mut self, ends: Ends, tell: watch::Sender<Option<Ended>>) {
        let mut outputs = JoinSet::new();
        for (from, to) in ends.outputs {
            outputs.spawn(fifo::pump_out(from, to));
        }
        let mut feeding = JoinSet::new();
        if let Some((to, from)) = ends.input {
            feeding.spawn(feed(self.name.clone(), to, from));
        }
        let answer = self.wait().await;
        feeding.shutdown().await;
        self.take_last_output(outputs).await;
        let ended = match &mut self.traces.own {
            Own::Exec { result } => self.name.exit_of_exec(result, answer),
            Own::Container(rootfs) => {
                let rootfs = rootfs.take();
                let figures = rootfs.as_ref().map(|rootfs| rootfs.usage.read());
                // Whoever waits takes the step's files next: nothing may still be mounted over them.
                undo(rootfs).await;
                self.name.exit_of_task(&figures.unwrap_or_default(), answer)
            }
        };
        tell.send_replace(Some(ended));
        self.name.remove(self.traces).await;
    }

    async fn wait(&self) -> Result<u32, Status> {
        let Name {
            scope,
            container,
            exec,
            ..
        } = &self.name;
        let answer = repeat(|| {
            let message = wire::WaitRequest {
                container_id: container.clone(),
                exec_id: exec.clone(),
            };
            let (mut client, request) = (scope.tasks(), scope.request(message));
            async move { client.wait(request).await }
        });
        Ok(answer.await?.exit_status)
    }

    async fn take_last_output(&self, mut outputs: JoinSet<std::io::Result<()>>) {
        let all = async { while outputs.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_OUTPUT, all).await.is_err() {
            tracing::warn!(step = self.name.step, "a step's output has no end");
        }
    }
}

impl Name {
    fn exit_of_exec(&self, result: &Path, answer: Result<u32, Status>) -> Ended {
        let outcome = StepOutcome::read(result).unwrap_or_else(|error| {
            tracing::warn!(step = self.step, %error, "a step's result cannot be read");
            None
        });
        let Some(outcome) = outcome else {
            return self.exit_of_task(&Figures::default(), answer);
        };
        if let Some(failure) = outcome.failure {
            return Err(self.problem(ErrorKind::Other, failure.message));
        }
        Ok(Exit {
            code: outcome.exit_code,
            out_of_memory: outcome.oom_killed,
            peak_memory: Some(outcome.peak_memory).filter(|bytes| *bytes > 0),
            cpu_micros: Some(outcome.user_cpu_us + outcome.system_cpu_us),
        })
    }

    fn exit_of_task(&self, figures: &Figures, answer: Result<u32, Status>) -> Ended {
        match answer {
            Ok(code) => Ok(Exit {
                code,
                out_of_memory: figures.out_of_memory && code == 137,
                peak_memory: figures.peak_memory,
                cpu_micros: figures.cpu_micros,
            }),
            Err(status) => {
                let why = match Self::lost(&status) {
                    Some(why) => why.to_owned(),
                    None => status.message().to_owned(),
                };
                Err(self.problem(ErrorKind::Unavailable, why))
            }
        }
    }
}

/// Feeds a step's standard input, then closes it.
async fn feed(name: Name, to: tokio::net::unix::pipe::Sender, from: mpsc::Receiver<bytes::Bytes>) {
    if let Err(error) = fifo::pump_in(to, from).await {
        tracing::debug!(step = name.step, %error, "a step does not read its input");
    }
    let message = wire::CloseIoRequest {
        container_id: name.container.clone(),
        exec_id: name.exec.clone(),
        stdin: true,
    };
    let closed = name
        .scope
        .tasks()
        .close_io(name.scope.request(message))
        .await;
    if let Err(status) = closed {
        tracing::debug!(step = name.step, %status, "closing a step's input");
    }
}
