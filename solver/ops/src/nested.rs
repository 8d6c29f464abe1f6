//! Operations about other operations: a build of the graph that lies in an input, and one that hands its inputs on. The
//! nested graph runs in the build that has the vertex, under its policies and with what it was granted.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use shipway_engine::{CacheMap, EngineError, OpContext, Operation, VertexInfo};
use shipway_layers::Snapshot;
use shipway_model::op::{BuildOp, PassthroughOp};
use shipway_model::{Definition, Failure};
use shipway_tree::{Kind, Last};

use crate::content::tree_of;
use crate::graph::{OpsEnv, graph};

/// Input that holds the graph, and name of its file unless an attribute says otherwise.
const DEFINITION: &str = "buildkit.llb.definition";

/// Attribute that names the file of the graph.
const FILE_NAME: &str = "llbbuild.filename";

/// Largest file with a graph, in bytes.
const LARGEST: u64 = 64 << 20;

/// A build of a graph that an input holds.
pub(crate) struct BuildOperation {
    info: VertexInfo,
    ops: Arc<OpsEnv>,
    op: BuildOp,
    inputs: usize,
}

impl BuildOperation {
    pub(crate) fn new(info: VertexInfo, ops: Arc<OpsEnv>, op: BuildOp, inputs: usize) -> Self {
        Self {
            info,
            ops,
            op,
            inputs,
        }
    }

    /// The graph in the input that holds it.
    async fn definition(
        &self,
        ctx: &OpContext,
        inputs: &[Snapshot],
    ) -> Result<Definition, Failure> {
        if self.op.builder.is_some() {
            return Err(Failure::new("only LLB builder is currently allowed"));
        }
        let input = self.op.inputs.get(DEFINITION).and_then(|i| inputs.get(*i));
        let input = input
            .ok_or_else(|| Failure::new(format!("no llb definition input {DEFINITION} found")))?;
        let need = self.ops.env.need(ctx).await?;
        input.materialise(&self.ops.env.layers, &need).await?;
        let name = self.op.attrs.get(FILE_NAME);
        let name = name.map_or(DEFINITION, String::as_str).to_owned();
        let input = input.clone();
        let read = tokio::task::spawn_blocking(move || read(&input, &name));
        let bytes = read.await.map_err(|e| Failure::from_error(&e))??;
        shipway_llb::decode_bytes(&bytes).map_err(|e| Failure::from_error(&e))
    }
}

fn read(tree: &Snapshot, name: &str) -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    let tree = tree_of(tree)?;
    let failed = |e: shipway_tree::Error| Failure::from_error(&e);
    let (path, entry) = tree.find(Path::new(name), Last::Follow).map_err(failed)?;
    if entry.stat.kind != Kind::File {
        return Err(Failure::new(format!("{name} is not a regular file")));
    }
    if entry.stat.size > LARGEST {
        let message = format!("{name} exceeds maximum allowed size of {LARGEST} bytes");
        return Err(Failure::new(message));
    }
    let file = tree.layers()[entry.layer]
        .open_file(&path)
        .map_err(failed)?;
    let mut bytes = Vec::new();
    let read = file.take(LARGEST).read_to_end(&mut bytes);
    read.map_err(|e| Failure::from_error(&e).context(format!("reading {name}")))?;
    Ok(bytes)
}

#[async_trait]
impl Operation<Snapshot> for BuildOperation {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, _ctx: &OpContext) -> Result<CacheMap<Snapshot>, Failure> {
        let key = shipway_cache::key::build(&self.op);
        Ok(CacheMap::new(key, self.inputs))
    }

    async fn execute(
        &self,
        ctx: &OpContext,
        inputs: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, Failure> {
        let definition = self.definition(ctx, &inputs).await?;
        let definition = (self.ops.judge)(definition).await?;
        let (nested, target) = graph(&definition, &self.ops)?;
        let Some(target) = target else {
            return Ok(vec![Snapshot::default()]);
        };
        let built = self.ops.engine.build_within(ctx, nested, target).await;
        let built = built.map_err(|error| match error {
            EngineError::Vertex { cause, .. } => cause,
            EngineError::Cancelled { .. } => Failure::cancelled(),
            other @ (EngineError::InvalidGraph { .. } | EngineError::Ended) => {
                Failure::from_error(&other)
            }
        });
        Ok(vec![built?])
    }

    /// It only waits for others.
    fn takes_slot(&self) -> bool {
        false
    }
}

/// Inputs handed on.
pub(crate) struct PassthroughOperation {
    info: VertexInfo,
    op: PassthroughOp,
    inputs: usize,
}

impl PassthroughOperation {
    pub(crate) fn new(info: VertexInfo, op: PassthroughOp, inputs: usize) -> Self {
        Self { info, op, inputs }
    }
}

#[async_trait]
impl Operation<Snapshot> for PassthroughOperation {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, _ctx: &OpContext) -> Result<CacheMap<Snapshot>, Failure> {
        let key = shipway_cache::key::passthrough(&self.op);
        Ok(CacheMap::new(key, self.inputs))
    }

    async fn execute(
        &self,
        _ctx: &OpContext,
        inputs: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, Failure> {
        handed_on(&self.op, &inputs)
    }

    fn takes_slot(&self) -> bool {
        false
    }
}

/// The input that stands at each output; `None` is the empty filesystem.
fn handed_on<V: Clone + Default>(op: &PassthroughOp, inputs: &[V]) -> Result<Vec<V>, Failure> {
    let output = |input: &Option<usize>| match input {
        None => Ok(V::default()),
        Some(input) => inputs
            .get(*input)
            .cloned()
            .ok_or_else(|| Failure::new(format!("invalid passthrough output input index {input}"))),
    };
    op.outputs.iter().map(output).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passthrough_hands_on_the_inputs_that_its_outputs_name() {
        let op = |outputs: &[Option<usize>]| PassthroughOp {
            id: "x".to_owned(),
            outputs: outputs.to_vec(),
        };
        let inputs = ["a", "b"];
        let handed = handed_on(&op(&[Some(1), None, Some(1), Some(0)]), &inputs);
        assert_eq!(handed.unwrap(), ["b", "", "b", "a"]);
        let wrong = handed_on(&op(&[Some(2)]), &inputs).unwrap_err();
        assert_eq!(&*wrong.message, "invalid passthrough output input index 2");
    }
}
