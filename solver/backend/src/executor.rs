//! Runs steps as processes of a build's task.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use shipway_step::{StepSpec, VisitSpec};
use tokio::sync::mpsc;

use crate::BackendError;

/// What a build's task is called and belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildTask {
    /// Container id, unique, at most 76 of `[A-Za-z0-9._-]`.
    pub id: String,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
    /// Parent cgroup asked for by the build; empty for the default.
    pub cgroup_parent: String,
}

/// Makes tasks for builds.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Opens the task that a build's steps run in.
    async fn open(&self, task: BuildTask) -> Result<Arc<dyn Sandbox>, BackendError>;
    /// Removes the tasks and containers that an earlier daemon of ours left behind.
    async fn clean_up(&self) -> Result<(), BackendError>;
}

/// The task of one build.
///
/// Law: when `close` returns no process, mount or cgroup of any step remains. A process whose `Process` is dropped is killed.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// Starts a step. `id` is unique in the build, at most 76 of `[A-Za-z0-9._-]`.
    async fn start(
        &self,
        id: &str,
        step: StepSpec,
        io: StepIo,
    ) -> Result<Box<dyn Process>, BackendError>;
    /// Starts a process inside a running step, under an id as for `start`. Its end is the step's end at the latest.
    async fn enter(
        &self,
        id: &str,
        visit: VisitSpec,
        io: StepIo,
    ) -> Result<Box<dyn Process>, BackendError>;
    /// Ends every step and the task.
    async fn close(&self) -> Result<(), BackendError>;
}

/// Where a step's streams go. Chunks are raw; the senders are dropped at the end of the stream.
#[derive(Debug, Default)]
pub struct StepIo {
    /// Standard input; `None` is empty.
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    /// Standard output.
    pub stdout: Option<mpsc::Sender<Bytes>>,
    /// Standard error; unused with a terminal.
    pub stderr: Option<mpsc::Sender<Bytes>>,
}

/// A started step.
#[async_trait]
pub trait Process: Send + Sync {
    /// Waits until it runs, so that others may enter it; an error tells why it never did.
    async fn started(&self) -> Result<(), BackendError>;
    /// Waits for its end; all output has been handed over by then. May be called again.
    async fn wait(&self) -> Result<Exit, BackendError>;
    /// Sends a signal to its first process.
    async fn signal(&self, signal: i32) -> Result<(), BackendError>;
    /// Kills it with everything that it started, and waits.
    async fn kill(&self) -> Result<(), BackendError>;
    /// Resizes its terminal.
    async fn resize(&self, rows: u16, columns: u16) -> Result<(), BackendError>;
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exit {
    /// Exit code; 128 + n for signal n.
    pub code: u32,
    /// The kernel killed it for lack of memory.
    pub out_of_memory: bool,
    /// Peak memory, bytes, where measured.
    pub peak_memory: Option<u64>,
    /// CPU time in microseconds, where measured.
    pub cpu_micros: Option<u64>,
}
