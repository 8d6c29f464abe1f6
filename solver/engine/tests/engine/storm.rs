//! Many jobs on several threads over one graph, some of which give up at any moment: every build ends, right or cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shipway_cache::KeyStore;
use shipway_engine::{EngineError, Graph};
use shipway_model::Failure;
use tokio::task::JoinSet;

use crate::common::{Adder, World, edge};

const JOBS: u64 = 200;

/// Random enough: the same numbers every time.
fn random(state: &mut u64) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 40).expect("24 bits fit")
}

/// Layers of vertices, each on three of the layer below; the lowest are volatile, with few values.
fn layered() -> (Graph<i64>, Vec<i64>) {
    let (mut graph, mut values) = (Graph::default(), Vec::new());
    let mut state = 7;
    for n in 0..60 {
        let plus = i64::try_from(n % 3).expect("small");
        let name = format!("vertex {n}");
        if n < 10 {
            let adder = Adder::new(&name, plus, 0).key(&name).volatile();
            graph.add(Arc::new(adder), Vec::new());
            values.push(plus);
            continue;
        }
        let below = n / 10 * 10 - 10;
        let inputs: Vec<usize> = (0..3).map(|_| below + random(&mut state) % 10).collect();
        let mut adder = Adder::new(&name, plus, 3).content(0).content(1);
        if n % 2 == 0 || n < 20 {
            adder = adder.content(2);
        }
        values.push(plus + inputs.iter().map(|&at| values[at]).sum::<i64>());
        let adder = adder.key(&format!("adds {plus} {}", n % 2 == 0 || n < 20));
        graph.add(Arc::new(adder), inputs.into_iter().map(edge).collect());
    }
    (graph, values)
}

async fn one_job(world: Arc<World>, graph: Graph<i64>, values: Arc<Vec<i64>>, seed: u64) -> bool {
    let mut state = seed.wrapping_mul(7919);
    let (job, _) = world.job();
    let target = 50 + random(&mut state) % 10;
    let patience = Duration::from_micros(random(&mut state) as u64 % 8000);
    let gives_up = random(&mut state).is_multiple_of(2);
    let built = tokio::select! {
        built = job.build(graph.clone(), edge(target)) => Some(built),
        () = async {
            tokio::time::timeout(patience, std::future::pending::<()>()).await.unwrap_or_default();
        }, if gives_up => None,
    };
    if let Some(built) = &built {
        assert_eq!(*built, Ok(values[target]));
    }
    if random(&mut state).is_multiple_of(3) {
        job.cancel(Failure::cancelled());
        let again = job.build(graph, edge(target)).await;
        assert!(matches!(again, Err(EngineError::Cancelled { .. })));
    }
    if random(&mut state).is_multiple_of(5) {
        world.shelf.remove_all();
    }
    if random(&mut state).is_multiple_of(2) {
        job.discard().await;
    }
    built.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_build_of_a_storm_ends() {
    let directory = tempfile::tempdir().unwrap();
    let store = KeyStore::open(&directory.path().join("cache.db")).unwrap();
    let world = Arc::new(World::over(store, Arc::default(), 3));
    let (graph, values) = layered();
    let values = Arc::new(values);
    let finished = AtomicUsize::new(0);
    let mut jobs = JoinSet::new();
    for seed in 0..JOBS {
        let job = one_job(Arc::clone(&world), graph.clone(), Arc::clone(&values), seed);
        jobs.spawn(tokio::time::timeout(Duration::from_mins(2), job));
        if jobs.len() >= 16 {
            let ended = jobs.join_next().await.unwrap().unwrap();
            finished.fetch_add(
                usize::from(ended.expect("no build hangs")),
                Ordering::Relaxed,
            );
        }
    }
    while let Some(ended) = jobs.join_next().await {
        let ended = ended.unwrap().expect("no build hangs");
        finished.fetch_add(usize::from(ended), Ordering::Relaxed);
    }
    assert!(finished.load(Ordering::Relaxed) > 0);
    let shutdown = tokio::time::timeout(Duration::from_mins(1), world.engine.shutdown());
    shutdown.await.expect("nothing is left running");
}
