//! Chooses what every vertex does next. Pure: no clock, lock, log or await; `driver` performs the actions.
//!
//! A *vertex* is one operation on certain inputs; a *node* is one of its outputs. Demand flows from targets to sources as
//! levels (keys that cost nothing, keys that cost running inputs, the value); keys and values flow back.
//!
//! ```text
//! Matching ──record──► Loading ──value──► Done
//!    │  ▲  └─no match─► Running ─value──►
//!    │  └──gone, no longer wanted──┘        any ──► Failed        Matching ──equal key runs──► merged into that node
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use shipway_cache::{KeyId, KeyIndex, LinkRow, Record, ResultId, Update};
use shipway_model::{Digest, Failure};

use crate::context::TaskId;
use crate::job::{JobKey, JobShared};
use crate::{CacheMap, CacheSource, Edge, EngineError, Graph, Operation, VertexProgress};

mod advance;
mod arena;
mod export;
mod jobs;
mod keys;
mod node;
mod pending;
mod run;
#[cfg(test)]
mod tests;
mod vertex;
mod work;

use arena::Arena;
use node::{Changes, Node, NodeId};
use pending::Pending;
use vertex::{Vertex, VertexId};

/// Number of one wish for a value, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WaiterId(pub(crate) u64);

/// On whose behalf a build is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A client's.
    Job(JobKey),
    /// A running operation's, for all jobs that have it.
    Task(TaskId),
}

/// What happened.
pub(crate) enum Event<V> {
    Open(Arc<JobShared>),
    Build {
        owner: Owner,
        waiter: WaiterId,
        graph: Graph<V>,
        target: Edge,
    },
    Withdraw(WaiterId),
    Import(JobKey, Arc<dyn CacheSource<V>>),
    Cancel(JobKey, Failure),
    Retire(JobKey),
    Discard(JobKey),
    Mapped(TaskId, Result<CacheMap<V>, Failure>),
    Keyed(TaskId, Result<Option<Digest>, Failure>),
    Loaded(TaskId, Result<Option<V>, Failure>),
    Executed(TaskId, Result<Vec<V>, Failure>),
    Saved(Vec<KeyId>),
}

/// What is to be done.
pub(crate) enum Action<V> {
    /// Ask for the cache map; answered by [`Event::Mapped`]. A source shows this as its work.
    Map {
        ticket: Ticket,
        op: Arc<dyn Operation<V>>,
        source: bool,
    },
    /// Prepare and hash an input; answered by [`Event::Keyed`].
    Key {
        ticket: Ticket,
        map: Arc<CacheMap<V>>,
        input: usize,
        value: V,
        of: Arc<VertexProgress>,
    },
    /// Load a record; answered by [`Event::Loaded`].
    Load {
        ticket: Ticket,
        record: Record,
        from: Option<Arc<dyn CacheSource<V>>>,
    },
    /// Run; answered by [`Event::Executed`].
    Execute {
        ticket: Ticket,
        op: Arc<dyn Operation<V>>,
        inputs: Vec<V>,
    },
    /// Make outputs durable; answered by [`Event::Saved`].
    Save(Save<V>),
    /// Tell that a vertex is complete which has nothing to save.
    Complete(Arc<VertexProgress>),
    /// Cancel a task. It still answers; these jobs have its vertex.
    Stop(TaskId, Vec<JobKey>),
    /// Answer a wish.
    Answer(WaiterId, Result<V, EngineError>),
    /// Add shortcuts between keys.
    Note(Update),
    /// A record's result is gone.
    Forget(ResultId),
    /// A record's result was taken.
    Touch(ResultId),
}

/// What every task is given.
pub(crate) struct Ticket {
    pub(crate) task: TaskId,
    pub(crate) progress: Arc<VertexProgress>,
    /// Jobs that had the vertex when the task began.
    pub(crate) jobs: Vec<JobKey>,
}

/// Outputs of a vertex to make durable.
pub(crate) struct Save<V> {
    pub(crate) jobs: Vec<JobKey>,
    pub(crate) progress: Arc<VertexProgress>,
    pub(crate) name: Arc<str>,
    pub(crate) outputs: Vec<Keep<V>>,
    /// Whether the vertex has run, and is complete only now.
    pub(crate) completes: bool,
}

/// An output to make durable.
pub(crate) struct Keep<V> {
    pub(crate) value: V,
    pub(crate) key: RunKey,
    /// When it was made, where that is not now.
    pub(crate) created_at: Option<Timestamp>,
}

/// The key under which a value is recorded.
#[derive(Clone)]
pub(crate) struct RunKey {
    pub(crate) key: KeyId,
    pub(crate) links: Vec<LinkRow>,
    pub(crate) parts: shipway_cache::KeyParts,
}

struct JobState<V> {
    shared: Arc<JobShared>,
    vertices: Vec<VertexId>,
    sources: Vec<Arc<dyn CacheSource<V>>>,
    cancelled: Option<Failure>,
    /// Its vertices are shared with no job that comes from now on.
    retired: bool,
}

struct Waiter {
    node: NodeId,
    owner: Owner,
}

/// A task that has not answered yet.
enum Task<V> {
    Map(VertexId),
    Key(VertexId, usize),
    Load {
        node: NodeId,
        record: Record,
        from: Option<Arc<dyn CacheSource<V>>>,
    },
    /// What it gives is recorded even where its vertex is gone.
    Execute {
        vertex: Option<VertexId>,
        jobs: Vec<JobKey>,
        progress: Arc<VertexProgress>,
        name: Arc<str>,
        outputs: Vec<(usize, RunKey)>,
    },
}

/// All vertices of all jobs.
pub(crate) struct Machine<V> {
    index: Arc<dyn KeyIndex>,
    clock: fn() -> Timestamp,
    vertices: Arena<VertexId, Vertex<V>>,
    nodes: Arena<NodeId, Node<V>>,
    by_digest: HashMap<Digest, Vec<VertexId>>,
    jobs: HashMap<JobKey, JobState<V>>,
    waiters: HashMap<WaiterId, Waiter>,
    tasks: HashMap<TaskId, Task<V>>,
    pending: Pending,
    next_task: u64,
    imports: usize,
    dirty: VecDeque<NodeId>,
    /// Nodes that go on once no key is on its way any more.
    patient: Vec<NodeId>,
    actions: Vec<Action<V>>,
}

impl<V: Clone> Machine<V> {
    pub(crate) fn new(index: Arc<dyn KeyIndex>, clock: fn() -> Timestamp) -> Self {
        Self {
            index,
            clock,
            vertices: Arena::default(),
            nodes: Arena::default(),
            by_digest: HashMap::new(),
            jobs: HashMap::new(),
            waiters: HashMap::new(),
            tasks: HashMap::new(),
            pending: Pending::default(),
            next_task: 0,
            imports: 0,
            dirty: VecDeque::new(),
            patient: Vec::new(),
            actions: Vec::new(),
        }
    }

    /// Takes what happened, returns what is to be done about it.
    #[cfg(test)]
    pub(crate) fn on_event(&mut self, event: Event<V>) -> Vec<Action<V>> {
        self.on_events([event])
    }

    /// The same for several events that happened at about the same time: cheaper than one after the other.
    pub(crate) fn on_events(
        &mut self,
        events: impl IntoIterator<Item = Event<V>>,
    ) -> Vec<Action<V>> {
        for event in events {
            self.take(event);
        }
        self.advance_all();
        std::mem::take(&mut self.actions)
    }

    fn take(&mut self, event: Event<V>) {
        match event {
            Event::Open(shared) => self.open(&shared),
            Event::Build {
                owner,
                waiter,
                graph,
                target,
            } => self.build(owner, waiter, &graph, target),
            Event::Withdraw(waiter) => self.withdraw(waiter),
            Event::Import(job, source) => self.import(job, source),
            Event::Cancel(job, cause) => self.cancel(job, &cause),
            Event::Retire(job) => self.retire(job),
            Event::Discard(job) => self.discard(job),
            Event::Mapped(task, outcome) => self.mapped(task, outcome),
            Event::Keyed(task, outcome) => self.keyed(task, outcome),
            Event::Loaded(task, outcome) => self.loaded(task, outcome),
            Event::Executed(task, outcome) => self.executed(task, outcome),
            Event::Saved(keys) => self.pending.remove(&keys),
        }
    }

    fn advance_all(&mut self) {
        loop {
            while let Some(node) = self.dirty.pop_front() {
                self.advance(node);
            }
            let Some(node) = self.patient.pop() else {
                return;
            };
            if self.nodes.contains(node) {
                self.mark(node);
            }
        }
    }

    /// Operations that stand for a job's vertices.
    pub(crate) fn operations(&self, job: JobKey) -> Vec<Arc<dyn Operation<V>>> {
        let Some(job) = self.jobs.get(&job) else {
            return Vec::new();
        };
        let ops = job.vertices.iter();
        ops.map(|&v| Arc::clone(&self.vertices[v].op)).collect()
    }

    /// Caches that a job brought along.
    pub(crate) fn sources_of(&self, job: JobKey) -> &[Arc<dyn CacheSource<V>>] {
        self.jobs.get(&job).map_or(&[], |job| &job.sources)
    }

    /// Jobs that have not been discarded.
    pub(crate) fn open_jobs(&self) -> Vec<JobKey> {
        self.jobs.keys().copied().collect()
    }

    fn mark(&mut self, node: NodeId) {
        let node = self.root(node);
        self.nodes[node].news.changes = Changes::All;
        self.queue(node);
    }

    /// Notes that an input of a node changed.
    fn mark_input(&mut self, node: NodeId, at: usize) {
        if self.nodes[node].merged.is_none() {
            self.nodes[node].news.changes.add(at);
            self.queue(node);
        }
    }

    fn mark_dependents(&mut self, node: NodeId) {
        for at in 0..self.nodes[node].dependents.len() {
            let (dependent, input) = self.nodes[node].dependents[at];
            self.mark_input(dependent, input);
        }
    }

    fn queue(&mut self, node: NodeId) {
        if !std::mem::replace(&mut self.nodes[node].news.queued, true) {
            self.dirty.push_back(node);
        }
    }

    fn mark_vertex(&mut self, vertex: VertexId) {
        for at in 0..self.vertices[vertex].nodes.len() {
            self.mark(self.vertices[vertex].nodes[at]);
        }
    }

    /// The node that stands for this one.
    fn root(&self, mut node: NodeId) -> NodeId {
        while let Some(into) = self.nodes[node].merged {
            node = into;
        }
        node
    }

    fn new_task(&mut self, task: Task<V>) -> TaskId {
        let id = TaskId(self.next_task);
        self.next_task += 1;
        self.tasks.insert(id, task);
        id
    }
}
