//! Runs a planned step: starts it, shows its output, waits, and commits its layers. What a killed or failed step wrote is
//! thrown away.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use jiff::Timestamp;
use shipway_backend::{Exit, Process, StepIo};
use shipway_engine::{OpContext, VertexProgress};
use shipway_layers::Snapshot;
use shipway_model::op::NetMode;
use shipway_model::{Failure, FailureDetail};
use shipway_source::env::SandboxUse;
use shipway_step::{MountAttribute, MountSource, MountStubs, StepMount, StepSpec};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::clip::Clip;
use super::plan::{Output, Plan, Planner, secret_value};
use super::scratch::StepFiles;
use super::spec::{HOSTNAME, SpecInputs, runtime_spec};
use super::{ExecOperation, LogLimits, net_files};

/// Exit code of a process that was killed.
const KILLED: u32 = 137;

pub(super) async fn run(
    step: &ExecOperation,
    ctx: &OpContext,
    inputs: Vec<Snapshot>,
) -> Result<Vec<Snapshot>, Failure> {
    let ops = &*step.ops;
    let need = ops.env.need(ctx).await;
    for input in &inputs {
        input.materialise(&ops.env.layers, &need).await?;
    }
    let files = StepFiles::create(&ops.step_files)?;
    let plan = Plan::new(inputs);
    let planner = Planner {
        ops,
        ctx,
        op: &step.op,
        files: &files,
        plan,
    };
    let mut plan = planner.plan().await?;
    let secret_env = secret_env(step, ctx).await?;
    let slot = ops.env.sandbox.enter().await?;
    let spec = specification(step, &plan, secret_env, &slot.step_id, &files)?;
    let ended = supervise(step, ctx, &slot, spec, &mut plan).await;
    slot.release().await;
    check(step, ctx, &ended?)?;
    let outputs = commit(step, plan).await?;
    ops.eager
        .committed(&step.info.digest, &outputs, &ops.env, &need);
    Ok(outputs)
}

async fn secret_env(step: &ExecOperation, ctx: &OpContext) -> Result<Vec<String>, Failure> {
    let mut variables = Vec::new();
    for secret in &step.op.secret_env {
        let value = secret_value(&step.ops, ctx, &secret.id, secret.optional).await?;
        let value = String::from_utf8(value.unwrap_or_default()).map_err(|e| {
            Failure::from_error(&e).context(format!("secret {} as a variable", secret.id))
        })?;
        variables.push(format!("{}={value}", secret.name));
    }
    Ok(variables)
}

fn specification(
    step: &ExecOperation,
    plan: &Plan,
    secret_env: Vec<String>,
    id: &str,
    files: &StepFiles,
) -> Result<StepSpec, Failure> {
    let op = &step.op;
    let inputs = SpecInputs {
        secret_env,
        ssh_socket: plan.ssh_socket.clone(),
        shm_size: plan.shm_size,
        resources: step.resources.as_ref(),
        terminal: false,
        readonly_root: plan.readonly_root,
        id,
    };
    let hostname = if op.meta.hostname.is_empty() {
        HOSTNAME
    } else {
        &op.meta.hostname
    };
    let hosts = net_files::hosts(hostname, &op.meta.extra_hosts);
    let host_resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let host_network = op.network != NetMode::None;
    let resolver = net_files::resolv_conf(&host_resolver, host_network, &step.ops.dns);
    let given = |path: &str| {
        plan.mounts
            .iter()
            .any(|m| m.destination.as_os_str() == path)
    };
    let mut mounts = Vec::new();
    for (path, name, text) in [
        ("/etc/hosts", "hosts", hosts),
        ("/etc/resolv.conf", "resolv.conf", resolver),
    ] {
        if !given(path) {
            let file = files.file(name, text.as_bytes(), 0o644)?;
            let mount = StepMount::new(path, MountSource::path(file));
            mounts.push(mount.with([MountAttribute::ReadOnly]));
        }
    }
    mounts.extend(plan.mounts.iter().cloned());
    let stubs = if op.meta.remove_mount_stubs_recursive {
        MountStubs::RemoveWithParents
    } else {
        MountStubs::Remove
    };
    Ok(StepSpec {
        spec: runtime_spec(op, &inputs),
        root: plan.root.clone(),
        mounts,
        user: Some(op.meta.user.clone()),
        create_cwd: true,
        stubs,
        result: Some(files.path("outcome")),
    })
}

/// Starts the step and waits for its end; kills it where nobody wants it any more.
async fn supervise(
    step: &ExecOperation,
    ctx: &OpContext,
    slot: &SandboxUse<'_>,
    spec: StepSpec,
    plan: &mut Plan,
) -> Result<Exit, Failure> {
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
    let process: Box<dyn Process> = slot.sandbox.start(&slot.step_id, spec, io).await?;
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
            exit = process.wait() => exit.map_err(Failure::from),
            () = ctx.cancelled().cancelled() => {
                process.kill().await?;
                Ok(Exit { code: KILLED, ..Exit::default() })
            }
        }
    };
    let (exit, mut out, mut err) = tokio::join!(wait, show(out, 1), show(err, 2));
    beside.shutdown().await;
    let exit = exit?;
    if !succeeded(step, &exit) {
        for (stream, clip) in [(1, &mut out), (2, &mut err)] {
            for piece in clip.withheld() {
                ctx.progress().log(stream, piece);
            }
        }
    }
    Ok(exit)
}

async fn show(
    progress: Arc<VertexProgress>,
    mut from: mpsc::Receiver<Bytes>,
    stream: u8,
    started: Instant,
    limits: LogLimits,
) -> Clip {
    let mut clip = Clip::new(limits);
    while let Some(piece) = from.recv().await {
        for shown in clip.take(piece, started.elapsed()) {
            progress.log(stream, shown);
        }
    }
    clip
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

fn check(step: &ExecOperation, ctx: &OpContext, exit: &Exit) -> Result<(), Failure> {
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
    } else {
        failed
    };
    Err(Failure::new(failed).with(FailureDetail::Exit(exit.code)))
}

async fn commit(step: &ExecOperation, plan: Plan) -> Result<Vec<Snapshot>, Failure> {
    let name = Arc::clone(&step.info.name);
    let mut outputs = plan.outputs;
    outputs.sort_by_key(|(output, _)| *output);
    drop(plan.discarded);
    let committed = tokio::task::spawn_blocking(move || {
        let each = outputs.into_iter().map(|(_, output)| match output {
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
