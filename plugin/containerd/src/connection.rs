//! The one connection to containerd: made when it is needed, made anew after a restart. Decides for how long a call is
//! asked again when containerd is away.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Response, Status};

use crate::error::{is_down, was_never_sent};

/// How long a restart of containerd may take before calls fail.
const RESTART: Duration = Duration::from_secs(10);
/// First pause between two tries.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a shim is asked to run its runtime.
const RUNS: usize = 6;
/// Unread bytes of one call: blobs are read in messages of 1 MiB and less.
const STREAM_WINDOW: u32 = 4 << 20;

/// What the names of processes' parts of the state directory begin with.
const RUN: &str = "run-";

/// What the adapter is to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// containerd's socket.
    pub socket: PathBuf,
    /// A directory of this instance's own for pipes, results and mounts of steps: private, better in memory. What an earlier
    /// process of the instance left in it is removed by the executor's `clean_up`.
    pub state: PathBuf,
    /// Tells this daemon's containers and leases from another daemon's on the same containerd; stays the same when the daemon
    /// is restarted. Letters, digits, `.`, `_` and `-`.
    pub instance: String,
    /// The runtime of builds: [`shipway_step::RUNTIME`], or the absolute path of a shim.
    pub runtime: String,
    /// Run each step as a task of runc's shim, also where containerd could start ours.
    pub step_tasks: bool,
    /// The cgroup that builds' cgroups are made in where a build asks for none, such as `/shipway`.
    pub cgroup_parent: String,
}

/// The connection and what is shared by everything that uses it.
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) settings: Settings,
    /// Tells this process from an earlier one of the same instance.
    pub(crate) process: String,
    /// This process's part of the state directory.
    pub(crate) state: PathBuf,
    /// Builds of this process whose steps are tasks of their own.
    pub(crate) open_builds: Mutex<HashSet<String>>,
    /// Where containerd keeps blobs, once it has been asked.
    pub(crate) content_root: OnceCell<Option<PathBuf>>,
    /// Blobs may be placed there; false once containerd did not find one.
    pub(crate) places_blobs: AtomicBool,
    /// What ends in the background: leases, aborted uploads, deleted steps.
    pub(crate) background: TaskTracker,
}

impl Connection {
    /// Connects at the first call.
    pub(crate) fn new(settings: Settings) -> Self {
        let socket = settings.socket.clone();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(4 * STREAM_WINDOW)
            .connect_with_connector_lazy(connect);
        let process = uuid::Uuid::new_v4().simple().to_string();
        Self {
            channel,
            state: settings.state.join(format!("{RUN}{}", &process[..12])),
            settings,
            process,
            open_builds: Mutex::default(),
            content_root: OnceCell::new(),
            places_blobs: AtomicBool::new(true),
            background: TaskTracker::new(),
        }
    }
}

impl Connection {
    /// Parts of the state directory that earlier processes of this instance left.
    pub(crate) fn left_behind(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.settings.state)
            .into_iter()
            .flatten()
            .flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(RUN))
            .map(|entry| entry.path())
            .filter(|path| *path != self.state)
            .collect()
    }
}

/// Makes a call that may be repeated, until containerd is there.
pub(crate) async fn repeat<T, F>(call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    retry(call, is_down).await
}

/// Makes a call that has a shim run its runtime, as [`repeat`] does, and again when that fails: on runc's shim a call
/// runs a process that anything may kill.
pub(crate) async fn insist<T, F>(mut call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut pause = PAUSE;
    for _ in 1..RUNS {
        match repeat(&mut call).await {
            Err(status) if status.code() == Code::Unknown && !is_down(&status) => {
                tracing::debug!(%status, "a shim's call failed and is made again");
            }
            answered => return answered,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    repeat(call).await
}

/// Makes a call that may take effect once only: repeated while containerd is not there at all.
pub(crate) async fn once<T, F>(call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    retry(call, was_never_sent).await
}

async fn retry<T, F>(
    mut call: impl FnMut() -> F,
    again: impl Fn(&Status) -> bool,
) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut deadline = Instant::now() + RESTART;
    let mut pause = PAUSE;
    loop {
        let began = Instant::now();
        let status = match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        if began.elapsed() > RESTART {
            // It was there for a while (a wait may take hours): this is another restart.
            deadline = Instant::now() + RESTART;
            pause = PAUSE;
        }
        if !again(&status) || Instant::now() >= deadline {
            return Err(status);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a call is made whose first answers are these, and what comes of it.
    async fn insisted(answers: &[Code]) -> (usize, Result<(), Code>) {
        let mut made = 0;
        let answered = insist(|| {
            let code = answers.get(made).copied().unwrap_or(Code::Ok);
            made += 1;
            async move {
                match code {
                    Code::Ok => Ok(Response::new(())),
                    code => Err(Status::new(code, "runc was killed")),
                }
            }
        });
        let answered = answered.await.map_err(|status| status.code());
        (made, answered)
    }

    #[tokio::test]
    async fn a_runtime_that_is_killed_is_run_again() {
        assert_eq!(insisted(&[Code::Unknown; 2]).await, (3, Ok(())));
        let ever = [Code::Unknown; 100];
        assert_eq!(insisted(&ever).await, (RUNS, Err(Code::Unknown)));
        let gone = [Code::Unknown, Code::NotFound];
        assert_eq!(insisted(&gone).await, (2, Err(Code::NotFound)));
    }
}
