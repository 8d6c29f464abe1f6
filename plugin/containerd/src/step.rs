//! One step of a build, whatever containerd calls it: its handle, and the rest of its life after its start. Decides what is
//! told about a step's end. How an exec is started and how its end is noticed is `exec`'s part.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use shipway_backend::{BackendError, ErrorKind, Exit, Process};
use shipway_model::Digest;
use shipway_step::StepOutcome;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::error::failed;
use crate::fifo::{self, Ends};
use crate::line::{self, Line, Target};
use crate::scope::Scope;
use crate::single::{Figures, Rootfs};

/// How long output may take to arrive after the step's end.
const LAST_OUTPUT: Duration = Duration::from_secs(10);
const SIGKILL: u32 = 9;

/// A started step.
pub(crate) struct Step {
    name: Name,
    /// Whether containerd has answered its start, and so takes signals for it.
    begun: watch::Receiver<bool>,
    exit: watch::Receiver<Option<Ended>>,
}

/// Where a step's life tells of it.
pub(crate) struct Tell {
    pub(crate) begun: watch::Sender<bool>,
    pub(crate) ended: watch::Sender<Option<Ended>>,
}

/// Which step, and what containerd calls it.
#[derive(Clone)]
pub(crate) struct Name {
    pub(crate) scope: Scope,
    pub(crate) line: Line,
    build: String,
    step: String,
    pub(crate) container: String,
    /// Empty where the step is its container's first process.
    pub(crate) exec: String,
}

/// Most characters that an id may have.
const ID: usize = 76;

/// What is to be removed when a step has ended.
pub(crate) struct Traces {
    /// Its pipes.
    dir: PathBuf,
    own: Own,
}

enum Own {
    Exec,
    /// A container, and what is mounted for it.
    Container(Option<Rootfs>),
}

impl Traces {
    pub(crate) fn of_exec(dir: PathBuf) -> Self {
        Self {
            dir,
            own: Own::Exec,
        }
    }

    pub(crate) fn of_task(dir: PathBuf, rootfs: Option<Rootfs>) -> Self {
        let own = Own::Container(rootfs);
        Self { dir, own }
    }
}

/// How a step ended, for every waiter.
pub(crate) type Ended = Result<Exit, Problem>;

/// Why there is no exit code.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
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
    /// A step's handle, and the other end of it.
    pub(crate) fn new(name: Name) -> (Self, Tell) {
        let (tell_begun, begun) = watch::channel(false);
        let (tell_ended, exit) = watch::channel(None);
        let tell = Tell {
            begun: tell_begun,
            ended: tell_ended,
        };
        (Self { name, begun, exit }, tell)
    }

    /// A step that has been started, and the rest of its life.
    pub(crate) fn run(
        name: Name,
        traces: Traces,
        ends: Ends,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (step, tell) = Self::new(name.clone());
        tell.begun.send_replace(true);
        let life = Life { name, traces };
        (step, life.run(ends, tell))
    }

    /// Waits until containerd has answered the step's start; where it never did, the step's life is over.
    async fn begun(mut begun: watch::Receiver<bool>) {
        drop(begun.wait_for(|begun| *begun).await);
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
    async fn started(&self) -> Result<(), BackendError> {
        Self::begun(self.begun.clone()).await;
        match self.exit.borrow().as_ref() {
            Some(Err(problem)) => Err(problem.clone().into()),
            _ => Ok(()),
        }
    }

    async fn wait(&self) -> Result<Exit, BackendError> {
        Ok(self.ended().await?)
    }

    async fn signal(&self, signal: i32) -> Result<(), BackendError> {
        let number = u32::try_from(signal);
        let number = number.map_err(|error| self.name.error("signalling", error))?;
        Self::begun(self.begun.clone()).await;
        let sent = self.name.line.kill(self.name.target(), number).await;
        ended_is_fine(sent).map_err(|status| failed(self.name.attempt("signalling"), &status))
    }

    async fn kill(&self) -> Result<(), BackendError> {
        Self::begun(self.begun.clone()).await;
        self.name.kill().await?;
        // How it ended does not matter, only that it has.
        let _ended = self.ended().await;
        Ok(())
    }

    async fn resize(&self, rows: u16, columns: u16) -> Result<(), BackendError> {
        Self::begun(self.begun.clone()).await;
        let resized = self.name.line.resize(self.name.target(), rows, columns);
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
        let begun = self.begun.clone();
        self.name.scope.in_background(async move {
            Self::begun(begun).await;
            if let Err(error) = name.kill().await {
                tracing::warn!(?error, "a step runs until its build is closed");
            }
        });
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.build, self.step)
    }
}

impl Name {
    /// A step that is an exec in its build's task.
    pub(crate) fn of_exec(scope: Scope, line: Line, container: &str, exec: &str) -> Self {
        Self {
            scope,
            line,
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
            line: Line::Containerd(scope.clone()),
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

    pub(crate) fn target(&self) -> Target<'_> {
        Target {
            container: &self.container,
            exec: &self.exec,
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

    /// Why there never was a process, by containerd's word.
    pub(crate) fn not_started(&self, status: &Status) -> Problem {
        let (kind, why) = match Self::lost(status) {
            Some(why) => (ErrorKind::Unavailable, why),
            None => (ErrorKind::Other, status.message()),
        };
        Problem {
            kind,
            attempt: self.attempt("starting"),
            why: why.to_owned(),
        }
    }

    async fn kill(&self) -> Result<(), BackendError> {
        // The step is pid 1 of its own PID namespace: with it goes everything that it started.
        let killed = self.line.kill(self.target(), SIGKILL).await;
        ended_is_fine(killed).map_err(|status| failed(self.attempt("killing"), &status))
    }

    /// What became of the task, where an answer shows that it is no more.
    pub(crate) fn lost(status: &Status) -> Option<&'static str> {
        if status.code() == Code::NotFound {
            return Some("build container was removed");
        }
        line::says_closed(status).then_some("the build's shim has ended")
    }

    /// Removes what is left of a step; nobody waits for that.
    pub(crate) fn forget(&self, traces: Traces) {
        let name = self.clone();
        self.scope
            .in_background(async move { name.remove(traces).await });
    }

    pub(crate) async fn remove(&self, traces: Traces) {
        match traces.own {
            Own::Exec => self.delete().await,
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
        if let Err(status) = self.line.delete(self.target()).await {
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
    async fn run(mut self, ends: Ends, tell: Tell) {
        let streams = Streams::open(&self.name, ends);
        let answer = self.name.wait().await;
        streams.close().await;
        let ended = match &mut self.traces.own {
            Own::Exec => self.name.exit_of_task(&Figures::default(), answer),
            Own::Container(rootfs) => {
                let rootfs = rootfs.take();
                let figures = rootfs.as_ref().map(|rootfs| rootfs.usage.read());
                // Whoever waits takes the step's files next: nothing may still be mounted over them.
                undo(rootfs).await;
                self.name.exit_of_task(&figures.unwrap_or_default(), answer)
            }
        };
        tell.ended.send_replace(Some(ended));
        self.name.remove(self.traces).await;
    }
}

/// A step's input and output on their way.
pub(crate) struct Streams {
    step: String,
    outputs: JoinSet<std::io::Result<()>>,
    feeding: JoinSet<()>,
}

impl Streams {
    pub(crate) fn open(name: &Name, ends: Ends) -> Self {
        let mut outputs = JoinSet::new();
        for (from, to) in ends.outputs {
            outputs.spawn(fifo::pump_out(from, to));
        }
        let mut feeding = JoinSet::new();
        if let Some((to, from)) = ends.input {
            feeding.spawn(feed(name.clone(), to, from));
        }
        Self {
            step: name.step.clone(),
            outputs,
            feeding,
        }
    }

    /// Ends the input, and takes the output that is still to come.
    pub(crate) async fn close(mut self) {
        self.feeding.shutdown().await;
        let all = async { while self.outputs.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_OUTPUT, all).await.is_err() {
            tracing::warn!(step = self.step, "a step's output has no end");
        }
    }
}

impl Name {
    /// Waits for the step's end by its shim's word: its exit code.
    pub(crate) async fn wait(&self) -> Result<u32, Status> {
        self.line.wait(self.target()).await
    }

    /// How a step ended, by its launcher's word.
    pub(crate) fn exit_of_exec(&self, outcome: StepOutcome) -> Ended {
        if let Some(failure) = outcome.failure {
            return Err(Problem {
                kind: ErrorKind::Other,
                attempt: self.attempt("starting"),
                why: failure.message,
            });
        }
        Ok(Exit {
            code: outcome.exit_code,
            out_of_memory: outcome.oom_killed,
            peak_memory: Some(outcome.peak_memory).filter(|bytes| *bytes > 0),
            cpu_micros: Some(outcome.user_cpu_us + outcome.system_cpu_us),
        })
    }

    pub(crate) fn exit_of_task(&self, figures: &Figures, answer: Result<u32, Status>) -> Ended {
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
    let closed = name.line.close_input(name.target()).await;
    if let Err(status) = closed {
        tracing::debug!(step = name.step, %status, "closing a step's input");
    }
}

/// A process that has ended takes no signal, and needs none.
fn ended_is_fine(sent: Result<(), Status>) -> Result<(), Status> {
    match sent {
        Err(status) if status.code() != Code::NotFound => Err(status),
        _ => Ok(()),
    }
}
