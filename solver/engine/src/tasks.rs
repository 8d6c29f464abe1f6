//! The work that the driver starts: calls of operations, stores and sources, each answered by one event. A panic in any of
//! them is a failure. It decides nothing.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use shipway_cache::{KeyStore, Record, ResultInfo, Update};
use shipway_model::Failure;
use tokio::sync::Semaphore;

use crate::machine::{Event, Save};
use crate::{CacheMap, CacheSource, OpContext, Operation, Results, VertexProgress};

pub(crate) async fn map<V: Clone + Send + Sync + 'static>(
    ctx: OpContext,
    op: Arc<dyn Operation<V>>,
    source: bool,
) -> Event<V> {
    if source {
        ctx.progress.started(false);
    }
    let map = guard(op.cache_map(&ctx)).await;
    match &map {
        Ok(_) if source => ctx.progress.completed(""),
        Ok(_) => {}
        Err(error) => show_failure(&ctx, error),
    }
    Event::Mapped(ctx.task, map)
}

pub(crate) async fn load<V: Clone + Send + Sync + 'static>(
    ctx: OpContext,
    results: Arc<dyn Results<V>>,
    record: Record,
    from: Option<Arc<dyn CacheSource<V>>>,
) -> Event<V> {
    let loaded = guard(async {
        match &from {
            Some(source) => source.load(&ctx, &record.result).await,
            None => results.load(&ctx, &record.result).await,
        }
    });
    let loaded = loaded.await;
    match &loaded {
        Ok(Some(_)) => {
            ctx.progress.started(true);
            ctx.progress.completed("");
        }
        Ok(None) => {}
        Err(_) if ctx.cancelled.is_cancelled() => {}
        Err(error) => {
            tracing::warn!(%error, result = %record.result, "a cached result could not be loaded");
        }
    }
    Event::Loaded(ctx.task, loaded)
}

pub(crate) async fn key<V: Clone + Send + Sync + 'static>(
    ctx: OpContext,
    map: Arc<CacheMap<V>>,
    input: usize,
    value: V,
    of: Arc<VertexProgress>,
) -> Event<V> {
    let keyed = guard(async {
        let dep = &map.deps[input];
        if let Some(prepare) = &dep.prepare {
            let theirs = OpContext {
                progress: of,
                ..ctx.clone()
            };
            prepare.prepare(&theirs, &value).await?;
        }
        match &dep.content {
            Some(content) => content.digest(&ctx, &value).await.map(Some),
            None => Ok(None),
        }
    });
    let keyed = keyed.await;
    if let Err(error) = &keyed {
        show_failure(&ctx, error);
    }
    Event::Keyed(ctx.task, keyed)
}

pub(crate) async fn execute<V: Clone + Send + Sync + 'static>(
    ctx: OpContext,
    op: Arc<dyn Operation<V>>,
    inputs: Vec<V>,
    slots: Arc<Semaphore>,
) -> Event<V> {
    let slot = if op.takes_slot() {
        tokio::select! {
            slot = slots.acquire_owned() => slot.ok(),
            () = ctx.cancelled.cancelled() => {
                return Event::Executed(ctx.task, Err(Failure::cancelled()));
            }
        }
    } else {
        None
    };
    ctx.progress.started(false);
    let made = guard(op.execute(&ctx, inputs)).await;
    drop(slot);
    if let Err(error) = &made {
        show_failure(&ctx, error);
    }
    Event::Executed(ctx.task, made)
}

/// Makes outputs durable and records them. A result that cannot be recorded is still a result.
pub(crate) async fn save<V: Clone + Send + Sync + 'static>(
    work: Save<V>,
    results: Arc<dyn Results<V>>,
    store: KeyStore,
) -> Event<V> {
    let keys = work.outputs.iter().map(|keep| keep.key.key).collect();
    let mut update = Update::default();
    for keep in work.outputs {
        let created_at = keep.created_at.unwrap_or_else(|| work.progress.now());
        let info = ResultInfo::new(created_at, &*work.name);
        match guard(results.save(&keep.value, &work.name)).await {
            Ok(result) => update.results.push((keep.key.key, result, info)),
            Err(error) => {
                tracing::warn!(%error, step = %work.name, "a result could not be saved");
                continue;
            }
        }
        update.links.extend(keep.key.links);
        if !keep.key.parts.0.is_empty() {
            update.parts.push((keep.key.key, keep.key.parts));
        }
    }
    if !update.results.is_empty()
        && let Err(error) = store.record(&update).await
    {
        tracing::warn!(%error, step = %work.name, "a result could not be recorded");
    }
    if work.completes {
        work.progress.completed("");
    }
    Event::Saved(keys)
}

fn show_failure(ctx: &OpContext, error: &Failure) {
    if ctx.cancelled.is_cancelled() {
        ctx.progress.completed("context canceled");
    } else {
        ctx.progress.completed(&error.message);
    }
}

/// Makes a panic a failure.
pub(crate) async fn guard<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            let text = text.unwrap_or("of unknown cause");
            Err(Failure::new(format!("the step's code panicked: {text}")))
        }
    }
}
