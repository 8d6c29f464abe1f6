//! One output of a vertex: how far it is, who wants it, by which keys it is known. It decides nothing.

use shipway_cache::{KeyId, ResultId};
use shipway_model::Digest;

use super::arena::Slot;
use super::vertex::VertexId;
use super::{RunKey, WaiterId};
use crate::EngineError;
use crate::context::TaskId;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NodeId(u32);

impl Slot for NodeId {
    fn new(number: u32) -> Self {
        Self(number)
    }

    fn number(self) -> u32 {
        self.0
    }
}

/// How much is known of a node, or wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Level {
    /// Nothing.
    #[default]
    None,
    /// All keys that follow from definitions.
    Fast,
    /// All keys, also those that follow from the content of inputs.
    Slow,
    /// The value.
    Value,
}

pub(super) enum Phase<V> {
    /// Looking for keys and records.
    Matching,
    /// A record was found.
    Loading(TaskId),
    /// The vertex runs; what it gives is recorded under this key.
    Running(Option<RunKey>),
    Done(V),
    Failed(EngineError),
}

pub(super) struct Node<V> {
    pub(super) vertex: VertexId,
    pub(super) output: usize,
    /// The node that stands for this one.
    pub(super) merged: Option<NodeId>,
    /// Nodes that take this one, and as which input.
    pub(super) dependents: Vec<(NodeId, usize)>,
    /// How many inputs of dependents ask for each level.
    pub(super) asked: [usize; 4],
    pub(super) waiters: Vec<WaiterId>,
    pub(super) deps: Vec<DepState>,
    /// Keys that dependents may look up.
    pub(super) keys: Vec<KeyId>,
    /// Keys that dependents are recorded under: `keys`, and the key that a forced run was recorded under.
    pub(super) own: Vec<KeyId>,
    pub(super) level: Level,
    /// Digest of the operation and this output, once its digest is known.
    pub(super) step: Option<Digest>,
    pub(super) phase: Phase<V>,
    /// Results that could not be loaded.
    pub(super) tried: Vec<ResultId>,
    /// What was wanted when it advanced last.
    pub(super) wanted: Level,
    /// It decided to run and waits for its inputs.
    pub(super) committed: bool,
    /// Inputs that are ready to run with, once committed.
    pub(super) ready: usize,
    pub(super) news: News,
}

/// What has happened since a node advanced last.
#[derive(Default)]
pub(super) struct News {
    /// It waits in the queue.
    pub(super) queued: bool,
    pub(super) changes: Changes,
}

pub(super) enum Changes {
    /// Only these inputs.
    Inputs(Vec<usize>),
    /// Anything.
    All,
}

impl Default for Changes {
    fn default() -> Self {
        Self::Inputs(Vec::new())
    }
}

impl Changes {
    pub(super) fn add(&mut self, input: usize) {
        if let Self::Inputs(inputs) = self {
            inputs.push(input);
        }
    }
}

/// How far an input is prepared and hashed for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Preparation {
    #[default]
    Unwanted,
    Wanted,
    /// Done, prepared and hashed: ready to run with.
    Ready,
}

/// What a node knows of one of its inputs.
#[derive(Default)]
pub(super) struct DepState {
    pub(super) ask: Level,
    pub(super) preparation: Preparation,
    /// The node whose keys were looked up, and how many of them.
    pub(super) probed: Option<(NodeId, usize)>,
    /// The content key was looked up.
    pub(super) content_probed: bool,
    /// Keys of this node that this input leads to.
    pub(super) candidates: Vec<KeyId>,
}

impl<V> Node<V> {
    pub(super) fn new(vertex: VertexId, output: usize, inputs: usize) -> Self {
        Self {
            vertex,
            output,
            merged: None,
            dependents: Vec::new(),
            asked: [0; 4],
            waiters: Vec::new(),
            deps: (0..inputs).map(|_| DepState::default()).collect(),
            keys: Vec::new(),
            own: Vec::new(),
            level: Level::None,
            step: None,
            phase: Phase::Matching,
            tried: Vec::new(),
            wanted: Level::None,
            committed: false,
            ready: 0,
            news: News::default(),
        }
    }

    /// The most that anybody wants.
    pub(super) fn want(&self) -> Level {
        if !self.waiters.is_empty() || self.asked[Level::Value as usize] > 0 {
            return Level::Value;
        }
        if self.asked[Level::Slow as usize] > 0 {
            return Level::Slow;
        }
        if self.asked[Level::Fast as usize] > 0 {
            return Level::Fast;
        }
        Level::None
    }

    pub(super) fn value(&self) -> Option<&V> {
        match &self.phase {
            Phase::Done(value) => Some(value),
            Phase::Matching | Phase::Loading(_) | Phase::Running(_) | Phase::Failed(_) => None,
        }
    }

    /// How much of its keys is known, as dependents see it.
    pub(super) fn key_level(&self) -> Level {
        match self.phase {
            Phase::Done(_) => Level::Slow,
            Phase::Matching | Phase::Loading(_) | Phase::Running(_) | Phase::Failed(_) => {
                self.level
            }
        }
    }
}

/// Adds what is not there yet; true where something was.
pub(super) fn add(to: &mut Vec<KeyId>, keys: impl IntoIterator<Item = KeyId>) -> bool {
    let before = to.len();
    for key in keys {
        if !to.contains(&key) {
            to.push(key);
        }
    }
    to.len() > before
}
