//! How a node gets its value: loaded, joined with another that makes the same, or run. Decides what is recorded.

use std::collections::HashSet;
use std::sync::Arc;

use shipway_cache::{Record, Update};
use shipway_model::Failure;

use super::keys::rows;
use super::node::{Level, NodeId, Phase, Preparation, add};
use super::vertex::{VertexId, Work};
use super::{Action, Keep, Machine, RunKey, Save, Task};
use crate::context::TaskId;
use crate::{CacheMap, CacheSource, During, EngineError};

impl<V: Clone> Machine<V> {
    pub(super) fn begin_load(
        &mut self,
        id: NodeId,
        record: Record,
        from: Option<Arc<dyn CacheSource<V>>>,
    ) {
        self.unask_all(id);
        let task = self.new_task(Task::Load {
            node: id,
            record: record.clone(),
            from: from.clone(),
        });
        self.nodes[id].phase = Phase::Loading(task);
        let ticket = self.ticket(self.nodes[id].vertex, task);
        self.actions.push(Action::Load {
            ticket,
            record,
            from,
        });
    }

    pub(super) fn loaded(&mut self, task: TaskId, outcome: Result<Option<V>, Failure>) {
        let Some(Task::Load { node, record, from }) = self.tasks.remove(&task) else {
            return;
        };
        let local = from.is_none();
        if let Ok(Some(value)) = outcome {
            if local {
                self.actions.push(Action::Touch(record.result.clone()));
            }
            self.keep_shortcuts(node, &record, &value, local);
            add(&mut self.nodes[node].own, [record.key]);
            self.done(node, value);
        } else {
            self.nodes[node].tried.push(record.result.clone());
            self.nodes[node].phase = Phase::Matching;
            if local && outcome.is_ok() {
                self.actions.push(Action::Forget(record.result));
            }
        }
        self.mark(node);
    }

    /// What was found one way is found all ways next time; what was fetched from elsewhere is recorded here.
    fn keep_shortcuts(&mut self, id: NodeId, record: &Record, value: &V, local: bool) {
        let vertex = &self.vertices[self.nodes[id].vertex];
        let Some(map) = vertex.map.done().map(Arc::clone) else {
            return;
        };
        let ways = self.ways_or_none(id, &map);
        let mut links = rows(&ways, record.key);
        if local {
            let known = |row: &shipway_cache::LinkRow| {
                self.index.targets(&row.from, &row.link).contains(&row.to)
            };
            links.retain(|row| !known(row));
            if !links.is_empty() {
                let update = Update {
                    links,
                    ..Update::default()
                };
                self.actions.push(Action::Note(update));
            }
            return;
        }
        self.add_links_behind(id, &mut links);
        let key = RunKey {
            key: record.key,
            links,
            parts: map.parts.clone(),
        };
        let created_at = Some(record.created_at);
        let keep = Keep {
            value: value.clone(),
            key,
            created_at,
        };
        self.save_late(self.nodes[id].vertex, keep);
    }

    fn ways_or_none(
        &self,
        id: NodeId,
        map: &CacheMap<V>,
    ) -> Vec<Vec<(shipway_cache::KeyId, shipway_cache::Link)>> {
        self.ways(id, map).unwrap_or_default()
    }

    /// No key answers: joins a node that makes the same, else asks for all inputs' values and runs.
    pub(super) fn run_when_ready(&mut self, id: NodeId, map: &Arc<CacheMap<V>>) {
        if self.join_twin(id, map) {
            return;
        }
        let node = &mut self.nodes[id];
        node.committed = true;
        node.ready = 0;
        for at in 0..map.deps.len() {
            self.nodes[id].deps[at].preparation = Preparation::Unwanted;
            self.ask(id, at, Level::Value);
            self.input_ready(id, at, map);
        }
        if self.nodes[id].ready == map.deps.len() {
            self.begin_run(id, map);
        }
    }

    /// Some inputs of a node that is about to run have changed.
    pub(super) fn inputs_changed(&mut self, id: NodeId, inputs: &[usize]) {
        let vertex = &self.vertices[self.nodes[id].vertex];
        let failed = |&at: &usize| {
            let input = self.root(vertex.inputs[at]);
            matches!(self.nodes[input].phase, Phase::Failed(_))
        };
        if inputs.iter().any(failed) {
            self.fail_with_input(id);
            return;
        }
        let Some(map) = vertex.map.done().map(Arc::clone) else {
            return;
        };
        for &at in inputs {
            self.input_ready(id, at, &map);
        }
        if self.nodes[id].ready == map.deps.len() {
            self.begin_run(id, &map);
        }
    }

    /// Sees whether an input is done, prepared and hashed; has it prepared and hashed as soon as it is done.
    fn input_ready(&mut self, id: NodeId, at: usize, map: &CacheMap<V>) {
        let vertex = &self.vertices[self.nodes[id].vertex];
        let done = self.nodes[self.root(vertex.inputs[at])].value().is_some();
        let dep = &self.nodes[id].deps[at];
        if dep.preparation == Preparation::Ready || !done {
            return;
        }
        let needs_hash = map.deps[at].content.is_some() || map.deps[at].prepare.is_some();
        if needs_hash && vertex.hashed[at].done().is_none() {
            self.hash(id, at);
            return;
        }
        self.nodes[id].deps[at].preparation = Preparation::Ready;
        self.nodes[id].ready += 1;
    }

    fn begin_run(&mut self, id: NodeId, map: &Arc<CacheMap<V>>) {
        // A job that ended meanwhile may have recorded what this node was about to make.
        if !self.vertices[self.nodes[id].vertex].forced {
            for dep in &mut self.nodes[id].deps {
                dep.probed = None;
                dep.content_probed = false;
            }
            self.probe(id, map);
            if let Some((record, from)) = self.best_record(id) {
                self.begin_load(id, record, from);
                return;
            }
        }
        if self.join_twin(id, map) {
            return;
        }
        let key = self.run_key(id, map);
        if let Some(key) = &key {
            self.pending.add(key.key, id, &key.links);
        }
        let vertex = self.nodes[id].vertex;
        let output = self.nodes[id].output;
        self.nodes[id].phase = Phase::Running(key.clone());
        if let Some(values) = self.vertices[vertex].exec.done() {
            let value = values.get(output).cloned();
            self.finish_run(id, value.as_ref());
            if let (Some(value), Some(key)) = (value, key) {
                let created_at = None;
                self.save_late(
                    vertex,
                    Keep {
                        value,
                        key,
                        created_at,
                    },
                );
            }
        } else if let Some(task) = self.vertices[vertex].exec.task()
            && let Some(Task::Execute { outputs, .. }) = self.tasks.get_mut(&task)
        {
            outputs.extend(key.map(|key| (output, key)));
        }
    }

    /// Saves what no run of now has made.
    fn save_late(&mut self, vertex: VertexId, keep: Keep<V>) {
        let vertex = &self.vertices[vertex];
        self.actions.push(Action::Save(Save {
            jobs: vertex.jobs.clone(),
            progress: Arc::clone(&vertex.progress),
            name: Arc::clone(&vertex.op.vertex().name),
            outputs: vec![keep],
            completes: false,
        }));
    }

    /// Joins a node that makes a value of the same key, if there is one and it does not stand on this node.
    fn join_twin(&mut self, id: NodeId, map: &CacheMap<V>) -> bool {
        if map.volatile {
            return false;
        }
        let Some(ways) = self.ways(id, map) else {
            return false;
        };
        let step = self.nodes[id].step;
        let keys = if map.deps.is_empty() {
            step.iter()
                .map(|s| shipway_cache::KeyId::from_bytes(*s.as_bytes()))
                .collect()
        } else {
            Self::common(&ways, |from, link| {
                self.pending.targets(from, link).to_vec()
            })
        };
        let nodes = keys.iter().filter_map(|key| self.pending.node(key));
        let nodes: Vec<_> = nodes.map(|node| self.root(node)).collect();
        let forced = |node: NodeId| self.vertices[self.nodes[node].vertex].forced;
        let twin = nodes.into_iter().find(|&twin| {
            let joins = forced(twin) || !forced(id);
            let alive = matches!(self.nodes[twin].phase, Phase::Running(_) | Phase::Done(_));
            twin != id && joins && alive && !self.stands_on(twin, id)
        });
        if let Some(twin) = twin {
            self.merge(id, twin);
        }
        twin.is_some()
    }

    /// True where `upper` takes `lower`, directly or not.
    fn stands_on(&self, upper: NodeId, lower: NodeId) -> bool {
        let mut seen = HashSet::from([upper]);
        let mut open = vec![upper];
        while let Some(node) = open.pop() {
            if node == lower {
                return true;
            }
            let inputs = self.vertices[self.nodes[node].vertex].inputs.iter();
            let inputs = inputs.map(|&input| self.root(input));
            open.extend(inputs.filter(|&input| seen.insert(input)));
        }
        false
    }

    fn merge(&mut self, id: NodeId, into: NodeId) {
        self.unask_all(id);
        let vertex = self.nodes[into].vertex;
        for job in self.vertices[self.nodes[id].vertex].jobs.clone() {
            self.hold(job, vertex);
        }
        let node = &mut self.nodes[id];
        node.merged = Some(into);
        let dependents = std::mem::take(&mut node.dependents);
        let waiters = std::mem::take(&mut node.waiters);
        let asked = std::mem::take(&mut node.asked);
        for waiter in &waiters {
            if let Some(waiter) = self.waiters.get_mut(waiter) {
                waiter.node = into;
            }
        }
        let target = &mut self.nodes[into];
        target.waiters.extend(waiters);
        for (sum, count) in target.asked.iter_mut().zip(asked) {
            *sum += count;
        }
        target.dependents.extend_from_slice(&dependents);
        self.mark(into);
        for (dependent, at) in dependents {
            self.mark_input(dependent, at);
        }
    }

    /// A node runs no more, since nobody wants its value.
    pub(super) fn give_up_run(&mut self, id: NodeId) {
        let phase = std::mem::replace(&mut self.nodes[id].phase, Phase::Matching);
        if let Phase::Running(Some(key)) = phase {
            self.pending.remove_of(id, key.key);
        }
    }

    pub(super) fn executed(&mut self, task: TaskId, outcome: Result<Vec<V>, Failure>) {
        let Some(Task::Execute {
            vertex,
            mut jobs,
            progress,
            name,
            outputs,
        }) = self.tasks.remove(&task)
        else {
            return;
        };
        let values = match outcome {
            Ok(values) => values,
            Err(cause) => {
                if let Some(vertex) = vertex {
                    self.failed(vertex, task, During::Execute, cause);
                }
                return;
            }
        };
        if let Some(vertex) = vertex {
            jobs.clone_from(&self.vertices[vertex].jobs);
            self.finish_runs(vertex, &values);
        }
        let kept = outputs.into_iter().filter_map(|(output, key)| {
            Some(Keep {
                value: values.get(output)?.clone(),
                key,
                created_at: None,
            })
        });
        let outputs: Vec<_> = kept.collect();
        self.actions.push(if outputs.is_empty() {
            Action::Complete(progress)
        } else {
            Action::Save(Save {
                jobs,
                progress,
                name,
                outputs,
                completes: true,
            })
        });
    }

    fn finish_runs(&mut self, vertex: VertexId, values: &[V]) {
        self.vertices[vertex].exec = Work::Done(values.to_vec());
        for node in self.vertices[vertex].nodes.clone() {
            let running = matches!(self.nodes[node].phase, Phase::Running(_));
            if running && self.nodes[node].merged.is_none() {
                let value = values.get(self.nodes[node].output);
                self.finish_run(node, value);
            }
        }
        self.mark_vertex(vertex);
    }

    fn finish_run(&mut self, id: NodeId, value: Option<&V>) {
        let vertex = &self.vertices[self.nodes[id].vertex];
        let Some(value) = value else {
            let error = EngineError::Vertex {
                vertex: vertex.digest,
                during: During::Execute,
                cause: Failure::new(format!("the step has no output {}", self.nodes[id].output)),
            };
            self.fail(id, error);
            return;
        };
        let forced = vertex.forced;
        let node = &mut self.nodes[id];
        if let Phase::Running(Some(key)) = &node.phase {
            let key = key.key;
            add(&mut node.own, [key]);
            // What follows a forced run must not match records of earlier runs through it.
            if !forced {
                add(&mut node.keys, [key]);
            }
        }
        self.done(id, value.clone());
    }

    fn done(&mut self, id: NodeId, value: V) {
        self.nodes[id].phase = Phase::Done(value);
        self.mark_dependents(id);
        self.settle(id);
    }

    /// Work of a vertex ended without success: begun again if it had been cancelled or had lost a job, else the vertex has
    /// failed.
    pub(super) fn failed(
        &mut self,
        vertex: VertexId,
        task: TaskId,
        during: During,
        cause: Failure,
    ) {
        let failed = &mut self.vertices[vertex];
        let bereft = failed.bereft.contains(&task);
        if failed.reset(task) || bereft {
            self.mark_vertex(vertex);
            return;
        }
        let error = EngineError::Vertex {
            vertex: failed.digest,
            during,
            cause,
        };
        failed.failure.get_or_insert_with(|| error.clone());
        for node in self.vertices[vertex].nodes.clone() {
            let pending = matches!(self.nodes[node].phase, Phase::Matching | Phase::Running(_));
            if pending && self.nodes[node].merged.is_none() && self.nodes[node].want() > Level::None
            {
                self.fail(node, error.clone());
            }
        }
        self.mark_vertex(vertex);
    }
}
