//! Graphs of thousands of vertices: time must stay linear.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shipway_cache::KeyStore;
use shipway_engine::Graph;

use crate::common::{Adder, World, edge};

/// Fewer where the compiler does not optimise.
const VERTICES: usize = if cfg!(debug_assertions) {
    1_000
} else {
    10_000
};

fn chain() -> Graph<i64> {
    let mut graph = Graph::default();
    for n in 0..VERTICES {
        let inputs = usize::from(n > 0);
        let adder = Adder::new(&format!("step {n}"), 1, inputs);
        graph.add(Arc::new(adder), (0..inputs).map(|_| edge(n - 1)).collect());
    }
    graph
}

fn fan() -> Graph<i64> {
    let mut graph = Graph::default();
    graph.add(Arc::new(Adder::new("base", 1, 0)), Vec::new());
    for n in 1..VERTICES - 1 {
        graph.add(
            Arc::new(Adder::new(&format!("step {n}"), 1, 1)),
            vec![edge(0)],
        );
    }
    let all: Vec<_> = (1..VERTICES - 1).map(edge).collect();
    graph.add(Arc::new(Adder::new("all", 1, all.len())), all);
    graph
}

/// Milliseconds that this thread has had the CPU.
fn on_cpu() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|n| n.parse::<u64>().ok());
    nanos.unwrap_or(0) / 1_000_000
}

async fn build_twice(world: &World, graph: &Graph<i64>, what: &str) {
    let start = Instant::now();
    let busy = on_cpu();
    world.build(graph).await.expect("adders do not fail");
    let first = start.elapsed();
    let again = Instant::now();
    let busy = (busy, on_cpu());
    world.build(graph).await.expect("adders do not fail");
    let cached = again.elapsed();
    let (run, load) = (busy.1 - busy.0, on_cpu() - busy.1);
    eprintln!("{what}: {first:?} run, {cached:?} cached; on the CPU {run} ms, {load} ms");
    // Far above what it takes, far below what it would take if it were not linear.
    assert!(first + cached < Duration::from_mins(1), "{what}");
}

#[tokio::test]
async fn thousands_of_vertices_take_linear_time() {
    for (graph, what) in [(chain(), "chain"), (fan(), "fan")] {
        build_twice(&World::new(), &graph, what).await;
    }
    let directory = tempfile::tempdir().unwrap();
    for (graph, what) in [(chain(), "chain on disk"), (fan(), "fan on disk")] {
        let path = directory.path().join(what);
        let world = World::over(KeyStore::open(&path).unwrap(), Arc::default(), 4);
        build_twice(&world, &graph, what).await;
    }
}
