//! An executor that starts no process: what a step does is told by a script.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use shipway_step::{StepSpec, VisitSpec};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::lock;
use crate::suite::executor::Program;
use crate::{BackendError, BuildTask, ErrorKind, Executor, Exit, Process, Sandbox, StepIo};

/// What a step does. What it does to files the script does itself, before it answers.
#[derive(Debug, Clone, Default)]
pub struct FakeRun {
    /// What it says.
    pub stdout: Bytes,
    /// What it says on standard error.
    pub stderr: Bytes,
    /// Standard input goes to standard output.
    pub copies_input: bool,
    /// How it ends; `None` runs until it is killed.
    pub exit: Option<Exit>,
}

impl FakeRun {
    /// A step that does nothing and ends with this code.
    #[must_use]
    pub fn exit(code: u32) -> Self {
        Self {
            exit: Some(Exit {
                code,
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// Tells what a step does; an error is a step that cannot be started.
type Script = dyn Fn(&StepSpec) -> Result<FakeRun, String> + Send + Sync;

/// An executor that starts no process. Clones are the same one.
#[derive(Clone)]
pub struct FakeExecutor {
    script: Arc<Script>,
    started: Arc<Mutex<Vec<StepSpec>>>,
}

impl Default for FakeExecutor {
    /// Knows the suite's programs, and ends every other with code 0.
    fn default() -> Self {
        Self::new(|step| match Program::of(step) {
            Some(program) => run(program),
            None => Ok(FakeRun::exit(0)),
        })
    }
}

impl FakeExecutor {
    /// An executor with this script.
    pub fn new(
        script: impl Fn(&StepSpec) -> Result<FakeRun, String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            script: Arc::new(script),
            started: Arc::default(),
        }
    }

    /// The steps started so far, in order.
    #[must_use]
    pub fn started(&self) -> Vec<StepSpec> {
        lock(&self.started).clone()
    }
}

fn run(program: Program) -> Result<FakeRun, String> {
    match program {
        Program::Speak => Ok(FakeRun {
            stdout: "out\n".into(),
            stderr: "err\n".into(),
            ..FakeRun::exit(3)
        }),
        Program::Copy => Ok(FakeRun {
            copies_input: true,
            ..FakeRun::exit(0)
        }),
        Program::Flood => Ok(FakeRun {
            stdout: vec![0; 1 << 20].into(),
            ..FakeRun::exit(0)
        }),
        Program::Sleep => Ok(FakeRun::default()),
        Program::Missing => Err("exec: \"/no/such/program\": no such file or directory".to_owned()),
    }
}

#[async_trait]
impl Executor for FakeExecutor {
    async fn open(&self, task: BuildTask) -> Result<Arc<dyn Sandbox>, BackendError> {
        Ok(Arc::new(FakeSandbox {
            task,
            executor: self.clone(),
            closed: CancellationToken::new(),
            lives: Mutex::default(),
        }))
    }

    async fn clean_up(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

struct FakeSandbox {
    task: BuildTask,
    executor: FakeExecutor,
    closed: CancellationToken,
    /// Its steps.
    lives: Mutex<JoinSet<()>>,
}

#[async_trait]
impl Sandbox for FakeSandbox {
    async fn start(
        &self,
        id: &str,
        step: StepSpec,
        io: StepIo,
    ) -> Result<Box<dyn Process>, BackendError> {
        let attempt = format!("starting step {id} of build {}", self.task.id);
        if self.closed.is_cancelled() {
            let why = "the build has ended";
            return Err(BackendError::caused(ErrorKind::Cancelled, attempt, why));
        }
        lock(&self.executor.started).push(step.clone());
        let run = (self.executor.script)(&step)
            .map_err(|why| BackendError::caused(ErrorKind::Other, attempt, why))?;
        let killed = self.closed.child_token();
        let (tell, exit) = watch::channel(None);
        let mut lives = lock(&self.lives);
        lives.spawn(live(run, io, killed.clone(), tell));
        Ok(Box::new(FakeProcess { killed, exit }))
    }

    /// A visit copies its input and ends.
    async fn enter(
        &self,
        id: &str,
        visit: VisitSpec,
        io: StepIo,
    ) -> Result<Box<dyn Process>, BackendError> {
        let attempt = format!("entering step {} as {id}", visit.step);
        if self.closed.is_cancelled() {
            let why = "the build has ended";
            return Err(BackendError::caused(ErrorKind::Cancelled, attempt, why));
        }
        let killed = self.closed.child_token();
        let (tell, exit) = watch::channel(None);
        let run = FakeRun {
            copies_input: true,
            ..FakeRun::exit(0)
        };
        let mut lives = lock(&self.lives);
        lives.spawn(live(run, io, killed.clone(), tell));
        Ok(Box::new(FakeProcess { killed, exit }))
    }

    async fn close(&self) -> Result<(), BackendError> {
        self.closed.cancel();
        Ok(())
    }
}

/// A step's life.
async fn live(
    run: FakeRun,
    io: StepIo,
    killed: CancellationToken,
    tell: watch::Sender<Option<Exit>>,
) {
    let exit = killed.run_until_cancelled(play(run, io)).await;
    let killed = Exit {
        code: 137,
        ..Default::default()
    };
    tell.send_replace(Some(exit.unwrap_or(killed)));
}

async fn play(run: FakeRun, mut io: StepIo) -> Exit {
    for (to, text) in [(&io.stdout, run.stdout), (&io.stderr, run.stderr)] {
        if let Some(to) = to.as_ref().filter(|_| !text.is_empty()) {
            // A consumer may have left.
            let _unheard = to.send(text).await;
        }
    }
    while let (true, Some(input)) = (run.copies_input, &mut io.stdin) {
        let Some(data) = input.recv().await else {
            break;
        };
        if let Some(to) = &io.stdout {
            let _unheard = to.send(data).await;
        }
    }
    match run.exit {
        Some(exit) => exit,
        None => std::future::pending().await,
    }
}

struct FakeProcess {
    killed: CancellationToken,
    exit: watch::Receiver<Option<Exit>>,
}

#[async_trait]
impl Process for FakeProcess {
    async fn started(&self) -> Result<(), BackendError> {
        Ok(())
    }

    async fn wait(&self) -> Result<Exit, BackendError> {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        let ended = ended.map_err(|_| BackendError::new(ErrorKind::Cancelled, "waiting"))?;
        Ok(ended.clone().unwrap_or_default())
    }

    async fn signal(&self, signal: i32) -> Result<(), BackendError> {
        if matches!(signal, 9 | 15) {
            self.killed.cancel();
        }
        Ok(())
    }

    async fn kill(&self) -> Result<(), BackendError> {
        self.killed.cancel();
        self.wait().await?;
        Ok(())
    }

    async fn resize(&self, _rows: u16, _columns: u16) -> Result<(), BackendError> {
        Ok(())
    }
}

impl Drop for FakeProcess {
    fn drop(&mut self) {
        self.killed.cancel();
    }
}

#[cfg(test)]
mod tests {
    use shipway_step::LayerStack;

    use super::*;

    #[tokio::test]
    async fn the_fake_passes_the_suite() {
        let root = || LayerStack::read_only(["/"]);
        crate::suite::executor::all(&FakeExecutor::default(), &root).await;
    }
}
