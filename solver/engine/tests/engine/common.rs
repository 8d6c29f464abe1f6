//! Graphs of integers for tests: operations that add, results in memory, progress that is kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use shipway_cache::{KeyParts, KeyStore, ResultId};
use shipway_engine::{
    CacheMap, Config, ContentKey, Dep, Edge, Engine, EngineError, Graph, Job, JobId, JobSpec,
    OpContext, Operation, Prepare, Results, VertexInfo,
};
use shipway_model::progress::{Event, Sink, VertexState};
use shipway_model::{Digest, Failure};
use tokio::sync::Semaphore;

/// Results in memory, counted.
#[derive(Default)]
pub(crate) struct Shelf {
    values: Mutex<HashMap<ResultId, i64>>,
    pub(crate) saves: AtomicUsize,
    pub(crate) loads: AtomicUsize,
}

impl Shelf {
    pub(crate) fn remove_all(&self) {
        self.values.lock().expect("no holder panics").clear();
    }

    pub(crate) fn remove(&self, id: &ResultId) {
        self.values.lock().expect("no holder panics").remove(id);
    }
}

#[async_trait]
impl Results<i64> for Shelf {
    async fn save(&self, value: &i64, _: &str) -> Result<ResultId, Failure> {
        tokio::task::yield_now().await;
        let number = self.saves.fetch_add(1, Ordering::SeqCst);
        let id = ResultId::new(format!("result-{number}"));
        self.values
            .lock()
            .expect("no holder panics")
            .insert(id.clone(), *value);
        Ok(id)
    }

    async fn load(&self, _: &OpContext, id: &ResultId) -> Result<Option<i64>, Failure> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        Ok(self
            .values
            .lock()
            .expect("no holder panics")
            .get(id)
            .copied())
    }
}

/// Keeps what it is told.
#[derive(Default)]
pub(crate) struct Kept(pub(crate) Mutex<Vec<Event>>);

impl Sink for Kept {
    fn send(&self, event: Event) {
        self.0.lock().expect("no holder panics").push(event);
    }
}

impl Kept {
    /// The last state of a vertex.
    pub(crate) fn last(&self, name: &str) -> VertexState {
        let events = self.0.lock().expect("no holder panics");
        let states = events.iter().filter_map(|event| match event {
            Event::Vertex(state) if &*state.name == name => Some(state.clone()),
            _ => None,
        });
        states
            .last()
            .unwrap_or_else(|| panic!("{name} was never shown"))
    }

    pub(crate) fn logs(&self) -> Vec<String> {
        let events = self.0.lock().expect("no holder panics");
        let logs = events.iter().filter_map(|event| match event {
            Event::Log(log) => Some(String::from_utf8_lossy(&log.data).into_owned()),
            _ => None,
        });
        logs.collect()
    }
}

/// What an operation does.
#[derive(Clone)]
pub(crate) enum Act {
    Add,
    Fail,
    Panic,
    /// Takes a permit before it ends.
    Gated(Arc<Semaphore>),
    /// Takes a permit before it fails.
    GatedFailure(Arc<Semaphore>),
    /// Ends only when it is cancelled.
    Hang,
}

/// Adds its inputs and a number of its own.
#[derive(Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is what one test varies"
)]
pub(crate) struct Adder {
    pub(crate) info: VertexInfo,
    pub(crate) plus: i64,
    pub(crate) key: Digest,
    pub(crate) volatile: bool,
    /// Which inputs are keyed by content.
    pub(crate) content: Vec<bool>,
    pub(crate) selectors: Vec<Option<Digest>>,
    pub(crate) outputs: usize,
    pub(crate) act: Act,
    pub(crate) map_fails: bool,
    pub(crate) runs: Arc<AtomicUsize>,
    pub(crate) maps: Arc<AtomicUsize>,
    pub(crate) hashes: Arc<AtomicUsize>,
}

impl Adder {
    pub(crate) fn new(name: &str, plus: i64, inputs: usize) -> Self {
        Self {
            info: VertexInfo {
                digest: Digest::of(name),
                name: name.into(),
                progress_group: None,
                ignore_cache: false,
            },
            plus,
            key: Digest::of(format!("{name} adds {plus}")),
            volatile: false,
            content: vec![false; inputs],
            selectors: vec![None; inputs],
            outputs: 1,
            act: Act::Add,
            map_fails: false,
            runs: Arc::default(),
            maps: Arc::default(),
            hashes: Arc::default(),
        }
    }

    pub(crate) fn key(mut self, text: &str) -> Self {
        self.key = Digest::of(text);
        self
    }

    pub(crate) fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    pub(crate) fn content(mut self, input: usize) -> Self {
        self.content[input] = true;
        self
    }

    pub(crate) fn forced(mut self) -> Self {
        self.info.ignore_cache = true;
        self
    }

    pub(crate) fn act(mut self, act: Act) -> Self {
        self.act = act;
        self
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    pub(crate) fn hashes(&self) -> usize {
        self.hashes.load(Ordering::SeqCst)
    }
}

pub(crate) struct Hash(Arc<AtomicUsize>);

#[async_trait]
impl ContentKey<i64> for Hash {
    async fn digest(&self, _: &OpContext, input: &i64) -> Result<Digest, Failure> {
        self.0.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        Ok(Digest::of(format!("content {input}")))
    }
}

pub(crate) struct Nothing;

#[async_trait]
impl Prepare<i64> for Nothing {
    async fn prepare(&self, _: &OpContext, _: &i64) -> Result<(), Failure> {
        Ok(())
    }
}

#[async_trait]
impl Operation<i64> for Adder {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, _: &OpContext) -> Result<CacheMap<i64>, Failure> {
        self.maps.fetch_add(1, Ordering::SeqCst);
        if self.content.is_empty() || self.plus % 2 == 0 {
            tokio::task::yield_now().await;
        }
        if self.map_fails {
            return Err(Failure::new("no key"));
        }
        let deps = self.content.iter().zip(&self.selectors);
        let deps = deps.map(|(content, selector)| Dep {
            selector: *selector,
            content: content
                .then(|| -> Arc<dyn ContentKey<i64>> { Arc::new(Hash(Arc::clone(&self.hashes))) }),
            prepare: Some(Arc::new(Nothing)),
        });
        Ok(CacheMap {
            digest: self.key,
            deps: deps.collect(),
            volatile: self.volatile,
            parts: KeyParts(vec![("plus".to_owned(), self.plus.to_string())]),
        })
    }

    async fn execute(&self, ctx: &OpContext, inputs: Vec<i64>) -> Result<Vec<i64>, Failure> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        ctx.progress()
            .log(1, format!("{} runs", self.info.name).into());
        match &self.act {
            Act::Add => tokio::task::yield_now().await,
            Act::Fail => return Err(Failure::new(format!("{} failed", self.info.name))),
            Act::Panic => panic!("{} panicked", self.info.name),
            Act::Gated(gate) => tokio::select! {
                permit = gate.acquire() => permit.expect("gates stay open").forget(),
                () = ctx.cancelled().cancelled() => return Err(Failure::cancelled()),
            },
            Act::GatedFailure(gate) => {
                gate.acquire().await.expect("gates stay open").forget();
                return Err(Failure::new(format!("{} failed", self.info.name)));
            }
            Act::Hang => {
                ctx.cancelled().cancelled().await;
                return Err(Failure::cancelled());
            }
        }
        let sum = inputs.iter().sum::<i64>() + self.plus;
        Ok((0..self.outputs)
            .map(|n| sum + 1000 * i64::try_from(n).expect("few outputs"))
            .collect())
    }
}

/// An engine with its surroundings.
pub(crate) struct World {
    pub(crate) store: KeyStore,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) engine: Engine<i64>,
    jobs: AtomicUsize,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::over(KeyStore::memory(), Arc::default(), 4)
    }

    pub(crate) fn over(store: KeyStore, shelf: Arc<Shelf>, max_parallelism: usize) -> Self {
        let config = Config {
            max_parallelism,
            ..Config::default()
        };
        let engine = Engine::new(store.clone(), Arc::clone(&shelf) as _, config);
        Self {
            store,
            shelf,
            engine,
            jobs: AtomicUsize::new(0),
        }
    }

    pub(crate) fn job(&self) -> (Job<i64>, Arc<Kept>) {
        let kept = Arc::new(Kept::default());
        let number = self.jobs.fetch_add(1, Ordering::SeqCst);
        let job = self.engine.job(JobSpec {
            id: JobId::new(format!("job-{number}")),
            sessions: vec![format!("session-{number}").into()],
            progress: Arc::clone(&kept) as _,
        });
        (job, kept)
    }

    /// Builds the last vertex's first output in a job of its own.
    pub(crate) async fn build(&self, graph: &Graph<i64>) -> Result<i64, EngineError> {
        let (job, _) = self.job();
        let value = job.build(graph.clone(), last(graph)).await;
        job.discard().await;
        value
    }
}

pub(crate) fn last(graph: &Graph<i64>) -> Edge {
    edge(graph.vertices.len() - 1)
}

pub(crate) fn edge(vertex: usize) -> Edge {
    Edge { vertex, output: 0 }
}

/// Operations with the positions of their inputs.
pub(crate) fn graph(vertices: &[(&Adder, &[usize])]) -> Graph<i64> {
    let mut graph = Graph::default();
    for (adder, inputs) in vertices {
        let inputs = inputs.iter().map(|&v| edge(v)).collect();
        graph.add(Arc::new((*adder).clone()), inputs);
    }
    graph
}
