//! Random graphs as plain data, and what recursion says of them.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use shipway_cache::KeyParts;
use shipway_model::{Digest, Failure};

use crate::{CacheMap, ContentKey, Dep, Edge, Graph, OpContext, Operation, VertexInfo};

/// One vertex of a random graph.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is drawn by itself")]
pub(super) struct Spec {
    pub(super) plus: u8,
    /// Input (modulo what stands before), output, keyed by content.
    pub(super) inputs: Vec<(usize, usize, bool)>,
    pub(super) volatile: bool,
    pub(super) forced: bool,
    pub(super) fails: bool,
    /// Makes it a vertex of its own although its key is another's.
    pub(super) salt: u8,
}

pub(super) struct SimOp {
    pub(super) info: VertexInfo,
    pub(super) spec: Arc<Spec>,
}

pub(super) struct NoHash;

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

pub(super) fn spec_of(op: &Arc<dyn Operation<i64>>) -> Arc<Spec> {
    let facts = op.facts().expect("simulated operations have facts");
    facts.downcast().expect("their facts are specs")
}

/// Few values, so that contents coincide.
pub(super) fn outputs(spec: &Spec, inputs: &[i64]) -> Vec<i64> {
    let sum = inputs.iter().sum::<i64>() + i64::from(spec.plus);
    vec![sum % 3, (sum + 1) % 3 + 10]
}

pub(super) fn key_of(spec: &Spec) -> Digest {
    let contents: Vec<bool> = spec.inputs.iter().map(|(_, _, content)| *content).collect();
    let own = if spec.volatile { spec.salt } else { 0 };
    Digest::of(format!("{} {contents:?} {} {own}", spec.plus, spec.fails))
}

pub(super) fn map_of(spec: &Spec) -> CacheMap<i64> {
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
pub(super) struct Truth {
    pub(super) graph: Graph<i64>,
    pub(super) values: Vec<Vec<i64>>,
    pub(super) fails: Vec<bool>,
    /// Vertices with equal identity run once; `None` where nothing can tell.
    pub(super) identity: HashMap<Digest, Option<String>>,
}

impl Truth {
    pub(super) fn new(specs: &[Spec]) -> Self {
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

    pub(super) fn build(&self, vertex: usize) -> Graph<i64> {
        Graph {
            vertices: self.graph.vertices[..=vertex].to_vec(),
            inputs: self.graph.inputs[..=vertex].to_vec(),
        }
    }
}
