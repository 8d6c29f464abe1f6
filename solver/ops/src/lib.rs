//! Exec, file, merge, diff and build as engine operations, and the graph of operations that a definition stands for.

pub mod cache_mounts;
pub mod cdi;
mod content;
mod eager;
mod exec;
mod file;
pub mod graph;
mod nested;
mod stack;

pub use cache_mounts::{CacheMountInfo, CacheMounts};
pub use eager::Eager;
pub use exec::Measured;
pub use exec::container::{Container, ContainerRequest, ProcessRequest};
pub use exec::failed::{FailedOp, FailedStep, KeptResult};
pub use exec::{DnsConfig, LogLimits, View};
pub use graph::{OpsEnv, graph};
