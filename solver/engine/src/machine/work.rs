//! Starts the work of a vertex that some node wants and stops what none wants any more.

use std::sync::Arc;

use shipway_cache::KeyId;
use shipway_model::{Digest, Failure};

use super::node::{Level, NodeId, Phase, Preparation};
use super::vertex::{Vertex, VertexId, Work};
use super::{Action, Machine, Owner, Task, Ticket};
use crate::context::TaskId;
use crate::{CacheMap, During};

impl<V: Clone> Machine<V> {
    /// Compares what the nodes of a vertex want with what is under way.
    pub(super) fn review(&mut self, vertex: VertexId) {
        let (map, exec) = self.wanted_work(vertex);
        match (&self.vertices[vertex].map, map) {
            (Work::Idle, true) => self.start_map(vertex),
            (&Work::Running(task), false) => {
                self.vertices[vertex].map = Work::Ending(task);
                self.stop(vertex, task);
            }
            _ => {}
        }
        match (&self.vertices[vertex].exec, exec) {
            (Work::Idle, true) => self.start_exec(vertex),
            (&Work::Running(task), false) => {
                self.vertices[vertex].exec = Work::Ending(task);
                self.stop(vertex, task);
            }
            _ => {}
        }
    }

    /// Whether some node wants the cache map, and whether some node wants the vertex run.
    fn wanted_work(&self, vertex: VertexId) -> (bool, bool) {
        let vertex = &self.vertices[vertex];
        let (mut map, mut exec) = (false, false);
        for &id in &vertex.nodes {
            let node = &self.nodes[id];
            if node.merged.is_some() || vertex.failure.is_some() {
                continue;
            }
            match node.phase {
                Phase::Matching => map |= node.want() > Level::None,
                Phase::Running(_) => exec = true,
                Phase::Loading(_) | Phase::Done(_) | Phase::Failed(_) => {}
            }
        }
        (map, exec)
    }

    pub(super) fn ticket(&self, vertex: VertexId, task: TaskId) -> Ticket {
        let vertex = &self.vertices[vertex];
        Ticket {
            task,
            progress: Arc::clone(&vertex.progress),
            jobs: vertex.jobs.clone(),
        }
    }

    fn start_map(&mut self, vertex: VertexId) {
        let task = self.new_task(Task::Map(vertex));
        self.vertices[vertex].map = Work::Running(task);
        self.actions.push(Action::Map {
            ticket: self.ticket(vertex, task),
            op: Arc::clone(&self.vertices[vertex].op),
            source: self.vertices[vertex].inputs.is_empty(),
        });
    }

    /// Has an input prepared and hashed, as soon as it is done.
    pub(super) fn hash(&mut self, id: NodeId, at: usize) {
        self.nodes[id].deps[at].preparation = Preparation::Wanted;
        let vertex = self.nodes[id].vertex;
        if matches!(self.vertices[vertex].hashed[at], Work::Idle) {
            self.start_hash(vertex, at);
        }
    }

    /// A node no longer wants an input hashed.
    pub(super) fn unhash(&mut self, id: NodeId, at: usize) {
        let vertex = self.nodes[id].vertex;
        let held = &self.vertices[vertex];
        let wants = |&node: &NodeId| self.nodes[node].deps[at].preparation == Preparation::Wanted;
        let wanted = held.nodes.iter().any(wants);
        if let (&Work::Running(task), false) = (&held.hashed[at], wanted) {
            self.vertices[vertex].hashed[at] = Work::Ending(task);
            self.stop(vertex, task);
        }
    }

    fn start_hash(&mut self, vertex: VertexId, at: usize) {
        let input = self.root(self.vertices[vertex].inputs[at]);
        let Some(value) = self.nodes[input].value().cloned() else {
            return;
        };
        let Some(map) = self.vertices[vertex].map.done().map(Arc::clone) else {
            return;
        };
        let task = self.new_task(Task::Key(vertex, at));
        self.vertices[vertex].hashed[at] = Work::Running(task);
        self.actions.push(Action::Key {
            ticket: self.ticket(vertex, task),
            map,
            input: at,
            value,
            of: Arc::clone(&self.vertices[self.nodes[input].vertex].progress),
        });
    }

    fn start_exec(&mut self, vertex: VertexId) {
        let held = &self.vertices[vertex];
        let inputs = held
            .inputs
            .iter()
            .map(|&n| self.nodes[self.root(n)].value());
        let inputs: Option<Vec<V>> = inputs.map(Option::<&V>::cloned).collect();
        let inputs = inputs.expect("a node runs only once all its inputs are done");
        let outputs = held.nodes.iter().filter_map(|&id| {
            let node = &self.nodes[id];
            match &node.phase {
                Phase::Running(key) => Some((node.output, key.clone()?)),
                Phase::Matching | Phase::Loading(_) | Phase::Done(_) | Phase::Failed(_) => None,
            }
        });
        let task = Task::Execute {
            vertex: Some(vertex),
            jobs: held.jobs.clone(),
            progress: Arc::clone(&held.progress),
            name: Arc::clone(&held.op.vertex().name),
            outputs: outputs.collect(),
        };
        let op = Arc::clone(&held.op);
        let task = self.new_task(task);
        self.vertices[vertex].exec = Work::Running(task);
        self.actions.push(Action::Execute {
            ticket: self.ticket(vertex, task),
            op,
            inputs,
        });
    }

    pub(super) fn mapped(&mut self, task: TaskId, outcome: Result<CacheMap<V>, Failure>) {
        let Some(Task::Map(vertex)) = self.tasks.remove(&task) else {
            return;
        };
        let inputs = self.vertices[vertex].inputs.len();
        let outcome = outcome.and_then(|map| {
            if map.deps.len() == inputs {
                return Ok(map);
            }
            let told = map.deps.len();
            Err(Failure::new(format!(
                "the cache map tells of {told} inputs, the vertex has {inputs}"
            )))
        });
        match outcome {
            Ok(map) => {
                self.vertices[vertex].map = Work::Done(Arc::new(map));
                self.mark_vertex(vertex);
            }
            Err(cause) => self.failed(vertex, task, During::CacheMap, cause),
        }
    }

    pub(super) fn keyed(&mut self, task: TaskId, outcome: Result<Option<Digest>, Failure>) {
        let Some(Task::Key(vertex, input)) = self.tasks.remove(&task) else {
            return;
        };
        match outcome {
            Ok(content) => {
                let key = content.as_ref().map(KeyId::content);
                self.vertices[vertex].hashed[input] = Work::Done(key);
                for at in 0..self.vertices[vertex].nodes.len() {
                    self.mark_input(self.vertices[vertex].nodes[at], input);
                }
            }
            Err(cause) => self.failed(vertex, task, During::ContentKey { input }, cause),
        }
    }

    pub(super) fn stop(&mut self, vertex: VertexId, task: TaskId) {
        let jobs = self.vertices[vertex].jobs.clone();
        self.actions.push(Action::Stop(task, jobs));
        // Builds that it made are part of it.
        self.answer_all(Owner::Task(task), &Failure::cancelled());
    }

    /// Stops everything that a vertex does, which is about to go.
    pub(super) fn stop_vertex(&mut self, vertex: VertexId) {
        let held = &self.vertices[vertex];
        let mut tasks: Vec<_> = held.map.task().into_iter().collect();
        tasks.extend(held.hashed.iter().filter_map(Work::task));
        tasks.extend(
            held.nodes
                .iter()
                .filter_map(|&n| match self.nodes[n].phase {
                    Phase::Loading(task) => Some(task),
                    Phase::Matching | Phase::Running(_) | Phase::Done(_) | Phase::Failed(_) => None,
                }),
        );
        let exec = held.exec.task();
        for task in tasks {
            self.tasks.remove(&task);
            self.stop(vertex, task);
        }
        if let Some(task) = exec {
            if let Some(Task::Execute { vertex, .. }) = self.tasks.get_mut(&task) {
                *vertex = None;
            }
            self.stop(vertex, task);
        }
    }
}

impl<V> Vertex<V> {
    /// Makes the work of this task undone; true where it had been cancelled.
    pub(super) fn reset(&mut self, task: TaskId) -> bool {
        let cancelled = undo(&mut self.map, task) | undo(&mut self.exec, task);
        let hashes = self.hashed.iter_mut();
        hashes.fold(cancelled, |cancelled, work| cancelled | undo(work, task))
    }
}

fn undo<T>(work: &mut Work<T>, task: TaskId) -> bool {
    if work.task() != Some(task) {
        return false;
    }
    matches!(std::mem::replace(work, Work::Idle), Work::Ending(_))
}
