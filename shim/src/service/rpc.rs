//! containerd's task service over the container: requests in, answers and statuses out. It never decides what is allowed;
//! `task` does.

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest,
    StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, Status,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::protobuf::{EnumOrUnknown, Message as _, MessageField};
use containerd_shim::protos::shim::oci::ProcessDetails;
use containerd_shim::protos::types::task::ProcessInfo;
use containerd_shim::{Task as TaskService, TtrpcContext, TtrpcResult};
use oci_spec::runtime::{LinuxResources, Process as OciProcess};
use rustix::termios::{Winsize, tcsetwinsize};
use shipway_step::{STEP_TYPE_URL, StepSpec, VISIT_TYPE_URL, VisitSpec};
use ttrpc::Code;

use super::container::{PauseError, Recipe, timestamp};
use super::stdio::Stdio;
use super::{Engine, Running, Service};
use crate::task::{Key, Phase, Refusal};

#[async_trait]
impl TaskService for Service {
    async fn state(
        &self,
        _ctx: &TtrpcContext,
        request: StateRequest,
    ) -> TtrpcResult<StateResponse> {
        let running = self.running()?;
        let container = &running.container;
        let (process, stdio, paused) = container.process(&Key::from_wire(&request.exec_id))?;
        let mut response = StateResponse {
            id: request.id,
            bundle: container.bundle.display().to_string(),
            pid: process.pid,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            terminal: stdio.terminal,
            exec_id: request.exec_id,
            ..Default::default()
        };
        let status = match process.phase {
            Phase::Created | Phase::Starting => Status::CREATED,
            Phase::Running if paused => Status::PAUSED,
            Phase::Running => Status::RUNNING,
            Phase::Stopped(exit) => {
                response.exit_status = exit.code;
                response.exited_at = timestamp(exit.at);
                Status::STOPPED
            }
        };
        response.status = EnumOrUnknown::new(status);
        Ok(response)
    }

    async fn create(
        &self,
        _ctx: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> TtrpcResult<CreateTaskResponse> {
        let pid = self.create_task(request).await?;
        Ok(CreateTaskResponse {
            pid,
            ..Default::default()
        })
    }

    async fn start(
        &self,
        _ctx: &TtrpcContext,
        request: StartRequest,
    ) -> TtrpcResult<StartResponse> {
        let running = self.running()?;
        let pid = running.start(&Key::from_wire(&request.exec_id)).await?;
        Ok(StartResponse {
            pid,
            ..Default::default()
        })
    }

    async fn delete(
        &self,
        _ctx: &TtrpcContext,
        request: DeleteRequest,
    ) -> TtrpcResult<DeleteResponse> {
        drop(self.making.lock().await);
        let running = self.running()?;
        let key = Key::from_wire(&request.exec_id);
        running.end_unstarted(&key).await?;
        let (process, exit) = running.container.delete(&key)?;
        if key == Key::Init {
            let cleaned = running.clean_up().await;
            self.forget();
            cleaned?;
        }
        Ok(DeleteResponse {
            pid: process.pid,
            exit_status: exit.code,
            exited_at: timestamp(exit.at),
            ..Default::default()
        })
    }

    async fn pids(&self, _ctx: &TtrpcContext, _request: PidsRequest) -> TtrpcResult<PidsResponse> {
        let running = self.running()?;
        let names = running.container.exec_ids();
        // containerd takes a task without processes for a dead one, and destroys it.
        let mut pids = running
            .group()
            .map(|group| group.processes())
            .unwrap_or_default();
        let init = running.container.init_pid();
        if !pids.contains(&init.cast_signed()) {
            pids.insert(0, init.cast_signed());
        }
        let processes = pids.into_iter().map(|pid| {
            let pid = pid.unsigned_abs();
            let info = names.get(&pid).map(|exec_id| details(exec_id)).into();
            ProcessInfo {
                pid,
                info,
                ..Default::default()
            }
        });
        Ok(PidsResponse {
            processes: processes.collect(),
            ..Default::default()
        })
    }

    async fn pause(&self, _ctx: &TtrpcContext, _request: PauseRequest) -> TtrpcResult<Empty> {
        let running = self.running()?;
        // The container is locked while this runs, so the group is looked up before.
        let group = running
            .group()
            .map_err(|error| failed(&error.to_string()))?;
        let frozen = running.container.pause(|| group.freeze(true));
        frozen.map_err(pause_status)?;
        Ok(Empty::default())
    }

    async fn resume(&self, _ctx: &TtrpcContext, _request: ResumeRequest) -> TtrpcResult<Empty> {
        let running = self.running()?;
        // The container is locked while this runs, so the group is looked up before.
        let group = running
            .group()
            .map_err(|error| failed(&error.to_string()))?;
        let frozen = running.container.resume(|| group.freeze(false));
        frozen.map_err(pause_status)?;
        Ok(Empty::default())
    }

    async fn kill(&self, _ctx: &TtrpcContext, request: KillRequest) -> TtrpcResult<Empty> {
        let running = self.running()?;
        running.kill(
            &Key::from_wire(&request.exec_id),
            request.signal,
            request.all,
        )?;
        Ok(Empty::default())
    }

    async fn exec(&self, _ctx: &TtrpcContext, request: ExecProcessRequest) -> TtrpcResult<Empty> {
        let running = self.running()?;
        let key = Key::from_wire(&request.exec_id);
        let spec = request.spec.into_option().unwrap_or_default();
        let recipe = recipe(&spec, matches!(running.engine, Engine::Build(_)))?;
        let stdio = Stdio {
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        running.container.add_exec(&key, stdio, recipe)?;
        Ok(Empty::default())
    }

    async fn resize_pty(
        &self,
        _ctx: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> TtrpcResult<Empty> {
        let short = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let (columns, rows) = (short(request.width), short(request.height));
        let running = self.running()?;
        let terminal = running
            .container
            .resize(&Key::from_wire(&request.exec_id), (columns, rows))?;
        if let Some(terminal) = terminal {
            let size = Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            tcsetwinsize(&*terminal, size)
                .map_err(|error| failed(&format!("resizing the terminal: {error}")))?;
        }
        Ok(Empty::default())
    }

    async fn close_io(&self, _ctx: &TtrpcContext, request: CloseIORequest) -> TtrpcResult<Empty> {
        if request.stdin {
            self.running()?
                .container
                .close_input(&Key::from_wire(&request.exec_id))?;
        }
        Ok(Empty::default())
    }

    async fn update(&self, _ctx: &TtrpcContext, request: UpdateTaskRequest) -> TtrpcResult<Empty> {
        let running = self.running()?;
        let json = request.resources.into_option().unwrap_or_default().value;
        let resources: LinuxResources = serde_json::from_slice(&json)
            .map_err(|error| invalid(&format!("reading resources: {error}")))?;
        let group = running
            .group()
            .map_err(|error| failed(&error.to_string()))?;
        group
            .limit(&resources)
            .map_err(|error| failed(&format!("updating limits: {error}")))?;
        Ok(Empty::default())
    }

    async fn wait(&self, _ctx: &TtrpcContext, request: WaitRequest) -> TtrpcResult<WaitResponse> {
        let running = self.running()?;
        let exit = running
            .container
            .wait(&Key::from_wire(&request.exec_id))
            .await?;
        Ok(WaitResponse {
            exit_status: exit.code,
            exited_at: timestamp(exit.at),
            ..Default::default()
        })
    }

    async fn stats(
        &self,
        _ctx: &TtrpcContext,
        _request: StatsRequest,
    ) -> TtrpcResult<StatsResponse> {
        let running = self.running()?;
        let group = running
            .group()
            .map_err(|error| failed(&error.to_string()))?;
        let stats = super::metrics::collect(&group).map_err(|error| failed(&error.to_string()))?;
        Ok(StatsResponse {
            stats: MessageField::some(stats),
            ..Default::default()
        })
    }

    async fn connect(
        &self,
        _ctx: &TtrpcContext,
        _request: ConnectRequest,
    ) -> TtrpcResult<ConnectResponse> {
        let task_pid = self
            .running()
            .map_or(0, |running| running.container.init_pid());
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            ..Default::default()
        })
    }

    async fn shutdown(&self, _ctx: &TtrpcContext, request: ShutdownRequest) -> TtrpcResult<Empty> {
        drop(self.making.lock().await);
        if request.now || self.running().is_err() {
            self.exit.signal();
        }
        Ok(Empty::default())
    }
}

impl Running {
    /// A first process that was created and never started ends by being deleted: containerd does that when whoever asked
    /// for the task has gone meanwhile, and then forgets the shim.
    async fn end_unstarted(&self, key: &Key) -> TtrpcResult<()> {
        let (process, _, _) = self.container.process(key)?;
        if *key == Key::Init && process.phase == Phase::Created {
            let killed = self.kill(key, libc::SIGKILL.unsigned_abs(), false);
            if let Err(error) = killed
                && !is_not_found(&error)
            {
                return Err(error);
            }
            self.container.wait(key).await?;
        }
        Ok(())
    }

    /// Whether the first process was started and has not ended.
    pub(super) fn is_live(&self) -> bool {
        let init = self.container.process(&Key::Init);
        init.is_ok_and(|(process, _, _)| matches!(process.phase, Phase::Starting | Phase::Running))
    }

    async fn start(self: &Arc<Self>, key: &Key) -> TtrpcResult<u32> {
        let container = &self.container;
        let launch = container.begin_start(key)?;
        let started = match (&self.engine, key) {
            (Engine::Build(_), Key::Init) => {
                let pid = container.init_pid();
                container.started(key, pid, None);
                Ok(pid)
            }
            (Engine::Build(build), Key::Exec(_)) => build.start(container, key, &launch).await,
            (Engine::Ordinary(ordinary), Key::Init) => ordinary.start().await.map(|()| {
                let pid = container.init_pid();
                container.started(key, pid, None);
                self.watch_memory();
                pid
            }),
            (Engine::Ordinary(ordinary), Key::Exec(_)) => {
                ordinary.exec(container, key, &launch).await
            }
        };
        started.map_err(|message| {
            if *key != Key::Init {
                container.start_failed(key);
            }
            failed(&message)
        })
    }

    /// A frozen process does not die, so a kill ends a pause.
    fn end_pause(&self) -> io::Result<()> {
        let group = self.group()?;
        match self.container.resume(|| group.freeze(false)) {
            Ok(()) | Err(PauseError::Refused(_)) => Ok(()),
            Err(PauseError::Freezer(error)) => Err(error),
        }
    }

    fn kill(&self, key: &Key, signal: u32, all: bool) -> TtrpcResult<()> {
        let pid = self.container.signalled(key)?;
        let signal = i32::try_from(signal).map_err(|_| invalid("no such signal"))?;
        // Pid 1 of a namespace gets no signal from outside but this one, and a launcher has nothing to say at its end.
        let launcher = *key == Key::Init && matches!(self.engine, Engine::Build(_));
        let signal = if launcher
            && [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP].contains(&signal)
        {
            libc::SIGKILL
        } else {
            signal
        };
        if all && *key == Key::Init {
            let group = self.group().map_err(|error| failed(&error.to_string()))?;
            for pid in group.processes() {
                // One that has just ended needs no signal.
                drop(crate::sys::send_signal(pid, signal));
            }
        }
        match crate::sys::send_signal(pid.cast_signed(), signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                return Err(Refusal::Finished.into());
            }
            Err(error) => return Err(failed(&format!("signalling {pid}: {error}"))),
            Ok(()) => {}
        }
        if signal == libc::SIGKILL && self.container.is_paused() {
            self.end_pause()
                .map_err(|error| failed(&format!("ending the pause: {error}")))?;
        }
        Ok(())
    }
}

/// What an exec request asks for. Only builds have steps.
fn recipe(spec: &Any, build: bool) -> TtrpcResult<Recipe> {
    if spec.type_url == STEP_TYPE_URL {
        if !build {
            return Err(invalid("a build step needs a build container"));
        }
        StepSpec::from_any(&spec.type_url, &spec.value)
            .map_err(|error| invalid(&error.to_string()))?;
        return Ok(Recipe::Step(spec.value.clone()));
    }
    if spec.type_url == VISIT_TYPE_URL {
        if !build {
            return Err(invalid("only builds have steps to visit"));
        }
        VisitSpec::try_from(spec.value.as_slice()).map_err(|error| invalid(&error.to_string()))?;
        return Ok(Recipe::Visit(spec.value.clone()));
    }
    serde_json::from_slice::<OciProcess>(&spec.value)
        .map_err(|error| invalid(&format!("reading the process: {error}")))?;
    Ok(Recipe::Process(spec.value.clone()))
}

fn details(exec_id: &str) -> Any {
    let details = ProcessDetails {
        exec_id: exec_id.to_owned(),
        ..Default::default()
    };
    Any {
        type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
        value: details.write_to_bytes().unwrap_or_default(),
        ..Default::default()
    }
}

fn pause_status(error: PauseError) -> ttrpc::Error {
    match error {
        PauseError::Refused(refusal) => refusal.into(),
        PauseError::Freezer(source) => {
            failed(&format!("freezing or thawing the control group: {source}"))
        }
    }
}

/// An internal error.
pub(super) fn failed(message: &str) -> ttrpc::Error {
    status(Code::UNKNOWN, message)
}

pub(super) fn invalid(message: &str) -> ttrpc::Error {
    status(Code::INVALID_ARGUMENT, message)
}

pub(super) fn status(code: Code, message: &str) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message))
}

fn is_not_found(error: &ttrpc::Error) -> bool {
    matches!(error, ttrpc::Error::RpcStatus(status) if status.code() == Code::NOT_FOUND)
}

impl From<Refusal> for ttrpc::Error {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::NotFound(_) | Refusal::Finished => Code::NOT_FOUND,
            Refusal::Exists(_) => Code::ALREADY_EXISTS,
            Refusal::Phase { .. } => Code::FAILED_PRECONDITION,
        };
        status(code, &refusal.to_string())
    }
}

/// A bundle's path as containerd gave it.
pub(super) fn bundle_of(request: &CreateTaskRequest) -> &Path {
    Path::new(&request.bundle)
}
