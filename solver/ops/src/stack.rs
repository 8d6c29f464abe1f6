//! Merge and diff: results made of their inputs' layers, with no file copied. Merging stacks the layers; a difference is
//! what stands above the common layers, or a new layer where the upper result is not built upon the lower one. A layer
//! with opaque directories is made anew without them, since below it will be other layers than those it was made upon.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use shipway_engine::{CacheMap, OpContext, Operation, VertexInfo};
use shipway_layers::{Layer, Layers, Need, Snapshot};
use shipway_model::Failure;
use shipway_model::op::{DiffOp, MergeOp};
use shipway_source::Env;

use crate::content::tree_of;

/// Inputs stacked on each other.
pub(crate) struct MergeOperation {
    info: VertexInfo,
    env: Arc<Env>,
    op: MergeOp,
    inputs: usize,
}

impl MergeOperation {
    pub(crate) fn new(info: VertexInfo, env: Arc<Env>, op: MergeOp, inputs: usize) -> Self {
        Self {
            info,
            env,
            op,
            inputs,
        }
    }
}

#[async_trait]
impl Operation<Snapshot> for MergeOperation {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, _ctx: &OpContext) -> Result<CacheMap<Snapshot>, Failure> {
        Ok(CacheMap::new(
            shipway_cache::key::merge(&self.op),
            self.inputs,
        ))
    }

    async fn execute(
        &self,
        ctx: &OpContext,
        inputs: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, Failure> {
        let need = self.env.need(ctx).await?;
        let mut each = self.op.inputs.iter().filter_map(|&input| inputs.get(input));
        let mut layers = each
            .next()
            .map_or_else(Vec::new, |first| first.layers().to_vec());
        for input in each {
            input.materialise(&self.env.layers, &need).await?;
            let own = explicit(&self.env.layers, &Snapshot::default(), input, &need).await?;
            layers.extend(own.layers().iter().cloned());
        }
        Ok(vec![Snapshot::new(layers)])
    }
}

/// A snapshot whose layers can be put upon anything: an opaque directory hides what is below it here, and nothing else.
async fn explicit(
    layers: &Layers,
    below: &Snapshot,
    snapshot: &Snapshot,
    need: &Need,
) -> Result<Snapshot, Failure> {
    let seen = snapshot.clone();
    let look = move || {
        seen.layers()
            .iter()
            .map(is_opaque)
            .collect::<Result<Vec<bool>, Failure>>()
    };
    let opaque = tokio::task::spawn_blocking(look)
        .await
        .map_err(|e| Failure::from_error(&e))??;
    if !opaque.contains(&true) {
        return Ok(snapshot.clone());
    }
    below.materialise(layers, need).await?;
    let (layers, below, snapshot) = (layers.clone(), below.clone(), snapshot.clone());
    let work = move || {
        let mut done = Vec::new();
        let mut stack = below;
        for (layer, opaque) in snapshot.layers().iter().zip(opaque) {
            done.push(if opaque {
                explicit_layer(&layers, &stack, layer)?
            } else {
                layer.clone()
            });
            stack = stack.with(layer.clone());
        }
        Ok(Snapshot::new(done))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Failure::from_error(&e))?
}

/// False also for a layer that is not here yet.
fn is_opaque(layer: &Layer) -> Result<bool, Failure> {
    let Some(path) = layer.path() else {
        return Ok(false);
    };
    let opaque = shipway_tree::Layer::open(path).and_then(|tree| shipway_tree::has_opaque(&tree));
    opaque.map_err(merging)
}

fn explicit_layer(layers: &Layers, below: &Snapshot, layer: &Layer) -> Result<Layer, Failure> {
    let path = layer
        .path()
        .expect("a layer that was seen to be opaque is here");
    let building = layers.begin()?;
    let below = tree_of(below)?;
    let made = shipway_tree::Layer::open(path)
        .and_then(|tree| shipway_tree::explicit(&tree, &below, building.fs()));
    made.map_err(merging)?;
    Ok(building.finish(&layer.meta().description, Timestamp::now())?)
}

#[expect(clippy::needless_pass_by_value, reason = "maps an error")]
fn merging(error: shipway_tree::Error) -> Failure {
    Failure::from_error(&error).context("merging")
}

/// What one input adds to another.
pub(crate) struct DiffOperation {
    info: VertexInfo,
    env: Arc<Env>,
    op: DiffOp,
    inputs: usize,
}

impl DiffOperation {
    pub(crate) fn new(info: VertexInfo, env: Arc<Env>, op: DiffOp, inputs: usize) -> Self {
        Self {
            info,
            env,
            op,
            inputs,
        }
    }
}

#[async_trait]
impl Operation<Snapshot> for DiffOperation {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, _ctx: &OpContext) -> Result<CacheMap<Snapshot>, Failure> {
        Ok(CacheMap::new(
            shipway_cache::key::diff(&self.op),
            self.inputs,
        ))
    }

    async fn execute(
        &self,
        ctx: &OpContext,
        inputs: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, Failure> {
        let of = |input: Option<usize>| {
            input
                .and_then(|i| inputs.get(i))
                .cloned()
                .unwrap_or_default()
        };
        let (lower, upper) = (of(self.op.lower), of(self.op.upper));
        let need = self.env.need(ctx).await?;
        if let Some(above) = above(&lower, &upper) {
            return Ok(vec![
                explicit(&self.env.layers, &lower, &above, &need).await?,
            ]);
        }
        let layers = self.env.layers.clone();
        lower.materialise(&layers, &need).await?;
        upper.materialise(&layers, &need).await?;
        let name = Arc::clone(&self.info.name);
        let compute = move || computed(&layers, &lower, &upper, &name);
        let computed = tokio::task::spawn_blocking(compute).await;
        Ok(vec![computed.map_err(|e| Failure::from_error(&e))??])
    }
}

/// The difference as a layer of its own.
fn computed(
    layers: &Layers,
    lower: &Snapshot,
    upper: &Snapshot,
    name: &str,
) -> Result<Snapshot, Failure> {
    let (below, above) = (tree_of(lower)?, tree_of(upper)?);
    // Thrown away when it is dropped.
    let scratch = layers.begin()?;
    let building = layers.begin()?;
    shipway_tree::difference(&below, &above, scratch.fs(), building.fs())
        .map_err(|e| Failure::from_error(&e).context("computing a difference"))?;
    Ok(Snapshot::new([building.finish(name, Timestamp::now())?]))
}

/// The layers of `upper` above those of `lower`; `None` where `lower` is not its beginning.
fn above(lower: &Snapshot, upper: &Snapshot) -> Option<Snapshot> {
    let (low, high) = (lower.layers(), upper.layers());
    let begins = low.len() <= high.len() && low.iter().zip(high).all(|(a, b)| a.same(b));
    begins.then(|| Snapshot::new(high[low.len()..].to_vec()))
}
