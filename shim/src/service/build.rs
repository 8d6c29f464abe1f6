//! The shim's side of a build: starts the launcher, passes orders to it and its reports on. It never mounts or clones.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Stdio as Inherit;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, OFlags, fcntl_getfl, fcntl_setfl, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tracing::warn;

use super::container::{Container, Launch, Recipe};
use super::helper::own_program;
use super::reaper::Reaper;
use crate::launcher::wire::{self, Order, ProcessKind, Report};
use crate::sys::send_signal;
use crate::task::Key;

/// Somebody who waits for a start.
type Starting = oneshot::Sender<Result<u32, String>>;

/// The connection to a build's launcher.
#[derive(Debug)]
pub(crate) struct Build {
    socket: AsyncFd<OwnedFd>,
    starting: Mutex<HashMap<String, Starting>>,
    /// Why the launcher could not set itself up.
    broken: Mutex<Option<String>>,
    /// The launcher's pid.
    pub(crate) pid: i32,
}

impl Build {
    /// Starts a launcher. It goes on setting itself up afterwards; the first order waits for that.
    pub(crate) async fn launch(bundle: &Path) -> io::Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let flags = fcntl_getfl(&ours)?;
        fcntl_setfl(&ours, flags | OFlags::NONBLOCK)?;
        let child = own_program()
            .arg("launcher")
            .arg(bundle)
            .stdin(Inherit::from(theirs))
            .stdout(Inherit::null())
            .stderr(Inherit::null())
            .spawn()?;
        // The process that was started ends once there is a launcher; the reaper takes it.
        drop(child);
        let socket = crate::sys::watch(ours)?;
        let (report, _) = receive(&socket)
            .await?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        match report {
            Report::Launched { pid } => Ok(Self {
                socket,
                starting: Mutex::default(),
                broken: Mutex::default(),
                pid,
            }),
            other => Err(io::Error::other(format!(
                "the launcher began with {other:?}"
            ))),
        }
    }

    /// Starts an exec and gives its pid.
    pub(crate) async fn start(
        &self,
        container: &Container,
        key: &Key,
        launch: &Launch,
    ) -> Result<u32, String> {
        let (sender, receiver) = oneshot::channel();
        self.waiting().insert(key.exec_id().to_owned(), sender);
        if let Err(error) = self.order(container, key, launch).await {
            self.waiting().remove(key.exec_id());
            return Err(self.why_not(&error.to_string()));
        }
        receiver
            .await
            .unwrap_or_else(|_| Err(self.why_not("the build's launcher has ended")))
    }

    /// What the launcher said when it gave up, or else what was noticed of it.
    fn why_not(&self, noticed: &str) -> String {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken
            .clone()
            .unwrap_or_else(|| format!("asking the launcher: {noticed}"))
    }

    /// Passes the launcher's reports on until it has ended.
    pub(crate) async fn follow(self: Arc<Self>, container: Arc<Container>, reaper: Reaper) {
        loop {
            match receive(&self.socket).await {
                Ok(Some((report, descriptors))) => self.take(&container, report, descriptors),
                Ok(None) => break,
                Err(error) => {
                    warn!("reading the launcher's reports: {error}");
                    // Without reports it is of no use; its end is the one thing that can still be told.
                    drop(send_signal(self.pid, libc::SIGKILL));
                    break;
                }
            }
        }
        let ended = reaper.end_of(self.pid).await;
        self.waiting().clear();
        container.init_exited(ended.code);
    }

    async fn order(&self, container: &Container, key: &Key, launch: &Launch) -> io::Result<()> {
        let (kind, json) = match &launch.recipe {
            Recipe::Step(json) => (ProcessKind::Step, json),
            Recipe::Process(json) => (ProcessKind::Visitor, json),
            Recipe::Visit(json) => (ProcessKind::Visit, json),
            Recipe::Bundle => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let mut memory = File::from(memfd_create("step", MemfdFlags::CLOEXEC)?);
        memory.write_all(json)?;
        let streams = if launch.stdio.terminal {
            [None, None, None]
        } else {
            let opened = launch.stdio.open(&container.subject())?;
            container.keep_input(key, opened.input);
            opened.streams
        };
        let order = Order {
            id: key.exec_id().to_owned(),
            kind,
            streams: streams.each_ref().map(Option::is_some),
            size: launch.size,
        };
        let descriptors: Vec<_> = std::iter::once(memory.as_fd())
            .chain(streams.iter().flatten().map(|fd| fd.as_fd()))
            .collect();
        let send = |socket: &OwnedFd| wire::send(socket, &order, &descriptors);
        self.socket.async_io(Interest::WRITABLE, send).await
    }

    fn take(&self, container: &Container, report: Report, descriptors: Vec<OwnedFd>) {
        match report {
            Report::Started { id } => {
                let mut descriptors = descriptors.into_iter();
                let pid = descriptors
                    .next()
                    .map_or(Ok(0), |pidfd| pid_of(&pidfd))
                    .unwrap_or(0);
                container.started(&Key::from_wire(&id), pid, descriptors.next());
                self.answer(&id, Ok(pid));
            }
            Report::Failed { id, message } => {
                container.start_failed(&Key::from_wire(&id));
                self.answer(&id, Err(message));
            }
            Report::Exited { id, outcome } => {
                if outcome.oom_killed {
                    container.out_of_memory();
                }
                container.exited(&Key::from_wire(&id), outcome.exit_code);
            }
            Report::Broken { message } => {
                warn!("the launcher is broken: {message}");
                *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
            }
            Report::Launched { .. } => warn!("the launcher introduced itself twice"),
        }
    }

    fn answer(&self, id: &str, result: Result<u32, String>) {
        if let Some(starting) = self.waiting().remove(id) {
            // Whoever asked may have gone.
            drop(starting.send(result));
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<String, Starting>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<(Report, Vec<OwnedFd>)>> {
    socket
        .async_io(Interest::READABLE, |socket| wire::receive(socket))
        .await
}

/// The pid, in this process's PID namespace, of the process that a pidfd stands for; 0 when it has ended and is gone.
fn pid_of(pidfd: &OwnedFd) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid: i64 = line
        .and_then(|pid| pid.trim().parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(u32::try_from(pid).unwrap_or(0))
}
