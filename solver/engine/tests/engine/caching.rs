//! What runs, what is loaded and what is neither, over graphs of integers.

use std::sync::atomic::Ordering;

use crate::common::{Act, Adder, World, edge, graph, last};
use shipway_cache::KeyIndex as _;
use shipway_engine::EngineError;

#[tokio::test]
async fn every_vertex_of_a_diamond_runs_once_and_none_the_second_time() {
    let world = World::new();
    let (a, b) = (Adder::new("a", 1, 0), Adder::new("b", 2, 1));
    let (c, d) = (Adder::new("c", 3, 1), Adder::new("d", 4, 2));
    let diamond = graph(&[(&a, &[]), (&b, &[0]), (&c, &[0]), (&d, &[1, 2])]);
    assert_eq!(world.build(&diamond).await, Ok(11));
    assert_eq!(world.build(&diamond).await, Ok(11));
    assert_eq!([&a, &b, &c, &d].map(Adder::runs), [1; 4]);
    assert_eq!(world.shelf.saves.load(Ordering::SeqCst), 4);
    // Nothing but the target is loaded.
    assert_eq!(world.shelf.loads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_pruned_result_is_made_again_from_what_is_left() {
    let world = World::new();
    let (a, b) = (Adder::new("a", 1, 0), Adder::new("b", 2, 1));
    let chain = graph(&[(&a, &[]), (&b, &[0])]);
    assert_eq!(world.build(&chain).await, Ok(3));
    let newest = world.store.usages().into_iter().map(|u| u.result).max();
    world.shelf.remove(&newest.unwrap());
    assert_eq!(world.build(&chain).await, Ok(3));
    assert_eq!([a.runs(), b.runs()], [1, 2]);
    world.shelf.remove_all();
    assert_eq!(world.build(&chain).await, Ok(3));
    assert_eq!([a.runs(), b.runs()], [2, 3]);
    assert_eq!(world.build(&chain).await, Ok(3));
    assert_eq!([a.runs(), b.runs()], [2, 3]);
}

#[tokio::test]
async fn equal_content_of_a_volatile_source_hits() {
    let world = World::new();
    let copy = Adder::new("copy", 2, 1).content(0);
    let run = Adder::new("run", 3, 1);
    for (number, runs) in [(1, 1), (2, 1)] {
        let name = format!("context {number}");
        let context = Adder::new(&name, 1, 0).key(&name).volatile();
        let chain = graph(&[(&context, &[]), (&copy, &[0]), (&run, &[1])]);
        assert_eq!(world.build(&chain).await, Ok(6));
        assert_eq!([context.runs(), copy.runs(), run.runs()], [1, runs, runs]);
    }
    let changed = Adder::new("context 3", 7, 0).key("context 3").volatile();
    let chain = graph(&[(&changed, &[]), (&copy, &[0]), (&run, &[1])]);
    assert_eq!(world.build(&chain).await, Ok(12));
    assert_eq!([copy.runs(), run.runs()], [2, 2]);
}

#[tokio::test]
async fn a_content_key_is_found_by_definition_the_next_time() {
    let world = World::new();
    let copy = Adder::new("copy", 2, 1).content(0);
    let one = Adder::new("stage 1", 1, 0).key("stage 1");
    let two = Adder::new("stage 2", 1, 0).key("stage 2");
    assert_eq!(
        world.build(&graph(&[(&one, &[]), (&copy, &[0])])).await,
        Ok(3)
    );
    assert_eq!(copy.hashes(), 1);
    let second = graph(&[(&two, &[]), (&copy, &[0])]);
    assert_eq!(world.build(&second).await, Ok(3));
    assert_eq!([copy.hashes(), copy.runs(), two.runs()], [2, 1, 1]);
    assert_eq!(world.build(&second).await, Ok(3));
    assert_eq!([copy.hashes(), copy.runs(), two.runs()], [2, 1, 1]);
}

#[tokio::test]
async fn an_input_that_matches_by_definition_is_not_hashed() {
    let world = World::new();
    let base = Adder::new("base", 10, 0);
    let stage = Adder::new("stage", 20, 0);
    let copy = Adder::new("copy", 1, 3).content(1).content(2);
    let context = |n| {
        let name = format!("context {n}");
        Adder::new(&name, 3, 0).key(&name).volatile()
    };
    let build = |context: &Adder| {
        graph(&[
            (&base, &[]),
            (&stage, &[]),
            (context, &[]),
            (&copy, &[0, 1, 2]),
        ])
    };
    assert_eq!(world.build(&build(&context(1))).await, Ok(34));
    assert_eq!([copy.hashes(), stage.runs()], [2, 1]);
    let loads = world.shelf.loads.load(Ordering::SeqCst);
    assert_eq!(world.build(&build(&context(2))).await, Ok(34));
    // Only the context was hashed, and only the target loaded.
    assert_eq!([copy.hashes(), copy.runs(), stage.runs()], [3, 1, 1]);
    assert_eq!(world.shelf.loads.load(Ordering::SeqCst), loads + 1);
}

#[tokio::test]
async fn a_failing_step_is_never_recorded() {
    let world = World::new();
    let a = Adder::new("a", 1, 0);
    let bad = Adder::new("bad", 1, 1).act(Act::Fail);
    let chain = graph(&[(&a, &[]), (&bad, &[0])]);
    for runs in [1, 2] {
        let error = world.build(&chain).await.unwrap_err();
        assert_eq!(error.to_string(), "bad failed");
        assert_eq!([a.runs(), bad.runs()], [1, runs]);
    }
    let mut keyless = Adder::new("keyless", 1, 1);
    keyless.map_fails = true;
    let error = world.build(&graph(&[(&a, &[]), (&keyless, &[0])])).await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "failed to load cache key: no key"
    );
}

#[tokio::test]
async fn a_panic_is_a_failure() {
    let world = World::new();
    let bad = Adder::new("bad", 1, 0).act(Act::Panic);
    let error = world.build(&graph(&[(&bad, &[])])).await.unwrap_err();
    assert_eq!(error.to_string(), "the step's code panicked: bad panicked");
}

#[tokio::test]
async fn a_forced_step_runs_and_so_does_what_follows_unless_content_matches() {
    let world = World::new();
    let base = Adder::new("base", 1, 0);
    let (step, child) = (Adder::new("step", 2, 1), Adder::new("child", 3, 1));
    let copy = Adder::new("copy", 4, 1).content(0);
    let after = Adder::new("after", 5, 1);
    let chain = |step: &Adder| {
        graph(&[
            (&base, &[]),
            (step, &[0]),
            (&child, &[1]),
            (&copy, &[2]),
            (&after, &[3]),
        ])
    };
    assert_eq!(world.build(&chain(&step)).await, Ok(15));
    let forced = step.clone().forced();
    assert_eq!(world.build(&chain(&forced)).await, Ok(15));
    let runs = [&base, &step, &child, &copy, &after].map(Adder::runs);
    assert_eq!(runs, [1, 2, 2, 1, 1]);
    // The forced results are what later builds get.
    assert_eq!(world.build(&chain(&step)).await, Ok(15));
    let runs = [&base, &step, &child, &copy, &after].map(Adder::runs);
    assert_eq!(runs, [1, 2, 2, 1, 1]);
}

#[tokio::test]
async fn a_vertex_may_have_several_outputs_and_inputs_twice() {
    let world = World::new();
    let mut two = Adder::new("two", 1, 0);
    two.outputs = 2;
    let sum = Adder::new("sum", 0, 3);
    let mut graph = graph(&[(&two, &[])]);
    let second = shipway_engine::Edge {
        vertex: 0,
        output: 1,
    };
    graph.add(
        std::sync::Arc::new(sum.clone()),
        vec![edge(0), second, edge(0)],
    );
    assert_eq!(world.build(&graph).await, Ok(1003));
    assert_eq!(world.build(&graph).await, Ok(1003));
    assert_eq!([two.runs(), sum.runs()], [1, 1]);
    let (job, _) = world.job();
    assert_eq!(job.build(graph.clone(), second).await, Ok(1001));
    let third = shipway_engine::Edge {
        vertex: 0,
        output: 2,
    };
    let error = job.build(graph, third).await.unwrap_err();
    assert_eq!(error.to_string(), "the step has no output 2");
}

#[tokio::test]
async fn progress_tells_what_was_cached() {
    let world = World::new();
    let (a, b) = (Adder::new("a", 1, 0), Adder::new("b", 2, 1));
    let c = Adder::new("c", 3, 1);
    let chain = graph(&[(&a, &[]), (&b, &[0])]);
    let (job, kept) = world.job();
    job.build(chain.clone(), last(&chain)).await.unwrap();
    job.recorded().await;
    for name in ["a", "b"] {
        let state = kept.last(name);
        assert!(!state.cached && state.completed.is_some(), "{name}");
    }
    assert_eq!(kept.logs(), ["a runs", "b runs"]);
    job.discard().await;

    let longer = graph(&[(&a, &[]), (&b, &[0]), (&c, &[1])]);
    let (job, kept) = world.job();
    job.build(longer.clone(), last(&longer)).await.unwrap();
    job.discard().await;
    // A source has been asked for its key, the step was loaded.
    assert!(!kept.last("a").cached && kept.last("a").completed.is_some());
    assert!(kept.last("b").cached && kept.last("b").completed.is_some());
    assert!(!kept.last("c").cached && kept.last("c").completed.is_some());
    assert_eq!(kept.last("c").error, "", "was recorded before the job went");

    let (job, kept) = world.job();
    job.build(longer.clone(), last(&longer)).await.unwrap();
    job.discard().await;
    assert!(kept.last("b").cached, "was never needed");
    assert!(kept.last("c").cached);
}

#[tokio::test]
async fn keys_outlive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.db");
    let (a, b) = (Adder::new("a", 1, 0), Adder::new("b", 2, 1));
    let chain = graph(&[(&a, &[]), (&b, &[0])]);
    let shelf = std::sync::Arc::default();
    for _ in 0..3 {
        let store = shipway_cache::KeyStore::open(&path).unwrap();
        let world = World::over(store, std::sync::Arc::clone(&shelf), 2);
        assert_eq!(world.build(&chain).await, Ok(3));
        world.engine.shutdown().await;
    }
    assert_eq!([a.runs(), b.runs()], [1, 1]);
}

#[tokio::test]
async fn an_export_names_every_key_and_its_parts_are_kept() {
    let world = World::new();
    let context = Adder::new("context", 1, 0).volatile();
    let base = Adder::new("base", 2, 0);
    let copy = Adder::new("copy", 3, 2).content(1);
    let run = Adder::new("run", 4, 1);
    let all = graph(&[
        (&context, &[]),
        (&base, &[]),
        (&copy, &[1, 0]),
        (&run, &[2]),
    ]);
    let (job, _) = world.job();
    job.build(all.clone(), last(&all)).await.unwrap();
    job.recorded().await;
    let exported = job.export(&all, last(&all), false).await;
    let shape: Vec<_> = exported
        .iter()
        .map(|e| {
            (
                e.inputs.iter().map(|i| i[0].from).collect(),
                e.records.len(),
            )
        })
        .collect();
    assert_eq!(
        shape,
        [(vec![], 1), (vec![], 0), (vec![0, 1], 1), (vec![2], 1)]
            .map(|(inputs, records): (Vec<usize>, usize)| (inputs, records))
    );
    let target = exported.last().unwrap();
    assert_eq!(world.store.parts(&target.key).unwrap().0[0].1, "4");
    assert_eq!(job.export(&all, last(&all), true).await.len(), 4);
    job.discard().await;
}

#[tokio::test]
async fn what_is_no_graph_is_refused() {
    let world = World::new();
    let a = Adder::new("a", 1, 1);
    let error = world.build(&graph(&[(&a, &[0])])).await.unwrap_err();
    assert!(matches!(error, EngineError::InvalidGraph { .. }), "{error}");
}
