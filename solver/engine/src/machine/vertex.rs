//! One operation on certain inputs, and the state of its work, which all its outputs share. It decides nothing.

use std::sync::Arc;

use shipway_cache::KeyId;
use shipway_model::Digest;

use super::arena::Slot;
use super::node::NodeId;
use crate::context::TaskId;
use crate::job::JobKey;
use crate::{CacheMap, EngineError, Operation, VertexProgress};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct VertexId(u32);

impl Slot for VertexId {
    fn new(number: u32) -> Self {
        Self(number)
    }

    fn number(self) -> u32 {
        self.0
    }
}

/// Work that is done once.
pub(super) enum Work<T> {
    Idle,
    Running(TaskId),
    /// Cancelled, but not ended; begun again after that if it is wanted again.
    Ending(TaskId),
    Done(T),
}

impl<T> Work<T> {
    pub(super) const fn done(&self) -> Option<&T> {
        match self {
            Self::Done(value) => Some(value),
            Self::Idle | Self::Running(_) | Self::Ending(_) => None,
        }
    }

    pub(super) const fn task(&self) -> Option<TaskId> {
        match self {
            Self::Running(task) | Self::Ending(task) => Some(*task),
            Self::Idle | Self::Done(_) => None,
        }
    }
}

impl<V> Vertex<V> {
    /// Tasks that have not ended.
    pub(super) fn open_tasks(&self) -> Vec<TaskId> {
        let mut tasks: Vec<_> = self.map.task().into_iter().collect();
        tasks.extend(self.hashed.iter().filter_map(Work::task));
        tasks.extend(self.exec.task());
        tasks
    }
}

pub(super) struct Vertex<V> {
    pub(super) op: Arc<dyn Operation<V>>,
    pub(super) digest: Digest,
    pub(super) forced: bool,
    pub(super) inputs: Vec<NodeId>,
    pub(super) nodes: Vec<NodeId>,
    /// Jobs that have it; every one of them also has its inputs, what its nodes are merged into, and `nested`.
    pub(super) jobs: Vec<JobKey>,
    /// Vertices of builds that its operation made.
    pub(super) nested: Vec<VertexId>,
    pub(super) map: Work<Arc<CacheMap<V>>>,
    /// Per input: prepared, and its content key where it has one.
    pub(super) hashed: Vec<Work<Option<KeyId>>>,
    pub(super) exec: Work<Vec<V>>,
    /// Tasks that lost one of their jobs, and perhaps with it the session that they use: their failure counts for nothing.
    pub(super) bereft: Vec<TaskId>,
    pub(super) failure: Option<EngineError>,
    pub(super) progress: Arc<VertexProgress>,
}
