//! A step as an exec in its build's task. Decides when it has ended: the launcher says so over a pipe of its own, before
//! containerd has answered so much as the start, and that word counts for more than containerd's, which a dead shim cannot
//! give. Nothing on the way from one step to the next waits for an answer that only confirms what is known.

use std::path::{Path, PathBuf};
use std::pin::pin;

use shipway_backend::{BackendError, StepIo};
use shipway_step::{STEP_TYPE_URL, StepOutcome, StepSpec, VISIT_TYPE_URL, VisitSpec};
use tonic::Status;

use crate::fifo::{Pipes, Word};
use crate::line::NewExec;
use crate::single::Figures;
use crate::step::{Ended, Name, Step, Streams, Tell, Traces};

/// What the shim is asked to run as an exec.
pub(crate) struct Recipe {
    pub(crate) type_url: &'static str,
    pub(crate) value: Vec<u8>,
    pub(crate) terminal: bool,
}

impl Recipe {
    fn step(name: &Name, step: &StepSpec) -> Result<Self, BackendError> {
        let value = step.to_any_value();
        let process = step.spec.process().as_ref();
        let terminal = process.and_then(oci_spec::runtime::Process::terminal);
        Ok(Self {
            type_url: STEP_TYPE_URL,
            value: value.map_err(|error| name.error("describing", error))?,
            terminal: terminal.unwrap_or(false),
        })
    }

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

/// The pipe that the launcher writes a step's outcome to.
const OUTCOME: &str = "outcome";

impl Step {
    /// Adds the step to its build's task. Whether its start succeeds is told by [`wait`](shipway_backend::Process::wait).
    pub(crate) async fn start(
        name: Name,
        dir: PathBuf,
        mut step: StepSpec,
        io: StepIo,
    ) -> Result<Self, BackendError> {
        let prepare = || {
            let pipes = Pipes::create(&dir, io)?;
            Ok((pipes, Word::create(&dir.join(OUTCOME))?))
        };
        let prepared: std::io::Result<_> = prepare();
        let (pipes, word) = prepared.map_err(|error| name.error("preparing", error))?;
        step.result = Some(dir.join(OUTCOME));
        let recipe = Recipe::step(&name, &step)?;
        let traces = Traces::of_exec(dir);
        if let Err(error) = name.exec(recipe, &pipes).await {
            name.forget(traces);
            return Err(error);
        }
        let (step, tell) = Self::new(name.clone());
        let life = run(name.clone(), traces, pipes, word, tell);
        name.scope.in_background(life);
        Ok(step)
    }

    /// A process that enters a running step, as its task's shim understands `recipe`. No launcher speaks for it: what
    /// containerd says of its end counts.
    pub(crate) async fn enter(
        name: Name,
        dir: PathBuf,
        recipe: Recipe,
        io: StepIo,
    ) -> Result<Self, BackendError> {
        let pipes = Pipes::create(&dir, io);
        let pipes = pipes.map_err(|error| name.error("preparing", error))?;
        let traces = Traces::of_exec(dir);
        let started = async {
            name.exec(recipe, &pipes).await?;
            let begun = name.begin().await;
            begun.map_err(|status| name.not_started(&status).into())
        };
        if let Err(error) = started.await {
            name.forget(traces);
            return Err(error);
        }
        let (step, life) = Self::run(name.clone(), traces, pipes.started());
        name.scope.in_background(life);
        Ok(step)
    }
}

/// Who said how a step ended.
enum Heard {
    Launcher(StepOutcome),
    Containerd(Ended),
}

/// A step from its start to the end of its traces.
async fn run(name: Name, traces: Traces, pipes: Pipes, mut word: Word, tell: Tell) {
    let (ends, held) = pipes.split();
    let mut held = Some(held);
    let streams = Streams::open(&name, ends);
    let mut starting = pin!(name.begin());
    let mut waiting = pin!(name.wait());
    let mut begun = false;
    let heard = loop {
        tokio::select! {
            biased;
            outcome = word.read(), if word.is_open() => match outcome {
                Ok(outcome) => break Heard::Launcher(outcome),
                Err(error) => tracing::warn!(?name, %error, "a step's outcome cannot be read"),
            },
            started = &mut starting, if !begun => {
                begun = true;
                held = None;
                tell.begun.send_replace(true);
                if let Err(status) = started {
                    break Heard::Containerd(Err(name.not_started(&status)));
                }
            }
            answer = &mut waiting, if begun => {
                break Heard::Containerd(name.exit_of_task(&Figures::default(), answer));
            }
        }
    };
    // The shim has opened its own ends, or never will.
    drop(held);
    streams.close().await;
    let ended = match heard {
        Heard::Launcher(outcome) => name.exit_of_exec(outcome),
        Heard::Containerd(ended) => match word.last() {
            Some(outcome) => name.exit_of_exec(outcome),
            None => ended,
        },
    };
    tell.ended.send_replace(Some(ended));
    if !begun && let Err(status) = starting.await {
        tracing::debug!(?name, %status, "the start of a step that has ended");
    }
    name.remove(traces).await;
}

impl Name {
    async fn exec(&self, recipe: Recipe, pipes: &Pipes) -> Result<(), BackendError> {
        let path = |path: &Option<PathBuf>| {
            let path = path.as_deref().unwrap_or_else(|| Path::new(""));
            path.to_string_lossy().into_owned()
        };
        let new = NewExec {
            stdin: path(&pipes.stdin),
            stdout: path(&pipes.stdout),
            stderr: path(&pipes.stderr),
            terminal: recipe.terminal,
            type_url: recipe.type_url,
            value: recipe.value,
        };
        let added = self.line.exec(self.target(), new).await;
        added.map_err(|status| self.not_started(&status).into())
    }

    async fn begin(&self) -> Result<(), Status> {
        self.line.start(self.target()).await
    }
}
