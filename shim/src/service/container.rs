//! One container: its task's state together with the handles of its processes. What happens to a process and the event that
//! tells of it are one step under one lock, so that no event overtakes another.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use containerd_shim::event::Event;
use containerd_shim::protos::events::task::{
    TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused, TaskResumed,
    TaskStart,
};
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::watch;
use tracing::warn;

use super::events::Events;
use super::logger::Subject;
use super::stdio::{Input, Stdio, make_nonblocking};
use crate::task::{Exit, Key, Phase, Process, Refusal, Task};

/// What a process is started from.
#[derive(Debug, Clone)]
pub(crate) enum Recipe {
    /// The container's own specification.
    Bundle,
    /// The JSON of a build step.
    Step(Vec<u8>),
    /// The JSON of an OCI process.
    Process(Vec<u8>),
    /// The JSON of a process that enters a build step.
    Visit(Vec<u8>),
}

/// What a start needs.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) stdio: Stdio,
    pub(crate) recipe: Recipe,
    /// The terminal's size, if the client has set it already: columns and rows.
    pub(crate) size: Option<(u16, u16)>,
}

/// What the shim holds for a process.
#[derive(Debug)]
struct Handle {
    stdio: Stdio,
    recipe: Recipe,
    input: Option<Input>,
    terminal: Option<Arc<OwnedFd>>,
    /// The terminal's size as it was set before there was one: columns and rows.
    size: Option<(u16, u16)>,
    ended: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    task: Task,
    handles: HashMap<Key, Handle>,
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) bundle: PathBuf,
    events: Events,
    state: Mutex<State>,
}

impl Container {
    /// A container whose first process waits with this pid.
    pub(crate) fn new(
        subject: &Subject,
        bundle: PathBuf,
        pid: u32,
        stdio: Stdio,
        events: Events,
    ) -> Self {
        let handles = HashMap::from([(Key::Init, Handle::new(stdio, Recipe::Bundle))]);
        let state = Mutex::new(State {
            task: Task::new(pid),
            handles,
        });
        Self {
            id: subject.id.clone(),
            namespace: subject.namespace.clone(),
            bundle,
            events,
            state,
        }
    }

    /// Whose output loggers get.
    pub(crate) fn subject(&self) -> Subject {
        Subject {
            id: self.id.clone(),
            namespace: self.namespace.clone(),
        }
    }

    pub(crate) fn process(&self, key: &Key) -> Result<(Process, Stdio, bool), Refusal> {
        let state = self.state();
        let process = state.task.process(key)?;
        let stdio = state
            .handles
            .get(key)
            .map(|handle| handle.stdio.clone())
            .unwrap_or_default();
        Ok((process, stdio, state.task.is_paused()))
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.state().task.is_paused()
    }

    pub(crate) fn init_pid(&self) -> u32 {
        self.state()
            .task
            .process(&Key::Init)
            .map_or(0, |process| process.pid)
    }

    /// The exec ids of the pids that have one.
    pub(crate) fn exec_ids(&self) -> HashMap<u32, String> {
        let state = self.state();
        let named = state
            .task
            .processes()
            .filter(|(key, process)| **key != Key::Init && process.pid != 0);
        named
            .map(|(key, process)| (process.pid, key.exec_id().to_owned()))
            .collect()
    }

    pub(crate) fn add_exec(&self, key: &Key, stdio: Stdio, recipe: Recipe) -> Result<(), Refusal> {
        let mut state = self.state();
        state.task.add_exec(key)?;
        state
            .handles
            .insert(key.clone(), Handle::new(stdio, recipe));
        let event = TaskExecAdded {
            container_id: self.id.clone(),
            exec_id: key.exec_id().to_owned(),
            ..Default::default()
        };
        self.tell(&event);
        Ok(())
    }

    /// Begins a start and gives what it needs.
    pub(crate) fn begin_start(&self, key: &Key) -> Result<Launch, Refusal> {
        let mut state = self.state();
        state.task.begin_start(key)?;
        let handle = state.handles.get(key);
        let handle = handle.ok_or_else(|| Refusal::NotFound(key.exec_id().to_owned()))?;
        Ok(Launch {
            stdio: handle.stdio.clone(),
            recipe: handle.recipe.clone(),
            size: handle.size,
        })
    }

    /// Keeps a process's input coming.
    pub(crate) fn keep_input(&self, key: &Key, input: Option<Input>) {
        if let Some(handle) = self.state().handles.get_mut(key) {
            handle.input = input;
        }
    }

    /// A process runs.
    pub(crate) fn started(&self, key: &Key, pid: u32, terminal: Option<OwnedFd>) {
        if let Some(terminal) = terminal {
            self.attach(key, terminal);
        }
        let mut state = self.state();
        state.task.started(key, pid);
        let container_id = self.id.clone();
        match key {
            Key::Init => self.tell(&TaskStart {
                container_id,
                pid,
                ..Default::default()
            }),
            Key::Exec(id) => {
                let exec_id = id.clone();
                self.tell(&TaskExecStarted {
                    container_id,
                    exec_id,
                    pid,
                    ..Default::default()
                });
            }
        }
    }

    /// Gives a process its terminal, and serves it from now on.
    pub(crate) fn attach(&self, key: &Key, terminal: OwnedFd) {
        if let Err(error) = make_nonblocking(&terminal) {
            warn!("terminal of {:?}: {error}", key.exec_id());
        }
        let terminal = Arc::new(terminal);
        let mut state = self.state();
        let Some(handle) = state.handles.get_mut(key) else {
            return;
        };
        handle.terminal = Some(Arc::clone(&terminal));
        let serve = handle
            .stdio
            .clone()
            .serve_terminal(terminal, self.subject());
        let id = key.exec_id().to_owned();
        tokio::spawn(async move {
            if let Err(error) = serve.await {
                warn!("copying the terminal of {id:?}: {error}");
            }
        });
    }

    /// A process has ended. Told twice, the first counts.
    pub(crate) fn exited(&self, key: &Key, code: u32) {
        let mut state = self.state();
        self.end(
            &mut state,
            key,
            Exit {
                code,
                at: SystemTime::now(),
            },
            true,
        );
    }

    /// A process could not be started: it counts as ended, without an event.
    pub(crate) fn start_failed(&self, key: &Key) {
        let mut state = self.state();
        self.end(
            &mut state,
            key,
            Exit {
                code: 255,
                at: SystemTime::now(),
            },
            false,
        );
    }

    /// The first process has ended, and with it every other.
    pub(crate) fn init_exited(&self, code: u32) {
        let mut state = self.state();
        let at = SystemTime::now();
        for key in state.task.live_execs() {
            let ran = state
                .task
                .process(&key)
                .is_ok_and(|process| process.pid != 0);
            self.end(&mut state, &key, Exit { code: 137, at }, ran);
        }
        self.end(&mut state, &Key::Init, Exit { code, at }, true);
    }

    /// The kernel has killed for lack of memory.
    pub(crate) fn out_of_memory(&self) {
        self.tell(&TaskOOM {
            container_id: self.id.clone(),
            ..Default::default()
        });
    }

    pub(crate) fn signalled(&self, key: &Key) -> Result<u32, Refusal> {
        self.state().task.signalled(key)
    }

    /// Waits for a process's end.
    pub(crate) async fn wait(&self, key: &Key) -> Result<Exit, Refusal> {
        loop {
            let mut ended = match self.exit_of(key)? {
                Ok(exit) => return Ok(exit),
                Err(ended) => ended,
            };
            // An error means that the process was deleted meanwhile; then the look above says so.
            drop(ended.wait_for(|ended| *ended).await);
        }
    }

    /// How a process has ended, or what tells when it does.
    fn exit_of(&self, key: &Key) -> Result<Result<Exit, watch::Receiver<bool>>, Refusal> {
        let state = self.state();
        if let Phase::Stopped(exit) = state.task.process(key)?.phase {
            return Ok(Ok(exit));
        }
        let handle = state.handles.get(key);
        let handle = handle.ok_or_else(|| Refusal::NotFound(key.exec_id().to_owned()))?;
        Ok(Err(handle.ended.subscribe()))
    }

    /// Marks the task paused, and tells so; `freeze` does it. The container is locked meanwhile.
    pub(crate) fn pause(
        &self,
        freeze: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<(), PauseError> {
        let mut state = self.state();
        state.task.pause()?;
        if let Err(error) = freeze() {
            state.task.resume()?;
            return Err(error.into());
        }
        self.tell(&TaskPaused {
            container_id: self.id.clone(),
            ..Default::default()
        });
        Ok(())
    }

    /// Marks the task running again, and tells so; `thaw` does it.
    pub(crate) fn resume(
        &self,
        thaw: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<(), PauseError> {
        let mut state = self.state();
        state.task.resume()?;
        if let Err(error) = thaw() {
            state.task.pause()?;
            return Err(error.into());
        }
        self.tell(&TaskResumed {
            container_id: self.id.clone(),
            ..Default::default()
        });
        Ok(())
    }

    /// Forgets a process that has ended.
    pub(crate) fn delete(&self, key: &Key) -> Result<(Process, Exit), Refusal> {
        let mut state = self.state();
        let deleted = state.task.delete(key)?;
        state.handles.remove(key);
        if *key == Key::Init {
            let (process, exit) = deleted;
            self.tell(&TaskDelete {
                container_id: self.id.clone(),
                pid: process.pid,
                exit_status: exit.code,
                exited_at: timestamp(exit.at),
                ..Default::default()
            });
        }
        Ok(deleted)
    }

    /// No more input will come.
    pub(crate) fn close_input(&self, key: &Key) -> Result<(), Refusal> {
        let state = self.state();
        state.task.process(key)?;
        let handle = state.handles.get(key);
        if let Some(input) = handle.and_then(|handle| handle.input.as_ref()) {
            input.close();
        }
        Ok(())
    }

    /// The terminal of a process to resize, if there is one by now; else the size is kept for when there is.
    pub(crate) fn resize(
        &self,
        key: &Key,
        size: (u16, u16),
    ) -> Result<Option<Arc<OwnedFd>>, Refusal> {
        let mut state = self.state();
        state.task.process(key)?;
        let Some(handle) = state.handles.get_mut(key) else {
            return Ok(None);
        };
        handle.size = Some(size);
        Ok(handle.terminal.clone())
    }

    fn end(&self, state: &mut State, key: &Key, exit: Exit, tell: bool) {
        let pid = state.task.process(key).map_or(0, |process| process.pid);
        if !state.task.exited(key, exit) {
            return;
        }
        if let Some(handle) = state.handles.get_mut(key) {
            handle.input = None;
            handle.ended.send_replace(true);
        }
        if tell {
            let id = if *key == Key::Init {
                self.id.clone()
            } else {
                key.exec_id().to_owned()
            };
            self.tell(&TaskExit {
                container_id: self.id.clone(),
                id,
                pid,
                exit_status: exit.code,
                exited_at: timestamp(exit.at),
                ..Default::default()
            });
        }
    }

    /// Tells an event of this container.
    pub(crate) fn tell(&self, event: &impl Event) {
        self.events.tell(&self.namespace, event);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a task was not paused or resumed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PauseError {
    /// It can't be in its state.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The freezer did not.
    #[error("freezing or thawing the control group")]
    Freezer(#[from] std::io::Error),
}

impl Handle {
    fn new(stdio: Stdio, recipe: Recipe) -> Self {
        let (ended, _) = watch::channel(false);
        Self {
            stdio,
            recipe,
            input: None,
            terminal: None,
            size: None,
            ended,
        }
    }
}

/// A time on the wire.
pub(crate) fn timestamp(at: SystemTime) -> MessageField<Timestamp> {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    MessageField::some(Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
        ..Default::default()
    })
}

/// A process's streams on the wire.
pub(crate) fn task_io(stdio: &Stdio) -> MessageField<TaskIO> {
    MessageField::some(TaskIO {
        stdin: stdio.stdin.clone(),
        stdout: stdio.stdout.clone(),
        stderr: stdio.stderr.clone(),
        terminal: stdio.terminal,
        ..Default::default()
    })
}
