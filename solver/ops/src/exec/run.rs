//! Runs a planned step: starts it, shows its output, waits, and commits its layers. What a killed or failed step wrote is
//! thrown away.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use jiff::Timestamp;
use shipway_backend::{Exit, Process, StepIo};
use shipway_engine::{OpContext, VertexProgress};
use shipway_layers::Snapshot;
use shipway_model::{Failure, FailureDetail, Platform};
use shipway_source::env::SandboxUse;
use shipway_step::StepSpec;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::caller::Caller;
use super::clip::Clip;
use super::failed::FailedStep;
use super::plan::{Output, Plan, Planner};
use super::scratch::StepFiles;
use super::specification::{Around, secret_env, specification};
use super::{ExecOperation, LogLimits, Measured};

/// Exit code of a process that was killed.
const KILLED: u32 = 137;
/// The kernel's words of a program that it can't run, in a runtime's message.
const UNRUNNABLE: &str = "exec format error";

/// How a step ended.
struct Ended {
    exit: Exit,
    /// The runtime could not execute the program, and ended in its place: runc notices when the step counts as started.
    unrunnable: bool,
}

pub(super) async fn run(
    step: &ExecOperation,
    ctx: &OpContext,
    inputs: Vec<Snapshot>,
) -> Result<Vec<Snapshot>, Failure> {
    let ops = &*step.ops;
    let need = ops.env.need(ctx).await?;
    for input in &inputs {
        input.materialise(&ops.env.layers, &need).await?;
    }
    let files = StepFiles::create(&ops.step_files)?;
    let caller = Caller::of(ctx);
    let planner = Planner {
        ops,
        caller: &caller,
        op: &step.op,
        files: &files,
        plan: Plan::new(inputs),
    };
    let mut plan = planner.plan().await?;
    let secret_env = secret_env(ops, &caller, &step.op.secret_env).await?;
    let slot = ops.env.sandbox.enter().await?;
    let around = Around {
        secret_env,
        terminal: false,
        id: &slot.step_id,
        resources: step.resources.as_ref(),
    };
    let spec = match specification(ops, &step.op, &plan, around, &files) {
        Ok(spec) => spec,
        Err(failure) => {
            slot.release().await;
            return Err(failure);
        }
    };
    let ended = supervise(step, ctx, &slot, spec, &mut plan).await;
    slot.release().await;
    let exit = ended.map_err(|failure| not_started(step, failure))?;
    let measured = Measured {
        ended: Timestamp::now(),
        exit: exit.exit.clone(),
    };
    // An operation runs once.
    drop(step.measured.set(Arc::new(measured)));
    if let Err(failure) = check(step, ctx, &exit) {
        return Err(failed(step, plan, failure).await);
    }
    let outputs = commit(step, plan).await?;
    ops.eager
        .committed(&step.info.digest, &outputs, &ops.env, &need);
    Ok(outputs)
}

/// The failure of a step that has no exit code, with its command.
fn not_started(step: &ExecOperation, failure: Failure) -> Failure {
    if failure.is_cancelled() {
        return failure;
    }
    let command = step.op.meta.args.join(" ");
    failure.context(format!("process {command:?} did not complete successfully"))
}

/// The failure of a step together with what it left; a step that was killed leaves nothing.
async fn failed(step: &ExecOperation, plan: Plan, failure: Failure) -> Failure {
    if failure.is_cancelled() {
        return failure;
    }
    let name = Arc::clone(&step.info.name);
    let op = step.op.clone();
    let layers = step.ops.env.layers.clone();
    let kept = tokio::task::spawn_blocking(move || FailedStep::keep(&op, plan, &name, &layers));
    match kept.await {
        Ok(Ok(left)) => failure.with(left.detail(&step.marshalled)),
        Ok(Err(error)) => {
            tracing::warn!(%error, "what a failed step wrote is lost");
            failure
        }
        Err(error) => {
            tracing::warn!(%error, "what a failed step wrote is lost");
            failure
        }
    }
}

/// Starts the step and waits for its end; kills it where nobody wants it any more.
async fn supervise(
    step: &ExecOperation,
    ctx: &OpContext,
    slot: &SandboxUse,
    spec: StepSpec,
    plan: &mut Plan,
) -> Result<Ended, Failure> {
    let (stdout, out) = mpsc::channel(16);
    let (stderr, err) = mpsc::channel(16);
    let io = StepIo {
        stdin: None,
        stdout: Some(stdout),
        stderr: Some(stderr),
    };
    let mut beside = JoinSet::new();
    for agent in plan.agents.drain(..) {
        beside.spawn(agent.serve());
    }
    let started = Instant::now();
    let process = slot.sandbox.start(&slot.step_id, spec, io).await;
    let hint = |error: Failure| hinted(error, &step.platform, &step.ops.env.platform);
    let process: Box<dyn Process> = process.map_err(|error| hint(error.into()))?;
    let show = |from, stream| {
        show(
            ctx.progress_handle(),
            from,
            stream,
            started,
            step.ops.log_limits,
        )
    };
    let wait = async {
        tokio::select! {
            // A program that can't be executed may be noticed only now.
            exit = process.wait() => exit.map_err(|error| hint(error.into())),
            () = ctx.cancelled().cancelled() => {
                process.kill().await?;
                Ok(Exit { code: KILLED, ..Exit::default() })
            }
        }
    };
    let (exit, (mut out, _), (mut err, first)) = tokio::join!(wait, show(out, 1), show(err, 2));
    beside.shutdown().await;
    let exit = exit?;
    if !succeeded(step, &exit) {
        for (stream, clip) in [(1, &mut out), (2, &mut err)] {
            for piece in clip.withheld() {
                ctx.progress().log(stream, piece);
            }
        }
    }
    Ok(Ended {
        exit,
        unrunnable: is_unrunnable(&first),
    })
}

/// True for runc's own message, which is all that such a step says: `exec /bin/x: exec format error`.
fn is_unrunnable(first: &[u8]) -> bool {
    let text = String::from_utf8_lossy(first);
    text.starts_with("exec ") && text.trim_end().ends_with(UNRUNNABLE)
}

/// Says what a machine lacks that can't run a program made for another one.
fn hinted(mut failure: Failure, wanted: &Platform, own: &Platform) -> Failure {
    let foreign = wanted.architecture != own.architecture;
    if foreign && failure.message.contains(UNRUNNABLE) {
        failure.message = format!(
            "{}: programs for {wanted} need an emulator that is registered with binfmt_misc (flag F) on this machine, \
             which is {own}",
            failure.message
        )
        .into();
    }
    failure
}

/// Shows a stream; gives its first piece as well.
async fn show(
    progress: Arc<VertexProgress>,
    mut from: mpsc::Receiver<Bytes>,
    stream: u8,
    started: Instant,
    limits: LogLimits,
) -> (Clip, Bytes) {
    let mut clip = Clip::new(limits);
    let mut first = Bytes::new();
    while let Some(piece) = from.recv().await {
        if first.is_empty() {
            first = piece.clone();
        }
        for shown in clip.take(piece, started.elapsed()) {
            progress.log(stream, shown);
        }
    }
    (clip, first)
}

fn succeeded(step: &ExecOperation, exit: &Exit) -> bool {
    let valid = &step.op.meta.valid_exit_codes;
    if valid.is_empty() {
        return exit.code == 0;
    }
    valid
        .iter()
        .any(|&code| u32::try_from(code) == Ok(exit.code))
}

fn check(step: &ExecOperation, ctx: &OpContext, ended: &Ended) -> Result<(), Failure> {
    let exit = &ended.exit;
    let command = step.op.meta.args.join(" ");
    let failed = format!(
        "process {command:?} did not complete successfully: exit code: {}",
        exit.code
    );
    if ctx.cancelled().is_cancelled() {
        return Err(Failure::cancelled().context(failed));
    }
    if succeeded(step, exit) {
        return Ok(());
    }
    let failed = if exit.out_of_memory {
        format!("{failed}: cannot allocate memory")
    } else if ended.unrunnable {
        format!("{failed}: {UNRUNNABLE}")
    } else {
        failed
    };
    let failure = Failure::new(failed).with(FailureDetail::Exit(exit.code));
    Err(hinted(failure, &step.platform, &step.ops.env.platform))
}

async fn commit(step: &ExecOperation, plan: Plan) -> Result<Vec<Snapshot>, Failure> {
    let name = Arc::clone(&step.info.name);
    let mut outputs = plan.outputs;
    outputs.sort_by_key(|planned| planned.number);
    drop(plan.discarded);
    let committed = tokio::task::spawn_blocking(move || {
        let each = outputs.into_iter().map(|planned| match planned.output {
            Output::Unchanged(input) => Ok(input),
            Output::Changed(input, building) => {
                let layer = building.finish(&name, Timestamp::now())?;
                Ok(input.with(layer))
            }
        });
        each.collect::<Result<Vec<_>, Failure>>()
    });
    committed.await.map_err(|e| Failure::from_error(&e))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_runtimes_own_words_are_taken_for_a_program_that_cannot_run() {
        assert!(is_unrunnable(b"exec /bin/sh: exec format error\n"));
        assert!(!is_unrunnable(b"sh: ./x: exec format error\n"));
        assert!(!is_unrunnable(b"exec format error is what I print\n"));
        assert!(!is_unrunnable(b""));
    }
}
