//! The shim as containerd sees it: started by it, serving one container, cleaning up after itself or after one that was
//! killed. It never forks in this process, which has threads.

mod build;
mod console;
mod container;
mod direct;
mod events;
mod executor;
pub(crate) mod helper;
pub(crate) mod logger;
mod metrics;
mod oom;
mod ordinary;
mod reaper;
mod rpc;
mod stdio;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use containerd_shim::api::{CreateTaskRequest, DeleteResponse, Options};
use containerd_shim::protos::events::task::TaskCreate;
use containerd_shim::protos::protobuf::Message as _;
use containerd_shim::publisher::RemotePublisher;
use containerd_shim::{Config, Error, ExitSignal, Flags, Shim, StartOpts, TtrpcResult, spawn};
use oci_spec::runtime::Spec;
use shipway_step::{RUNTIME, daemon_socket, is_build};
use tracing::{error, warn};
use ttrpc::Code;

use self::build::Build;
use self::container::{Container, task_io, timestamp};
use self::events::Events;
use self::helper::{Operation, Request, RootMount, own_program};
use self::logger::Subject;
use self::ordinary::Ordinary;
use self::reaper::Reaper;
use self::rpc::{bundle_of, failed, status};
use self::stdio::Stdio;
use crate::cgroup::{Group, Hierarchies};
use crate::launcher::build_cgroup;
use crate::sys::send_signal;
use crate::task::Key;

/// How long the shim's end waits for its last events.
const LAST_EVENTS: Duration = Duration::from_secs(3);
/// How often a shim without a task looks whether one may still come.
const LOOK: Duration = Duration::from_millis(500);
/// For how long one may still come.
const UNUSED: Duration = Duration::from_secs(60);
/// The file in a bundle that names the first process, for whoever cleans up.
const PID_FILE: &str = "init.pid";

/// Runs the shim.
pub(crate) fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| error!("{panic}")));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return ExitCode::FAILURE;
    };
    let config = Config {
        no_reaper: true,
        ..Default::default()
    };
    runtime.block_on(containerd_shim::run::<Service>(RUNTIME, Some(config)));
    // Streams that are still waited for must not keep the process.
    runtime.shutdown_background();
    ExitCode::SUCCESS
}

/// What runs a container's processes.
#[derive(Debug)]
enum Engine {
    Build(Arc<Build>),
    Ordinary(Ordinary),
}

/// The container, with what runs it.
#[derive(Debug)]
struct Running {
    container: Arc<Container>,
    engine: Engine,
    spec: Spec,
}

/// The shim. Clones share everything.
#[derive(Clone)]
pub(crate) struct Service {
    subject: Subject,
    bundle: PathBuf,
    exit: Arc<ExitSignal>,
    reaper: Reaper,
    events: Arc<Mutex<Option<Events>>>,
    running: Arc<Mutex<Option<Arc<Running>>>>,
    /// Held while the task is made: who wants to end it has to wait, or would leave it behind.
    making: Arc<tokio::sync::Mutex<()>>,
    /// What serves a build's daemon.
    direct: Arc<Mutex<Option<ttrpc::r#async::Server>>>,
}

#[async_trait]
impl Shim for Service {
    type T = Service;

    async fn new(_runtime_id: &str, args: &Flags, _config: &mut Config) -> Self {
        let bundle = if args.bundle.is_empty() {
            std::env::current_dir().unwrap_or_default()
        } else {
            args.bundle.clone().into()
        };
        let service = Self {
            subject: Subject {
                id: args.id.clone(),
                namespace: args.namespace.clone(),
            },
            bundle,
            exit: Arc::default(),
            reaper: Reaper::default(),
            events: Arc::default(),
            running: Arc::default(),
            making: Arc::default(),
            direct: Arc::default(),
        };
        if args.action.is_empty() {
            let (service, socket) = (service.clone(), args.socket.clone());
            std::thread::spawn(move || service.end_if_abandoned(&socket));
        }
        service
    }

    async fn start_shim(&mut self, opts: StartOpts) -> Result<String, Error> {
        let grouping = opts.id.clone();
        spawn(opts, &grouping, Vec::new()).await
    }

    async fn delete_shim(&mut self) -> Result<DeleteResponse, Error> {
        let (bundle, id) = (self.bundle.clone(), self.subject.id.clone());
        let pid =
            clean_up_after_shim(&bundle, &id).map_err(|error| Error::Other(error.to_string()))?;
        Ok(DeleteResponse {
            pid,
            exit_status: 128 + 9,
            exited_at: timestamp(SystemTime::now()),
            ..Default::default()
        })
    }

    async fn wait(&mut self) {
        self.exit.wait().await;
        let events = self.told_by().clone();
        if let Some(events) = events {
            events.flush(LAST_EVENTS).await;
        }
    }

    async fn create_task_service(&self, publisher: RemotePublisher) -> Self {
        let (events, forwarder) = Events::new(&publisher.address);
        tokio::spawn(forwarder.run());
        *self.told_by() = Some(events);
        let reaper = self.reaper.clone();
        tokio::spawn(async move {
            if let Err(error) = reaper.run().await {
                error!("reaping: {error}");
            }
        });
        self.clone()
    }
}

impl Service {
    /// Ends the shim when containerd gave up between starting it and starting its task, because its client had gone: it
    /// then removes the bundle and keeps no record of the shim, so nobody else would ever end it. A thread of its own:
    /// such a shim may wait for a reader of its log, long before it serves.
    fn end_if_abandoned(&self, socket: &str) {
        let began = Instant::now();
        loop {
            std::thread::sleep(LOOK);
            let making = self.making.blocking_lock();
            let running = self.running().ok();
            if running.as_ref().is_some_and(|running| running.is_live()) {
                return;
            }
            let unused = running.is_none() && began.elapsed() > UNUSED;
            if !self.bundle.exists() || unused {
                if let Some(Err(error)) = running.map(|running| running.abandon()) {
                    error!("ending an abandoned task: {error}");
                }
                // Whoever ends a shim in the usual way finds this address in the bundle.
                if let Some(path) = socket.strip_prefix("unix://") {
                    drop(std::fs::remove_file(path));
                }
                std::process::exit(1);
            }
            drop(making);
        }
    }

    async fn create_task(&self, request: CreateTaskRequest) -> TtrpcResult<u32> {
        let _making = self.making.lock().await;
        if self.running().is_ok() {
            let message = format!("task {} already exists", request.id);
            return Err(status(Code::ALREADY_EXISTS, &message));
        }
        let bundle = bundle_of(&request);
        let spec = Spec::load(bundle.join("config.json"))
            .map_err(|error| failed(&format!("reading the container's specification: {error}")))?;
        let stdio = Stdio {
            terminal: request.terminal,
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        };
        let running = if is_build(&spec) {
            self.create_build(bundle, stdio.clone(), spec).await?
        } else {
            self.create_ordinary(&request, stdio.clone(), spec).await?
        };
        let pid = running.container.init_pid();
        if let Err(error) = std::fs::write(bundle.join(PID_FILE), pid.to_string()) {
            warn!("writing the pid file: {error}");
        }
        running.container.tell(&TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: task_io(&stdio),
            checkpoint: request.checkpoint.clone(),
            pid,
            ..Default::default()
        });
        *self.slot() = Some(Arc::new(running));
        Ok(pid)
    }

    async fn create_build(&self, bundle: &Path, stdio: Stdio, spec: Spec) -> TtrpcResult<Running> {
        if let Some(socket) = daemon_socket(&spec) {
            let served = direct::serve(self.clone(), socket).await;
            let server = served.map_err(|error| failed(&format!("serving the daemon: {error}")))?;
            *self.direct.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
        }
        let build = Build::launch(bundle).await;
        let build = build.map_err(|error| failed(&format!("starting the launcher: {error}")))?;
        let container = self.container(bundle, build.pid.unsigned_abs(), stdio)?;
        let build = Arc::new(build);
        tokio::spawn(Arc::clone(&build).follow(Arc::clone(&container), self.reaper.clone()));
        Ok(Running {
            container,
            engine: Engine::Build(build),
            spec,
        })
    }

    async fn create_ordinary(
        &self,
        request: &CreateTaskRequest,
        stdio: Stdio,
        spec: Spec,
    ) -> TtrpcResult<Running> {
        let bundle = bundle_of(request);
        let id = self.subject.id.clone();
        let ordinary = Ordinary::new(id, bundle.to_owned(), self.reaper.clone());
        let systemd = options_of(request).systemd_cgroup;
        let rootfs = root_mounts(request);
        let created = ordinary
            .create(&self.subject, &stdio, rootfs, systemd)
            .await;
        let created = created.map_err(|message| failed(&message))?;
        let container = self.container(bundle, created.pid, stdio)?;
        container.keep_input(&Key::Init, created.opened.input);
        if let Some(terminal) = created.terminal {
            container.attach(&Key::Init, terminal);
        }
        ordinary.follow(&container, &Key::Init, created.pid);
        Ok(Running {
            container,
            engine: Engine::Ordinary(ordinary),
            spec,
        })
    }

    fn container(&self, bundle: &Path, pid: u32, stdio: Stdio) -> TtrpcResult<Arc<Container>> {
        let events = self.told_by().clone();
        let events = events.ok_or_else(|| failed("the shim does not serve yet"))?;
        let bundle = bundle.to_owned();
        Ok(Arc::new(Container::new(
            &self.subject,
            bundle,
            pid,
            stdio,
            events,
        )))
    }

    fn running(&self) -> TtrpcResult<Arc<Running>> {
        self.slot().clone().ok_or_else(|| {
            status(
                Code::NOT_FOUND,
                &format!("task {} not found", self.subject.id),
            )
        })
    }

    fn forget(&self) {
        *self.slot() = None;
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told_by(&self) -> MutexGuard<'_, Option<Events>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// The control group with all processes.
    fn group(&self) -> io::Result<Group> {
        let hierarchies = Hierarchies::find()?;
        match &self.engine {
            Engine::Build(_) => Ok(Group::at(
                &hierarchies,
                &build_cgroup(&self.spec, &self.container.bundle),
            )),
            Engine::Ordinary(_) => Group::of_process(&hierarchies, self.container.init_pid()),
        }
    }

    /// Ends a task that was never started, without its bundle.
    fn abandon(&self) -> io::Result<()> {
        // A process that has ended has no pid any more: by now it may be somebody else's.
        if let Ok(pid) = self.container.signalled(&Key::Init)
            && send_signal(pid.cast_signed(), libc::SIGKILL).is_ok()
        {
            // What still sets itself up would make its control group anew.
            wait_for_death(pid);
        }
        match &self.engine {
            Engine::Build(_) => self.group()?.destroy(),
            // Its control group may not be its alone.
            Engine::Ordinary(_) => Ok(()),
        }
    }

    /// Publishes the kernel's OOM kills of an ordinary container. (The launcher tells those of steps.)
    fn watch_memory(&self) {
        let container = Arc::clone(&self.container);
        let group = self.group();
        tokio::spawn(async move {
            let watched = match group {
                Ok(group) => oom::watch(container, group).await,
                Err(error) => Err(error),
            };
            if let Err(error) = watched {
                warn!("watching for lack of memory: {error}");
            }
        });
    }

    /// Removes what the container leaves on the machine.
    async fn clean_up(&self) -> TtrpcResult<()> {
        match &self.engine {
            Engine::Ordinary(ordinary) => {
                ordinary.delete().await.map_err(|message| failed(&message))
            }
            Engine::Build(_) => {
                let group = self.group().map_err(|error| failed(&error.to_string()))?;
                let destroyed = tokio::task::spawn_blocking(move || group.destroy()).await;
                let destroyed = destroyed.map_err(|error| failed(&error.to_string()))?;
                destroyed.map_err(|error| {
                    failed(&format!("removing the build's control group: {error}"))
                })
            }
        }
    }
}

fn options_of(request: &CreateTaskRequest) -> Options {
    let any = request.options.clone().into_option().unwrap_or_default();
    if any.type_url != "containerd.runc.v1.Options" {
        return Options::default();
    }
    Options::parse_from_bytes(&any.value).unwrap_or_default()
}

fn root_mounts(request: &CreateTaskRequest) -> Vec<RootMount> {
    let mounts = request.rootfs.iter().map(|mount| RootMount {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    });
    mounts.collect()
}

/// What containerd asks for when it has lost a shim: nothing of the container may stay. Gives the first process's pid.
fn clean_up_after_shim(bundle: &Path, id: &str) -> io::Result<u32> {
    let pid = std::fs::read_to_string(bundle.join(PID_FILE))
        .ok()
        .and_then(|pid| pid.trim().parse::<u32>().ok());
    let Ok(spec) = Spec::load(bundle.join("config.json")) else {
        return Ok(pid.unwrap_or(0));
    };
    if is_build(&spec) {
        for launcher in launchers(bundle) {
            if send_signal(launcher.cast_signed(), libc::SIGKILL).is_ok() {
                wait_for_death(launcher);
            }
        }
        let group = Group::at(&Hierarchies::find()?, &build_cgroup(&spec, bundle));
        group.destroy()?;
    } else {
        let request = Request {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            operation: Operation::Delete,
        };
        own_program()
            .arg("container")
            .arg(serde_json::to_string(&request)?)
            .arg(bundle.join("answer-delete.json"))
            .stdout(std::process::Stdio::null())
            .status()?;
    }
    helper::unmount_all(bundle);
    Ok(pid.unwrap_or(0))
}

/// Waits, for a second at most, until a killed process is gone or a zombie.
fn wait_for_death(pid: u32) {
    for _ in 0..100 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        match stat.rsplit_once(')') {
            Some((_, rest)) if !rest.trim_start().starts_with(['Z', 'X']) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

/// The launchers of a bundle: one that was just being made is in no pid file, and would make its control group anew.
fn launchers(bundle: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_launcher(*pid, bundle)).collect()
}

/// Whether a pid is that of a launcher of the bundle.
fn is_launcher(pid: u32, bundle: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut args = line.split(|byte| *byte == 0);
    args.nth(1) == Some(b"launcher".as_slice())
        && args
            .next()
            .is_some_and(|path| path == bundle.as_os_str().as_encoded_bytes())
}
