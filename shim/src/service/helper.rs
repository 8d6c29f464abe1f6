//! Runs libcontainer, which must not fork in a process with threads: each operation on an ordinary container is a fresh
//! process of this binary, with the container's streams as its own.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerd_shim::mount::mount_rootfs;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::executor::ProgramExecutor;
use super::reaper::Reaper;
use crate::cgroup::{DeviceRule, Group, Hierarchies, default_rules};

/// The directory in a bundle that libcontainer keeps its state in.
const STATE: &str = "state";

/// An operation on an ordinary container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) operation: Operation,
}

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Operation {
    /// Mount the root and create the container; answers its pid.
    Create {
        /// What to mount at the bundle's `rootfs`, in order.
        rootfs: Vec<RootMount>,
        /// Where to send the terminal's master.
        console: Option<PathBuf>,
        /// Whether systemd manages the control group.
        systemd: bool,
    },
    /// Let the created container run.
    Start,
    /// Start another process in it; answers its pid.
    Exec {
        /// A file with the process's JSON.
        process: PathBuf,
        /// Where to send the terminal's master.
        console: Option<PathBuf>,
    },
    /// Kill what is left of it and remove its traces.
    Delete,
}

/// A mount of the root.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RootMount {
    pub(crate) kind: String,
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) options: Vec<String>,
}

/// What the process answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done(i32),
    Failed(String),
}

/// Performs an operation in a process of its own; gives the pid that it answers, 0 for none.
pub(crate) async fn perform(
    request: &Request,
    streams: [Option<OwnedFd>; 3],
    reaper: &Reaper,
) -> Result<u32, String> {
    let answer = request.bundle.join(format!("answer-{}.json", serial()));
    let pid =
        spawn(request, &answer, streams).map_err(|error| format!("starting a helper: {error}"))?;
    let ended = reaper.end_of(pid).await;
    let json = fs::read(&answer);
    drop(fs::remove_file(&answer));
    let read =
        json.map_err(|_| format!("the helper ended with code {} and no answer", ended.code))?;
    match serde_json::from_slice(&read) {
        Ok(Answer::Done(pid)) => Ok(pid.unsigned_abs()),
        Ok(Answer::Failed(message)) => Err(message),
        Err(error) => Err(format!("reading the helper's answer: {error}")),
    }
}

/// This very binary, even if its file was replaced meanwhile, under its usual name.
pub(crate) fn own_program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("containerd-shim-shipway-v1");
    command
}

fn spawn(request: &Request, answer: &Path, streams: [Option<OwnedFd>; 3]) -> io::Result<i32> {
    let [input, output, error] = streams.map(|stream| stream.map_or_else(Stdio::null, Stdio::from));
    let child = own_program()
        .arg("container")
        .arg(serde_json::to_string(request)?)
        .arg(answer)
        .stdin(input)
        .stdout(output)
        .stderr(error)
        .spawn()?;
    i32::try_from(child.id()).map_err(io::Error::other)
}

fn serial() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Runs as `container REQUEST ANSWER`, fresh and single-threaded.
pub(crate) fn main(mut args: impl Iterator<Item = OsString>) -> io::Result<()> {
    let (request, answer) = (
        args.next().unwrap_or_default(),
        args.next().unwrap_or_default(),
    );
    let answer = PathBuf::from(answer);
    let said = match serde_json::from_str::<Request>(&request.to_string_lossy()) {
        Err(error) => Answer::Failed(format!("reading the request: {error}")),
        Ok(request) => match request.perform() {
            Ok(pid) => Answer::Done(pid),
            Err(error) => Answer::Failed(said(&*error)),
        },
    };
    let draft = answer.with_extension("new");
    fs::write(&draft, serde_json::to_vec(&said)?)?;
    fs::rename(draft, answer)
}

type Failure = Box<dyn std::error::Error>;

impl Request {
    fn perform(&self) -> Result<i32, Failure> {
        let state = self.bundle.join(STATE);
        match &self.operation {
            Operation::Create {
                rootfs,
                console,
                systemd,
            } => {
                mount_all(&self.bundle, rootfs)?;
                fs::create_dir_all(&state)?;
                let container = ContainerBuilder::new(self.id.clone(), SyscallType::default())
                    .with_root_path(&state)?
                    .with_console_socket(console.clone())
                    .with_executor(ProgramExecutor)
                    .validate_id()?
                    .as_init(&self.bundle)
                    .with_systemd(*systemd)
                    .with_detach(true)
                    .build();
                let container = container.inspect_err(|_| unmount_all(&self.bundle))?;
                let pid = container.pid().map_or(0, nix_pid);
                confine_devices(&self.bundle, pid)?;
                Ok(pid)
            }
            Operation::Start => {
                self.load()?.start()?;
                Ok(0)
            }
            Operation::Exec { process, console } => {
                let pid = ContainerBuilder::new(self.id.clone(), SyscallType::default())
                    .with_root_path(&state)?
                    .with_console_socket(console.clone())
                    .with_executor(ProgramExecutor)
                    .as_tenant()
                    .with_process(Some(process))
                    .with_detach(true)
                    .build()?;
                Ok(nix_pid(pid))
            }
            Operation::Delete => {
                if state.join(&self.id).exists() {
                    self.load()?.delete(true)?;
                }
                unmount_all(&self.bundle);
                Ok(0)
            }
        }
    }

    fn load(&self) -> Result<Container, LibcontainerError> {
        Container::load(self.bundle.join(STATE).join(&self.id))
    }
}

/// libcontainer sets device rules on cgroup v1; on v2 that is done here, before the container's program starts.
fn confine_devices(bundle: &Path, pid: i32) -> Result<(), Failure> {
    let hierarchies = Hierarchies::find()?;
    if !matches!(hierarchies, Hierarchies::Unified(_)) {
        return Ok(());
    }
    let spec = Spec::load(bundle.join("config.json"))?;
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let Some(rules) = resources.and_then(|resources| resources.devices().as_ref()) else {
        return Ok(());
    };
    // What is needed for a terminal and for /dev is always allowed, as container runtimes do.
    let always = default_rules().into_iter().filter(|rule| rule.allow);
    let rules: Vec<DeviceRule> = rules.iter().map(DeviceRule::from).chain(always).collect();
    let group = Group::of_process(&hierarchies, pid.unsigned_abs())?;
    Ok(group.allow_devices(&rules)?)
}

/// libcontainer brings a `nix` of its own, whose type can't be named here.
fn nix_pid(pid: impl Into<i32>) -> i32 {
    pid.into()
}

fn mount_all(bundle: &Path, mounts: &[RootMount]) -> Result<(), Failure> {
    let root = bundle.join("rootfs");
    fs::create_dir_all(&root)?;
    let given = |text: &str| {
        if text.is_empty() {
            None
        } else {
            Some(text.to_owned())
        }
    };
    for mount in mounts {
        let target = root.join(mount.target.trim_start_matches('/'));
        let (kind, source) = (given(&mount.kind), given(&mount.source));
        let mounted = mount_rootfs(kind.as_deref(), source.as_deref(), &mount.options, &target);
        mounted.inspect_err(|_| unmount_all(bundle))?;
    }
    Ok(())
}

/// Takes off whatever is mounted at the bundle's root; nothing being there is fine.
pub(crate) fn unmount_all(bundle: &Path) {
    let root = bundle.join("rootfs");
    while nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).is_ok() {}
}

fn said(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}
