//! A driver that does nothing by itself: the machine's actions wait until a step finishes them, in any order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use shipway_cache::{KeyIndex, KeyStore, ResultId, ResultInfo, Update};
use shipway_model::progress::{Event as Shown, Sink};
use shipway_model::{Digest, Failure};

use super::model::{Spec, Truth, map_of, outputs, spec_of};
use crate::context::TaskId;
use crate::job::{JobKey, JobShared};
use crate::machine::{Action, Event, Keep, Machine, Owner, WaiterId};
use crate::{CacheSource, Edge, EngineError, JobId, JobSpec, OpContext, Operation};

/// What happens next.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Build {
        job: usize,
        vertex: usize,
        output: usize,
    },
    Finish {
        task: usize,
        late: bool,
    },
    /// Build something on behalf of a step that runs.
    Nest {
        task: usize,
        vertex: usize,
    },
    Withdraw(usize),
    Cancel(usize),
    Retire(usize),
    Discard(usize),
    Prune {
        result: usize,
        told: bool,
    },
}

struct Foreign(KeyStore);

#[async_trait]
impl CacheSource<i64> for Foreign {
    fn index(&self) -> &dyn KeyIndex {
        &self.0
    }

    async fn load(&self, _: &OpContext, _: &ResultId) -> Result<Option<i64>, Failure> {
        Err(Failure::new("simulated"))
    }
}

struct Deaf;

impl Sink for Deaf {
    fn send(&self, _: Shown) {}
}

pub(super) enum Open {
    Event {
        event: Event<i64>,
        task: TaskId,
        stopped: bool,
    },
    Save(Vec<Keep<i64>>),
}

pub(super) struct Sim {
    pub(super) truth: Truth,
    pub(super) machine: Machine<i64>,
    pub(super) store: KeyStore,
    pub(super) shelf: BTreeMap<ResultId, i64>,
    /// Keys and results of an imported cache.
    pub(super) imported: Option<(KeyStore, BTreeMap<ResultId, i64>)>,
    pub(super) open: Vec<Open>,
    pub(super) wishes: BTreeMap<WaiterId, Edge>,
    pub(super) nested: Vec<(TaskId, WaiterId)>,
    pub(super) jobs: Vec<Option<JobKey>>,
    pub(super) runs: HashMap<String, usize>,
    pub(super) next: u64,
    /// Nothing was cancelled, withdrawn, discarded or pruned.
    pub(super) calm: bool,
}

pub(super) const JOBS: usize = 3;

impl Sim {
    pub(super) fn new(specs: &[Spec]) -> Self {
        let store = KeyStore::memory();
        Self {
            truth: Truth::new(specs),
            machine: Machine::new(Arc::new(store.clone()), || Timestamp::UNIX_EPOCH),
            store,
            shelf: BTreeMap::new(),
            imported: None,
            open: Vec::new(),
            wishes: BTreeMap::new(),
            nested: Vec::new(),
            jobs: vec![None; JOBS],
            runs: HashMap::new(),
            next: 0,
            calm: true,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn job(&mut self, job: usize) -> JobKey {
        if let Some(key) = self.jobs[job] {
            return key;
        }
        let key = JobKey(self.number());
        self.jobs[job] = Some(key);
        let spec = JobSpec {
            id: JobId::new("job"),
            sessions: Vec::new(),
            progress: Arc::new(Deaf),
        };
        self.tell(Event::Open(Arc::new(JobShared::new(key, spec))));
        if let Some((store, _)) = &self.imported {
            let source = Arc::new(Foreign(store.clone()));
            self.tell(Event::Import(key, source));
        }
        key
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Build {
                job,
                vertex,
                output,
            } => {
                let target = Edge {
                    vertex: vertex % self.truth.values.len(),
                    output: output % 2,
                };
                let job = self.job(job % JOBS);
                let waiter = WaiterId(self.number());
                self.wishes.insert(waiter, target);
                let graph = self.truth.build(target.vertex);
                let owner = Owner::Job(job);
                self.tell(Event::Build {
                    owner,
                    waiter,
                    graph,
                    target,
                });
            }
            Step::Finish { task, late } => {
                if !self.open.is_empty() {
                    self.finish(task % self.open.len(), late);
                }
            }
            Step::Nest { task, vertex } => self.nest(task, vertex),
            Step::Withdraw(wish) => {
                let wishes: Vec<_> = self.wishes.keys().copied().collect();
                if let Some(&waiter) = wishes.get(wish % wishes.len().max(1)) {
                    self.calm = false;
                    self.wishes.remove(&waiter);
                    self.tell(Event::Withdraw(waiter));
                }
            }
            Step::Cancel(job) => {
                if let Some(job) = self.jobs[job % JOBS] {
                    self.calm = false;
                    self.tell(Event::Cancel(job, Failure::cancelled()));
                }
            }
            Step::Retire(job) => {
                if let Some(job) = self.jobs[job % JOBS] {
                    self.tell(Event::Retire(job));
                }
            }
            Step::Discard(job) => {
                if let Some(job) = self.jobs[job % JOBS].take() {
                    self.calm &= self.wishes.is_empty() && self.open.is_empty();
                    self.tell(Event::Discard(job));
                }
            }
            Step::Prune { result, told } => self.prune(result, told),
        }
    }

    fn nest(&mut self, task: usize, vertex: usize) {
        let running = self.open.iter().filter_map(|open| match open {
            Open::Event {
                event: Event::Executed(task, _),
                ..
            } => Some(*task),
            _ => None,
        });
        let running: Vec<_> = running.collect();
        let Some(&task) = running.get(task % running.len().max(1)) else {
            return;
        };
        self.calm = false;
        let vertex = vertex % self.truth.values.len();
        let target = Edge { vertex, output: 0 };
        let waiter = WaiterId(self.number());
        self.wishes.insert(waiter, target);
        self.nested.push((task, waiter));
        let graph = self.truth.build(vertex);
        let owner = Owner::Task(task);
        self.tell(Event::Build {
            owner,
            waiter,
            graph,
            target,
        });
    }

    /// A step that ends gives up the builds that it made.
    fn end_nested(&mut self, ended: TaskId) {
        let nested = self.nested.extract_if(.., |(task, _)| *task == ended);
        for (_, waiter) in nested.collect::<Vec<_>>() {
            if self.wishes.remove(&waiter).is_some() {
                self.tell(Event::Withdraw(waiter));
            }
        }
    }

    fn prune(&mut self, result: usize, told: bool) {
        let results: Vec<_> = self.shelf.keys().cloned().collect();
        let Some(result) = results.get(result % results.len().max(1)) else {
            return;
        };
        self.calm = false;
        self.shelf.remove(result);
        if told {
            self.store.release(result).unawaited();
        }
    }

    fn tell(&mut self, event: Event<i64>) {
        for action in self.machine.on_event(event) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action<i64>) {
        let (event, task) = match action {
            Action::Map { ticket, op, .. } => {
                let map = map_of(&spec_of(&op));
                (Event::Mapped(ticket.task, Ok(map)), ticket.task)
            }
            Action::Key {
                ticket,
                map,
                input,
                value,
                ..
            } => {
                let content = map.deps[input].content.is_some();
                let digest = content.then(|| Digest::of(format!("content {value}")));
                (Event::Keyed(ticket.task, Ok(digest)), ticket.task)
            }
            Action::Load {
                ticket,
                record,
                from,
            } => {
                let value = self.shelved(&record.result, from.is_some());
                (Event::Loaded(ticket.task, Ok(value)), ticket.task)
            }
            Action::Execute { ticket, op, inputs } => {
                let spec = spec_of(&op);
                self.count(&op, &spec);
                let made = if spec.fails {
                    Err(Failure::new("simulated failure"))
                } else {
                    Ok(outputs(&spec, &inputs))
                };
                (Event::Executed(ticket.task, made), ticket.task)
            }
            Action::Save(save) => {
                self.open.push(Open::Save(save.outputs));
                return;
            }
            Action::Stop(task, _) => return self.stop(task),
            Action::Answer(waiter, outcome) => return self.check(waiter, outcome),
            Action::Note(update) => return self.store.note(&update),
            Action::Forget(result) => return self.store.release(&result).unawaited(),
            Action::Complete(_) | Action::Touch(_) => return,
        };
        let stopped = false;
        self.open.push(Open::Event {
            event,
            task,
            stopped,
        });
    }

    fn shelved(&self, result: &ResultId, foreign: bool) -> Option<i64> {
        let imported = self.imported.as_ref().filter(|_| foreign);
        let values = imported.map_or(&self.shelf, |(_, values)| values);
        values.get(result).copied()
    }

    fn stop(&mut self, stop: TaskId) {
        for open in &mut self.open {
            if let Open::Event { task, stopped, .. } = open {
                *stopped |= *task == stop;
            }
        }
    }

    fn count(&mut self, op: &Arc<dyn Operation<i64>>, spec: &Spec) {
        if !spec.forced
            && let Some(Some(identity)) = self.truth.identity.get(&op.vertex().digest)
        {
            *self.runs.entry(identity.clone()).or_default() += 1;
        }
    }

    fn check(&mut self, waiter: WaiterId, outcome: Result<i64, EngineError>) {
        let Some(target) = self.wishes.remove(&waiter) else {
            panic!("an answer to nobody");
        };
        match outcome {
            Ok(value) => assert_eq!(value, self.truth.values[target.vertex][target.output]),
            Err(EngineError::Cancelled { .. }) => assert!(!self.calm),
            Err(error) => assert!(self.truth.fails[target.vertex], "{error}"),
        }
    }

    fn finish(&mut self, at: usize, late: bool) {
        if let Open::Event { task, .. } = self.open[at] {
            self.end_nested(task);
        }
        // Giving up a build only cancels: nothing has left the list.
        match self.open.swap_remove(at) {
            Open::Save(outputs) => {
                let mut update = Update::default();
                let mut keys = Vec::new();
                for keep in outputs {
                    let number = self.number();
                    let result = ResultId::new(format!("result {number}"));
                    let time = i64::try_from(number).expect("few results are made");
                    let time = Timestamp::from_second(time).expect("few results are made");
                    self.shelf.insert(result.clone(), keep.value);
                    let info = ResultInfo::new(time, "simulated");
                    update.results.push((keep.key.key, result, info));
                    update.links.extend(keep.key.links);
                    keys.push(keep.key.key);
                }
                self.store.record(&update).unawaited();
                self.tell(Event::Saved(keys));
            }
            Open::Event {
                event,
                stopped: true,
                ..
            } if !late => {
                let cancelled = Failure::cancelled();
                let event = match event {
                    Event::Mapped(task, _) => Event::Mapped(task, Err(cancelled)),
                    Event::Keyed(task, _) => Event::Keyed(task, Err(cancelled)),
                    Event::Loaded(task, _) => Event::Loaded(task, Err(cancelled)),
                    Event::Executed(task, _) => Event::Executed(task, Err(cancelled)),
                    other => other,
                };
                self.tell(event);
            }
            Open::Event { event, .. } => self.tell(event),
        }
    }

    pub(super) fn finish_all(&mut self) {
        let mut left = 100_000;
        while !self.open.is_empty() {
            self.finish(0, false);
            left -= 1;
            assert!(left > 0, "work without end");
        }
    }

    pub(super) fn end(mut self, once: bool) {
        self.finish_all();
        assert!(
            self.wishes.is_empty(),
            "wishes without answer: {:?}",
            self.wishes
        );
        if once {
            for (identity, runs) in &self.runs {
                assert!(*runs <= 1, "{identity} ran {runs} times");
            }
        }
        for job in std::mem::take(&mut self.jobs).into_iter().flatten() {
            self.tell(Event::Discard(job));
        }
        while !self.open.is_empty() {
            self.finish(0, false);
        }
        assert_eq!(self.machine.vertices.len(), 0);
        assert_eq!(self.machine.nodes.len(), 0);
        assert!(self.machine.tasks.is_empty() && self.machine.waiters.is_empty());
        assert!(self.machine.by_digest.is_empty() && self.machine.pending.is_empty());
    }
}
