//! Jobs come, want values, lose interest, go. Decides which vertices are equal and how long they live; a vertex lives
//! while a job has it.

use std::collections::HashSet;
use std::sync::Arc;

use shipway_model::Failure;
use shipway_model::progress::VertexState;

use super::node::{Node, NodeId, Phase};
use super::vertex::{Vertex, VertexId, Work};
use super::{Action, JobState, Machine, Owner, Task, Waiter, WaiterId};
use crate::job::{JobKey, JobShared};
use crate::{CacheSource, Edge, EngineError, Graph, Operation, VertexProgress};

impl<V: Clone> Machine<V> {
    pub(super) fn open(&mut self, shared: &Arc<JobShared>) {
        let state = JobState {
            shared: Arc::clone(shared),
            vertices: Vec::new(),
            sources: Vec::new(),
            cancelled: None,
            retired: false,
        };
        self.jobs.insert(shared.key, state);
    }

    pub(super) fn build(&mut self, owner: Owner, waiter: WaiterId, graph: &Graph<V>, target: Edge) {
        let jobs = match self.holders(owner) {
            Ok(jobs) => jobs,
            Err(error) => {
                self.actions.push(Action::Answer(waiter, Err(error)));
                return;
            }
        };
        let mut vertices = Vec::with_capacity(graph.vertices.len());
        for (op, inputs) in graph.vertices.iter().zip(&graph.inputs) {
            let inputs = inputs
                .iter()
                .map(|i| self.node(vertices[i.vertex], i.output));
            let inputs: Vec<_> = inputs.collect();
            let vertex = self.vertex(op, inputs, &jobs);
            for &job in &jobs {
                self.hold(job, vertex);
            }
            vertices.push(vertex);
        }
        if let Owner::Task(task) = owner
            && let Some(parent) = self.executing(task)
        {
            let nested = &mut self.vertices[parent].nested;
            nested.extend(vertices.iter().copied().filter(|&v| v != parent));
            nested.sort_unstable();
            nested.dedup();
        }
        let node = self.node(vertices[target.vertex], target.output);
        let node = self.root(node);
        self.waiters.insert(waiter, Waiter { node, owner });
        self.nodes[node].waiters.push(waiter);
        self.mark(node);
    }

    /// Jobs that a build is made for.
    fn holders(&self, owner: Owner) -> Result<Vec<JobKey>, EngineError> {
        let cancelled = |cause| EngineError::Cancelled { cause };
        match owner {
            Owner::Job(job) => match self.jobs.get(&job) {
                None => Err(cancelled(Failure::cancelled())),
                Some(JobState {
                    cancelled: Some(cause),
                    ..
                }) => Err(cancelled(cause.clone())),
                Some(_) => Ok(vec![job]),
            },
            Owner::Task(task) => {
                let vertex = self.executing(task).map(|v| &self.vertices[v]);
                let vertex = vertex.filter(|v| matches!(v.exec, Work::Running(_)));
                let vertex = vertex.ok_or_else(|| cancelled(Failure::cancelled()))?;
                Ok(vertex.jobs.clone())
            }
        }
    }

    fn executing(&self, task: crate::context::TaskId) -> Option<VertexId> {
        match self.tasks.get(&task)? {
            Task::Execute { vertex, .. } => *vertex,
            Task::Map(_) | Task::Key(..) | Task::Load { .. } => None,
        }
    }

    /// The vertex for an operation on these inputs. A normal one may stand in a forced one's place, never the reverse; what
    /// only retired jobs have is no other's.
    fn vertex(
        &mut self,
        op: &Arc<dyn Operation<V>>,
        inputs: Vec<NodeId>,
        jobs: &[JobKey],
    ) -> VertexId {
        let info = op.vertex();
        let shared =
            |job: &JobKey| jobs.contains(job) || self.jobs.get(job).is_some_and(|j| !j.retired);
        let equal = self.by_digest.get(&info.digest).into_iter().flatten();
        let equal = equal.filter(|&&v| {
            let vertex = &self.vertices[v];
            (vertex.forced || !info.ignore_cache)
                && vertex.inputs == inputs
                && vertex.jobs.iter().any(shared)
        });
        if let Some(&vertex) = equal.max_by_key(|&&v| self.vertices[v].forced) {
            return vertex;
        }
        let digest_of = |&node: &NodeId| self.vertices[self.nodes[node].vertex].digest;
        let state = VertexState {
            digest: info.digest,
            inputs: inputs.iter().map(digest_of).collect(),
            name: Arc::clone(&info.name),
            cached: false,
            started: None,
            completed: None,
            error: String::new(),
            progress_group: info.progress_group.clone(),
        };
        let vertex = self.vertices.insert(Vertex {
            op: Arc::clone(op),
            digest: info.digest,
            forced: info.ignore_cache,
            hashed: inputs.iter().map(|_| Work::Idle).collect(),
            inputs,
            nodes: Vec::new(),
            jobs: Vec::new(),
            nested: Vec::new(),
            map: Work::Idle,
            exec: Work::Idle,
            bereft: Vec::new(),
            failure: None,
            progress: Arc::new(VertexProgress::new(state, self.clock)),
        });
        self.by_digest.entry(info.digest).or_default().push(vertex);
        vertex
    }

    /// The node for an output of a vertex.
    fn node(&mut self, vertex: VertexId, output: usize) -> NodeId {
        let known = self.vertices[vertex].nodes.iter();
        if let Some(&node) = known.into_iter().find(|&&n| self.nodes[n].output == output) {
            return node;
        }
        let inputs = self.vertices[vertex].inputs.clone();
        let node = self.nodes.insert(Node::new(vertex, output, inputs.len()));
        for (at, input) in inputs.into_iter().enumerate() {
            let input = self.root(input);
            self.nodes[input].dependents.push((node, at));
        }
        self.vertices[vertex].nodes.push(node);
        node
    }

    /// Makes a job have a vertex and all that it stands on. A job that is new to it tries again what failed.
    pub(super) fn hold(&mut self, job: JobKey, vertex: VertexId) {
        let mut open = vec![vertex];
        while let Some(vertex) = open.pop() {
            if self.vertices[vertex].jobs.contains(&job) {
                continue;
            }
            let Some(state) = self.jobs.get_mut(&job) else {
                return;
            };
            state.vertices.push(vertex);
            let brings_caches = !state.sources.is_empty();
            let held = &mut self.vertices[vertex];
            held.jobs.push(job);
            held.progress.add_viewer(&state.shared);
            held.failure = None;
            open.extend_from_slice(&held.nested);
            open.extend(held.inputs.iter().map(|&n| self.nodes[n].vertex));
            for at in 0..self.vertices[vertex].nodes.len() {
                let node = self.vertices[vertex].nodes[at];
                open.extend(self.renew(node, brings_caches));
            }
        }
    }

    /// Makes a node try again for a new job; gives the vertex that it is merged into.
    fn renew(&mut self, node: NodeId, brings_caches: bool) -> Option<VertexId> {
        if let Some(into) = self.nodes[node].merged {
            return Some(self.nodes[into].vertex);
        }
        if matches!(self.nodes[node].phase, Phase::Failed(_)) {
            self.nodes[node].phase = Phase::Matching;
        }
        if brings_caches {
            self.look_again(node);
        }
        None
    }

    pub(super) fn import(&mut self, job: JobKey, source: Arc<dyn CacheSource<V>>) {
        let Some(state) = self.jobs.get_mut(&job) else {
            return;
        };
        state.sources.push(source);
        self.imports += 1;
        for vertex in state.vertices.clone() {
            for at in 0..self.vertices[vertex].nodes.len() {
                self.look_again(self.vertices[vertex].nodes[at]);
            }
        }
    }

    /// The job has what it came for: who comes later asks the cache, and sees what it has to see anew.
    pub(super) fn retire(&mut self, job: JobKey) {
        if let Some(state) = self.jobs.get_mut(&job) {
            state.retired = true;
        }
    }

    pub(super) fn withdraw(&mut self, waiter: WaiterId) {
        let Some(Waiter { node, .. }) = self.waiters.remove(&waiter) else {
            return;
        };
        let node = self.root(node);
        self.nodes[node].waiters.retain(|w| *w != waiter);
        self.mark(node);
    }

    pub(super) fn cancel(&mut self, job: JobKey, cause: &Failure) {
        let Some(state) = self.jobs.get_mut(&job) else {
            return;
        };
        state.cancelled.get_or_insert_with(|| cause.clone());
        state.shared.set_cancelled();
        for &vertex in &state.vertices {
            let vertex = &mut self.vertices[vertex];
            if vertex.jobs.len() > 1 {
                vertex.bereft = vertex.open_tasks();
            }
        }
        self.answer_all(Owner::Job(job), cause);
    }

    /// Answers every wish of an owner: it was cancelled.
    pub(super) fn answer_all(&mut self, owner: Owner, cause: &Failure) {
        let waiters = self.waiters.iter().filter(|(_, w)| w.owner == owner);
        let mut waiters: Vec<_> = waiters.map(|(id, _)| *id).collect();
        waiters.sort_unstable();
        for waiter in waiters {
            self.withdraw(waiter);
            let cause = cause.clone();
            let error = EngineError::Cancelled { cause };
            self.actions.push(Action::Answer(waiter, Err(error)));
        }
    }

    pub(super) fn discard(&mut self, job: JobKey) {
        self.cancel(job, &Failure::cancelled());
        // What is no longer wanted stops first, while its vertices are there.
        self.advance_all();
        let Some(state) = self.jobs.remove(&job) else {
            return;
        };
        self.imports -= state.sources.len();
        let mut gone = Vec::new();
        for vertex in state.vertices {
            let held = &mut self.vertices[vertex];
            held.jobs.retain(|j| *j != job);
            held.progress.remove_viewer(&state.shared);
            if held.jobs.is_empty() {
                gone.push(vertex);
            }
        }
        self.drop_vertices(&gone);
    }

    fn drop_vertices(&mut self, gone: &[VertexId]) {
        let nodes: HashSet<NodeId> = gone
            .iter()
            .flat_map(|&v| self.vertices[v].nodes.iter().copied())
            .collect();
        let mut left_behind = HashSet::new();
        for &vertex in gone {
            for at in 0..self.vertices[vertex].nodes.len() {
                self.unask_all(self.vertices[vertex].nodes[at]);
            }
            let inputs = self.vertices[vertex].inputs.iter();
            let inputs = inputs.map(|&input| self.root(input));
            left_behind.extend(inputs.filter(|input| !nodes.contains(input)));
            self.stop_vertex(vertex);
        }
        for node in left_behind {
            self.nodes[node]
                .dependents
                .retain(|(d, _)| !nodes.contains(d));
        }
        self.pending.remove_nodes(&|node| nodes.contains(&node));
        for &node in &nodes {
            for waiter in std::mem::take(&mut self.nodes[node].waiters) {
                self.waiters.remove(&waiter);
                let cause = Failure::cancelled();
                let error = EngineError::Cancelled { cause };
                self.actions.push(Action::Answer(waiter, Err(error)));
            }
        }
        for &vertex in gone {
            let digest = self.vertices[vertex].digest;
            self.vertices.remove(vertex);
            let equal = self.by_digest.entry(digest).or_default();
            equal.retain(|v| *v != vertex);
            if equal.is_empty() {
                self.by_digest.remove(&digest);
            }
        }
        for node in nodes {
            self.nodes.remove(node);
        }
    }
}
