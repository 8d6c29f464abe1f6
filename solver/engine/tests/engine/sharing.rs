//! Vertices that several builds want at once, and builds that end early.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use shipway_cache::{KeyIndex, KeyStore, ResultId};
use shipway_engine::{
    CacheMap, CacheSource, Engine, EngineError, Graph, OpContext, Operation, VertexInfo,
};
use shipway_model::{Digest, Failure};
use tokio::sync::{OnceCell, Semaphore};

use crate::common::{Act, Adder, World, edge, graph, last};

fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

/// Lets every task that can go on do so.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn equal_vertices_of_two_jobs_share_one_run_and_its_logs() {
    let world = World::new();
    let gate = gate();
    let slow = Adder::new("slow", 1, 0).act(Act::Gated(Arc::clone(&gate)));
    let chain = graph(&[(&slow, &[])]);
    let ((one, first), (two, second)) = (world.job(), world.job());
    let build = async |job: &shipway_engine::Job<i64>| job.build(chain.clone(), last(&chain)).await;
    let (a, b, ()) = tokio::join!(build(&one), build(&two), async {
        settle().await;
        gate.add_permits(1);
    });
    assert_eq!((a, b), (Ok(1), Ok(1)));
    assert_eq!(slow.runs(), 1);
    // Also a job that comes later sees the logs.
    let (three, third) = world.job();
    assert_eq!(build(&three).await, Ok(1));
    for kept in [first, second, third] {
        assert_eq!(kept.logs(), ["slow runs"]);
    }
}

#[tokio::test]
async fn what_a_retired_job_has_is_no_longer_shared() {
    let world = World::new();
    let step = Adder::new("step", 1, 0);
    let forced = Adder::new("forced", 2, 1).forced();
    let chain = graph(&[(&step, &[]), (&forced, &[0])]);
    let (one, _) = world.job();
    assert_eq!(one.build(chain.clone(), last(&chain)).await, Ok(3));
    one.recorded().await;
    one.retire();
    let (two, kept) = world.job();
    assert_eq!(two.build(chain.clone(), last(&chain)).await, Ok(3));
    assert!(kept.last("step").cached && kept.logs() == ["forced runs"]);
    assert_eq!((step.runs(), forced.runs()), (1, 2));
    // It may still ask about its own.
    assert!(!one.export(&chain, edge(0), false).await.is_empty());
}

#[tokio::test]
async fn a_cancelled_job_leaves_shared_vertices_running() {
    let world = World::new();
    let gate = gate();
    let slow = Adder::new("slow", 1, 0).act(Act::Gated(Arc::clone(&gate)));
    let chain = graph(&[(&slow, &[])]);
    let ((one, kept), (two, _)) = (world.job(), world.job());
    let (a, b, ()) = tokio::join!(
        one.build(chain.clone(), last(&chain)),
        two.build(chain.clone(), last(&chain)),
        async {
            settle().await;
            one.cancel(Failure::new("the client left"));
            settle().await;
            gate.add_permits(1);
        }
    );
    let cause = Failure::new("the client left");
    assert_eq!(a, Err(EngineError::Cancelled { cause }));
    assert_eq!(b, Ok(1));
    assert_eq!(slow.runs(), 1);
    assert_eq!(kept.last("slow").error, "context canceled");
    let again = one.build(chain.clone(), last(&chain)).await;
    assert!(matches!(again, Err(EngineError::Cancelled { .. })));
    one.discard().await;
    two.discard().await;
}

#[tokio::test]
async fn cancelling_the_only_job_stops_the_step_which_can_run_again() {
    let world = World::new();
    let hang = Adder::new("hang", 1, 0).act(Act::Hang);
    let chain = graph(&[(&hang, &[])]);
    let (job, _) = world.job();
    let start = Instant::now();
    let (built, ()) = tokio::join!(job.build(chain.clone(), last(&chain)), async {
        settle().await;
        job.cancel(Failure::cancelled());
    });
    assert!(built.is_err());
    job.discard().await;
    assert!(start.elapsed() < Duration::from_millis(100));
    assert_eq!(hang.runs(), 1);
    let well = hang.clone().act(Act::Add);
    assert_eq!(world.build(&graph(&[(&well, &[])])).await, Ok(1));
}

#[tokio::test]
async fn dropping_a_build_withdraws_it_and_the_vertex_can_be_wanted_again() {
    let world = World::new();
    let gate = gate();
    let slow = Adder::new("slow", 1, 0).act(Act::Gated(Arc::clone(&gate)));
    let chain = graph(&[(&slow, &[])]);
    let (job, _) = world.job();
    let abandoned = async {
        tokio::select! {
            biased;
            _ = job.build(chain.clone(), last(&chain)) => panic!("the gate is shut"),
            () = settle() => {}
        }
    };
    abandoned.await;
    // Wanted again before, and after, the first run has ended.
    let (built, ()) = tokio::join!(job.build(chain.clone(), last(&chain)), async {
        settle().await;
        gate.add_permits(1);
    });
    assert_eq!(built, Ok(1));
    assert_eq!(slow.runs(), 2);
}

#[tokio::test]
async fn a_failure_cancels_siblings_and_reaches_every_waiter() {
    let world = World::new();
    let gate = gate();
    let hang = Adder::new("hang", 1, 0).act(Act::Hang);
    let bad = Adder::new("bad", 1, 0).act(Act::Fail);
    let gated = Adder::new("gated", 1, 0).act(Act::Gated(Arc::clone(&gate)));
    let sum = Adder::new("sum", 1, 2);
    let late = Adder::new("late", 2, 2);
    let bad_late = Adder::new("bad late", 1, 1).act(Act::Fail);
    let all = graph(&[
        (&hang, &[]),
        (&bad, &[]),
        (&sum, &[0, 1]),
        (&gated, &[]),
        (&bad_late, &[3]),
        (&late, &[0, 4]),
    ]);
    let (job, kept) = world.job();
    let error = job.build(all.clone(), edge(2)).await.unwrap_err();
    assert_eq!(error.to_string(), "bad failed");
    let ((one, _), (two, _)) = (world.job(), world.job());
    let (a, b, ()) = tokio::join!(
        one.build(all.clone(), edge(5)),
        two.build(all.clone(), edge(4)),
        async {
            settle().await;
            gate.add_permits(1);
        }
    );
    assert_eq!(a.unwrap_err().to_string(), "bad late failed");
    assert_eq!(b.unwrap_err().to_string(), "bad late failed");
    for job in [job, one, two] {
        job.discard().await;
    }
    assert_eq!(kept.last("hang").error, "context canceled");
    assert_eq!(kept.last("bad").error, "bad failed");
    assert_eq!(bad_late.runs(), 1);
}

#[tokio::test]
async fn a_step_that_fails_since_one_of_its_jobs_left_is_tried_for_the_others() {
    let world = World::new();
    let gate = gate();
    let bad = Adder::new("bad", 1, 0).act(Act::GatedFailure(Arc::clone(&gate)));
    let chain = graph(&[(&bad, &[])]);
    let ((one, _), (two, _)) = (world.job(), world.job());
    let (a, b, ()) = tokio::join!(
        one.build(chain.clone(), last(&chain)),
        two.build(chain.clone(), last(&chain)),
        async {
            settle().await;
            one.cancel(Failure::cancelled());
            gate.add_permits(1);
            settle().await;
            assert_eq!(bad.runs(), 2);
            gate.add_permits(1);
        }
    );
    assert!(matches!(a, Err(EngineError::Cancelled { .. })));
    assert_eq!(b.unwrap_err().to_string(), "bad failed");
    assert_eq!(bad.runs(), 2);
}

#[tokio::test]
async fn a_new_job_tries_again_what_failed_for_another_that_is_still_there() {
    let world = World::new();
    let bad = Adder::new("bad", 1, 0).act(Act::Fail);
    let next = Adder::new("next", 1, 1);
    let chain = graph(&[(&bad, &[]), (&next, &[0])]);
    let ((one, _), (two, _)) = (world.job(), world.job());
    assert!(one.build(chain.clone(), last(&chain)).await.is_err());
    assert!(one.build(chain.clone(), last(&chain)).await.is_err());
    assert_eq!(bad.runs(), 1);
    assert!(two.build(chain.clone(), last(&chain)).await.is_err());
    assert_eq!(bad.runs(), 2);
}

#[tokio::test]
async fn different_vertices_with_equal_content_run_once() {
    let world = World::new();
    let gate = gate();
    let (one, _) = world.job();
    let (two, second) = world.job();
    let copies: Vec<_> = [1, 2]
        .map(|n| {
            let name = format!("context {n}");
            let context = Adder::new(&name, 5, 0).key(&name).volatile();
            let copy = Adder::new(&format!("copy {n}"), 1, 1).content(0);
            (context, copy.key("copy").act(Act::Gated(Arc::clone(&gate))))
        })
        .into();
    let run = Adder::new("run", 1, 1);
    let graphs: Vec<_> = copies
        .iter()
        .map(|(context, copy)| graph(&[(context, &[]), (copy, &[0]), (&run, &[1])]))
        .collect();
    let (a, b, ()) = tokio::join!(
        one.build(graphs[0].clone(), last(&graphs[0])),
        two.build(graphs[1].clone(), last(&graphs[1])),
        async {
            settle().await;
            gate.add_permits(1);
        }
    );
    assert_eq!((a, b), (Ok(7), Ok(7)));
    assert_eq!(copies[0].1.runs() + copies[1].1.runs(), 1);
    assert_eq!(run.runs(), 1);
    // The run belongs to both: the first may go.
    one.discard().await;
    let ran = [1, 2].map(|n| second.logs().contains(&format!("copy {n} runs")));
    assert!(ran[0] || ran[1]);
    assert_eq!(two.build(graphs[1].clone(), last(&graphs[1])).await, Ok(7));
    two.discard().await;
}

#[tokio::test]
async fn the_owner_of_a_shared_run_may_be_cancelled() {
    let world = World::new();
    let gate = gate();
    let ((one, _), (two, _)) = (world.job(), world.job());
    let pair = |n: i32| {
        let name = format!("context {n}");
        let context = Adder::new(&name, 5, 0).key(&name).volatile();
        let copy = Adder::new(&format!("copy {n}"), 1, 1)
            .content(0)
            .key("copy");
        let copy = copy.act(Act::Gated(Arc::clone(&gate)));
        graph(&[(&context, &[]), (&copy, &[0])])
    };
    let (first, second) = (pair(1), pair(2));
    let (a, b, ()) = tokio::join!(
        one.build(first.clone(), last(&first)),
        async {
            settle().await;
            two.build(second.clone(), last(&second)).await
        },
        async {
            settle().await;
            settle().await;
            one.cancel(Failure::cancelled());
            settle().await;
            gate.add_permits(2);
        }
    );
    assert!(a.is_err());
    assert_eq!(b, Ok(6));
    one.discard().await;
    assert_eq!(two.build(second.clone(), last(&second)).await, Ok(6));
    two.discard().await;
}

#[tokio::test]
async fn a_normal_vertex_joins_a_forced_twin_but_not_the_reverse() {
    let world = World::new();
    let gate = gate();
    let step = Adder::new("step", 1, 0).act(Act::Gated(Arc::clone(&gate)));
    let forced = step.clone().forced();
    let (normal, forced) = (graph(&[(&step, &[])]), graph(&[(&forced, &[])]));
    let (one, two, three) = (world.job().0, world.job().0, world.job().0);
    let (a, b, c, ()) = tokio::join!(
        one.build(normal.clone(), edge(0)),
        async {
            settle().await;
            two.build(forced.clone(), edge(0)).await
        },
        async {
            settle().await;
            settle().await;
            three.build(normal.clone(), edge(0)).await
        },
        async {
            settle().await;
            settle().await;
            settle().await;
            gate.add_permits(3);
        }
    );
    assert_eq!((a, b, c), (Ok(1), Ok(1), Ok(1)));
    assert_eq!(step.runs(), 2);
}

#[tokio::test]
async fn no_more_steps_run_at_a_time_than_allowed() {
    let world = World::over(KeyStore::memory(), Arc::default(), 2);
    let gate = gate();
    let steps: Vec<_> = (0..5)
        .map(|n| Adder::new(&format!("step {n}"), n, 0).act(Act::Gated(Arc::clone(&gate))))
        .collect();
    let sum = Adder::new("sum", 0, 5);
    let mut all = Graph::default();
    for step in &steps {
        all.add(Arc::new(step.clone()), Vec::new());
    }
    all.add(Arc::new(sum), (0..5).map(edge).collect());
    let (job, _) = world.job();
    let (built, ()) = tokio::join!(job.build(all.clone(), last(&all)), async {
        settle().await;
        assert_eq!(steps.iter().map(Adder::runs).sum::<usize>(), 2);
        gate.add_permits(5);
    });
    assert_eq!(built, Ok(10));
}

/// Builds another graph when it runs.
struct Nested {
    info: VertexInfo,
    engine: Arc<OnceCell<Engine<i64>>>,
    graph: Graph<i64>,
}

#[async_trait]
impl Operation<i64> for Nested {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, _: &OpContext) -> Result<CacheMap<i64>, Failure> {
        Ok(CacheMap::new(Digest::of("nested"), 0))
    }

    async fn execute(&self, ctx: &OpContext, _: Vec<i64>) -> Result<Vec<i64>, Failure> {
        let engine = self.engine.get().expect("set before the build");
        let built = engine.build_within(ctx, self.graph.clone(), last(&self.graph));
        let value = built.await.map_err(|e| Failure::from_error(&e))?;
        Ok(vec![value])
    }

    fn takes_slot(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_nested_build_belongs_to_all_jobs_of_its_operation() {
    let world = World::over(KeyStore::memory(), Arc::default(), 1);
    let gate = gate();
    let inner = Adder::new("inner", 1, 0).act(Act::Gated(Arc::clone(&gate)));
    let engine = Arc::new(OnceCell::new_with(Some(world.engine.clone())));
    let nested = Nested {
        info: Adder::new("nested", 0, 0).info,
        engine,
        graph: graph(&[(&inner, &[])]),
    };
    let mut all = Graph::default();
    all.add(Arc::new(nested), Vec::new());
    let (one, two, three) = (world.job().0, world.job().0, world.job().0);
    let (a, b, c, ()) = tokio::join!(
        one.build(all.clone(), edge(0)),
        async {
            settle().await;
            two.build(all.clone(), edge(0)).await
        },
        async {
            let built = three.build(all.clone(), edge(0)).await;
            settle().await;
            built
        },
        async {
            settle().await;
            settle().await;
            one.cancel(Failure::cancelled());
            three.cancel(Failure::cancelled());
            settle().await;
            gate.add_permits(1);
        }
    );
    assert!(a.is_err() && c.is_err());
    one.discard().await;
    assert_eq!(b, Ok(1));
    assert_eq!(inner.runs(), 1);

    // Nobody wants it: the nested build ends with its operation.
    let hang = Adder::new("hang", 1, 0).act(Act::Hang);
    let nested = Nested {
        info: Adder::new("nested 2", 0, 0).info,
        engine: Arc::new(OnceCell::new_with(Some(world.engine.clone()))),
        graph: graph(&[(&hang, &[])]),
    };
    let mut other = Graph::default();
    other.add(Arc::new(nested), Vec::new());
    let four = world.job().0;
    let forced = tokio::join!(four.build(other.clone(), edge(0)), async {
        settle().await;
        four.cancel(Failure::cancelled());
    });
    assert!(forced.0.is_err() || forced.0 == Ok(1));
    four.discard().await;
    world.engine.shutdown().await;
}

/// Another world's store and results.
struct Elsewhere(World);

#[async_trait]
impl CacheSource<i64> for Elsewhere {
    fn index(&self) -> &dyn KeyIndex {
        &self.0.store
    }

    async fn load(&self, ctx: &OpContext, id: &ResultId) -> Result<Option<i64>, Failure> {
        shipway_engine::Results::load(&*self.0.shelf, ctx, id).await
    }
}

#[tokio::test]
async fn what_an_imported_cache_answers_is_kept_here() {
    let there = World::new();
    let base = Adder::new("base", 1, 0);
    let (step, top) = (Adder::new("step", 2, 1), Adder::new("top", 3, 1));
    let context = Adder::new("context", 4, 0).volatile();
    let copy = Adder::new("copy", 5, 2).content(1);
    let all = graph(&[
        (&base, &[]),
        (&step, &[0]),
        (&top, &[1]),
        (&context, &[]),
        (&copy, &[2, 3]),
    ]);
    assert_eq!(there.build(&all).await, Ok(15));
    let runs = || [&base, &step, &top, &copy].map(Adder::runs);
    assert_eq!(runs(), [1; 4]);
    let here = World::new();
    let (job, _) = here.job();
    job.import(Arc::new(Elsewhere(there)));
    assert_eq!(job.build(all.clone(), last(&all)).await, Ok(15));
    job.discard().await;
    assert_eq!(runs(), [1; 4]);
    // Now it is known here without the import.
    assert_eq!(here.build(&all).await, Ok(15));
    assert_eq!(runs(), [1; 4]);
}

#[tokio::test]
async fn shutting_down_ends_what_runs_and_refuses_what_comes() {
    let world = World::new();
    let hang = Adder::new("hang", 1, 0).act(Act::Hang);
    let chain = graph(&[(&hang, &[])]);
    let (job, _) = world.job();
    let (built, ()) = tokio::join!(job.build(chain.clone(), edge(0)), async {
        settle().await;
        world.engine.shutdown().await;
    });
    assert!(built.is_err());
    assert_eq!(job.build(chain, edge(0)).await, Err(EngineError::Ended));
    job.recorded().await;
    job.discard().await;
}
