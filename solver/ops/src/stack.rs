//! Merge and diff: results made of their inputs' layers, with nothing copied. Merging stacks the layers; a difference is
//! what stands above the common layers.

use std::sync::Arc;

use async_trait::async_trait;
use shipway_engine::{CacheMap, OpContext, Operation, VertexInfo};
use shipway_layers::Snapshot;
use shipway_model::Failure;
use shipway_model::failure::FailureKind;
use shipway_model::op::{DiffOp, MergeOp};
use shipway_source::Env;

/// Inputs stacked on each other.
pub(crate) struct MergeOperation {
    info: VertexInfo,
    op: MergeOp,
    inputs: usize,
}

impl MergeOperation {
    pub(crate) fn new(info: VertexInfo, _env: Arc<Env>, op: MergeOp, inputs: usize) -> Self {
        Self { info, op, inputs }
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
        _ctx: &OpContext,
        inputs: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, Failure> {
        let each = self.op.inputs.iter().filter_map(|&input| inputs.get(input));
        let layers: Vec<_> = each
            .flat_map(|snapshot| snapshot.layers().iter().cloned())
            .collect();
        Ok(vec![Snapshot::new(layers)])
    }
}

/// What one input adds to another.
pub(crate) struct DiffOperation {
    info: VertexInfo,
    op: DiffOp,
    inputs: usize,
}

impl DiffOperation {
    pub(crate) fn new(info: VertexInfo, _env: Arc<Env>, op: DiffOp, inputs: usize) -> Self {
        Self { info, op, inputs }
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
        _ctx: &OpContext,
        inputs: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, Failure> {
        let of = |input: Option<usize>| {
            input
                .and_then(|i| inputs.get(i))
                .cloned()
                .unwrap_or_default()
        };
        let (lower, upper) = (of(self.op.lower), of(self.op.upper));
        let above = above(&lower, &upper).ok_or_else(|| {
            let message = "diff of two results of which the upper is not built upon the lower is not supported";
            Failure::of_kind(FailureKind::Unimplemented, message)
        })?;
        Ok(vec![above])
    }
}

/// The layers of `upper` above those of `lower`; `None` where `lower` is not its beginning.
fn above(lower: &Snapshot, upper: &Snapshot) -> Option<Snapshot> {
    let (low, high) = (lower.layers(), upper.layers());
    let begins = low.len() <= high.len() && low.iter().zip(high).all(|(a, b)| a.same(b));
    begins.then(|| Snapshot::new(high[low.len()..].to_vec()))
}
