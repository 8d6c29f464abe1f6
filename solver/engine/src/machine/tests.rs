//! Random graphs, several jobs at once, every order of events, random cancels and prunes, compared with plain recursion:
//! every build ends, every value is right, nothing runs twice for one key, nothing is left behind.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use proptest::prelude::*;
use shipway_cache::{KeyParts, KeyStore, ResultId, ResultInfo};
use shipway_model::progress::{Event as Shown, Sink};

use super::*;
use crate::{ContentKey, Dep, JobId, JobSpec, OpContext, VertexInfo};

/// One vertex of a random graph.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is drawn by itself")]
struct Spec {
    plus: u8,
    /// Input (modulo what stands before), output, keyed by content.
    inputs: Vec<(usize, usize, bool)>,
    volatile: bool,
    forced: bool,
    fails: bool,
    /// Makes it a vertex of its own although its key is another's.
    salt: u8,
}

#[derive(Debug, Clone)]
enum Step {
    Build {
        job: usize,
        vertex: usize,
        output: usize,
    },
    Finish {
        task: usize,
        late: bool,
    },
    Withdraw(usize),
    Cancel(usize),
    Discard(usize),
    Prune {
        result: usize,
        told: bool,
    },
}

struct SimOp {
    info: VertexInfo,
    spec: Arc<Spec>,
}

struct NoHash;

#[async_trait]
impl ContentKey<i64> for NoHash {
    async fn digest(&self, _: &OpContext, _: &i64) -> Result<Digest, Failure> {
        Err(Failure::new("simulated"))
    }
}

#[async_trait]
impl Operation<i64> for SimOp {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, _: &OpContext) -> Result<CacheMap<i64>, Failure> {
        Err(Failure::new("simulated"))
    }

    async fn execute(&self, _: &OpContext, _: Vec<i64>) -> Result<Vec<i64>, Failure> {
        Err(Failure::new("simulated"))
    }

    fn facts(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::clone(&self.spec) as _)
    }
}

fn spec_of(op: &Arc<dyn Operation<i64>>) -> Arc<Spec> {
    let facts = op.facts().expect("simulated operations have facts");
    facts.downcast().expect("their facts are specs")
}

/// Few values, so that contents coincide.
fn outputs(spec: &Spec, inputs: &[i64]) -> Vec<i64> {
    let sum = inputs.iter().sum::<i64>() + i64::from(spec.plus);
    vec![sum % 3, (sum + 1) % 3 + 10]
}

fn key_of(spec: &Spec) -> Digest {
    let contents: Vec<bool> = spec.inputs.iter().map(|(_, _, content)| *content).collect();
    let own = if spec.volatile { spec.salt } else { 0 };
    Digest::of(format!("{} {contents:?} {} {own}", spec.plus, spec.fails))
}

fn map_of(spec: &Spec) -> CacheMap<i64> {
    let deps = spec.inputs.iter().map(|(_, _, content)| Dep {
        content: content.then(|| Arc::new(NoHash) as _),
        ..Dep::default()
    });
    CacheMap {
        digest: key_of(spec),
        deps: deps.collect(),
        volatile: spec.volatile,
        parts: KeyParts::default(),
    }
}

/// What plain recursion says of every vertex.
struct Truth {
    graph: Graph<i64>,
    values: Vec<Vec<i64>>,
    fails: Vec<bool>,
    /// Vertices with equal identity run once; `None` where nothing can tell.
    identity: HashMap<Digest, Option<String>>,
}

impl Truth {
    fn new(specs: &[Spec]) -> Self {
        let mut truth = Self {
            graph: Graph::default(),
            values: Vec::new(),
            fails: Vec::new(),
            identity: HashMap::new(),
        };
        let mut digests: Vec<Digest> = Vec::new();
        for (at, spec) in specs.iter().enumerate() {
            let mut spec = spec.clone();
            if at == 0 {
                spec.inputs.clear();
            }
            spec.volatile &= spec.inputs.is_empty();
            let edges: Vec<Edge> = spec
                .inputs
                .iter()
                .map(|&(vertex, output, _)| Edge {
                    vertex: vertex % at.max(1),
                    output: output % 2,
                })
                .collect();
            let inputs: Vec<i64> = edges
                .iter()
                .map(|e| truth.values[e.vertex][e.output])
                .collect();
            let below: Vec<(Digest, usize)> = edges
                .iter()
                .map(|e| (digests[e.vertex], e.output))
                .collect();
            let digest = Digest::of(format!("{spec:?} {below:?}"));
            let identity = truth.identity_of(&spec, &edges, &digests);
            truth.identity.insert(digest, identity);
            truth.values.push(outputs(&spec, &inputs));
            let below_fails = edges.iter().any(|e| truth.fails[e.vertex]);
            truth.fails.push(spec.fails || below_fails);
            digests.push(digest);
            let info = VertexInfo {
                digest,
                name: format!("{at}").into(),
                progress_group: None,
                ignore_cache: spec.forced,
            };
            let spec = Arc::new(spec);
            truth.graph.add(Arc::new(SimOp { info, spec }), edges);
        }
        truth
    }

    fn identity_of(&self, spec: &Spec, edges: &[Edge], digests: &[Digest]) -> Option<String> {
        if spec.volatile {
            return None;
        }
        let mut parts = vec![key_of(spec).to_string()];
        for (edge, (_, _, content)) in edges.iter().zip(&spec.inputs) {
            parts.push(if *content {
                self.values[edge.vertex][edge.output].to_string()
            } else {
                let below = self.identity[&digests[edge.vertex]].clone()?;
                format!("({below})[{}]", edge.output)
            });
        }
        Some(parts.join(" "))
    }

    fn build(&self, vertex: usize) -> Graph<i64> {
        Graph {
            vertices: self.graph.vertices[..=vertex].to_vec(),
            inputs: self.graph.inputs[..=vertex].to_vec(),
        }
    }
}

struct Deaf;

impl Sink for Deaf {
    fn send(&self, _: Shown) {}
}

enum Open {
    Event {
        event: Event<i64>,
        task: TaskId,
        stopped: bool,
    },
    Save(Vec<Keep<i64>>),
}

struct Sim {
    truth: Truth,
    machine: Machine<i64>,
    store: KeyStore,
    shelf: BTreeMap<ResultId, i64>,
    open: Vec<Open>,
    wishes: BTreeMap<WaiterId, Edge>,
    jobs: Vec<Option<JobKey>>,
    runs: HashMap<String, usize>,
    next: u64,
    /// Nothing was cancelled, withdrawn, discarded or pruned.
    calm: bool,
}

const JOBS: usize = 3;

impl Sim {
    fn new(specs: &[Spec]) -> Self {
        let store = KeyStore::memory();
        Self {
            truth: Truth::new(specs),
            machine: Machine::new(Arc::new(store.clone()), || Timestamp::UNIX_EPOCH),
            store,
            shelf: BTreeMap::new(),
            open: Vec::new(),
            wishes: BTreeMap::new(),
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
        key
    }

    fn step(&mut self, step: &Step) {
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
            Step::Discard(job) => {
                if let Some(job) = self.jobs[job % JOBS].take() {
                    self.calm &= self.wishes.is_empty() && self.open.is_empty();
                    self.tell(Event::Discard(job));
                }
            }
            Step::Prune { result, told } => self.prune(result, told),
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
            Action::Load { ticket, record, .. } => {
                let value = self.shelf.get(&record.result).copied();
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
            Action::Stop(task, _) => {
                self.stop(task);
                return;
            }
            Action::Answer(waiter, outcome) => {
                self.check(waiter, outcome);
                return;
            }
            Action::Note(update) => {
                self.store.note(&update);
                return;
            }
            Action::Forget(result) => {
                self.store.release(&result).unawaited();
                return;
            }
            Action::Complete(_) | Action::Touch(_) => return,
        };
        let stopped = false;
        self.open.push(Open::Event {
            event,
            task,
            stopped,
        });
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

    fn end(mut self, once: bool) {
        let mut left = 100_000;
        while !self.open.is_empty() {
            self.finish(0, false);
            left -= 1;
            assert!(left > 0, "work without end");
        }
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

fn spec() -> impl Strategy<Value = Spec> {
    let input = (0..12usize, 0..2usize, any::<bool>());
    let flags = (
        prop::bool::weighted(0.4),
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.05),
    );
    (0..3u8, prop::collection::vec(input, 0..4), flags, 0..3u8).prop_map(
        |(plus, inputs, (volatile, forced, fails), salt)| Spec {
            plus,
            inputs,
            volatile,
            forced,
            fails,
            salt,
        },
    )
}

/// Without outputs that run apart, forced runs and failures.
fn calm_spec() -> impl Strategy<Value = Spec> {
    spec().prop_map(|mut spec| {
        for input in &mut spec.inputs {
            input.1 = 0;
        }
        spec.forced = false;
        spec.fails = false;
        spec
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..JOBS, 0..12usize, 0..2usize)
            .prop_map(|(job, vertex, output)| Step::Build { job, vertex, output }),
        24 => (0..64usize, any::<bool>()).prop_map(|(task, late)| Step::Finish { task, late }),
        1 => (0..8usize).prop_map(Step::Withdraw),
        1 => (0..JOBS).prop_map(Step::Cancel),
        1 => (0..JOBS).prop_map(Step::Discard),
        1 => (0..16usize, any::<bool>()).prop_map(|(result, told)| Step::Prune { result, told }),
    ]
}

fn calm_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..JOBS, 0..12usize)
            .prop_map(|(job, vertex)| Step::Build { job, vertex, output: 0 }),
        4 => (0..64usize, any::<bool>()).prop_map(|(task, late)| Step::Finish { task, late }),
    ]
}

fn cases() -> ProptestConfig {
    let cases = option_env!("SHIPWAY_FUZZ_CASES").and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(256),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_order_of_events_gives_what_recursion_gives(
        specs in prop::collection::vec(spec(), 1..12),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut sim = Sim::new(&specs);
        for step in &steps {
            sim.step(step);
        }
        sim.end(false);
    }

    #[test]
    fn undisturbed_builds_run_every_key_once(
        specs in prop::collection::vec(calm_spec(), 1..12),
        steps in prop::collection::vec(calm_step(), 0..120),
    ) {
        let mut sim = Sim::new(&specs);
        for step in &steps {
            sim.step(step);
        }
        sim.end(true);
    }
}
