//! A definition's bytes become a validated graph: digests computed, inputs found, order made topological.
//! Never trusts the sender: sizes, counts and depth are bounded and nothing recurses.

mod exec;
mod file;
mod op;
mod source;

use crate::limits;
pub use exec::{decode_mount, decode_net_mode, decode_process, decode_security_mode};
use prost::Message;
pub use source::{decode_info, decode_range};

use shipway_model::definition::{LinuxResources, ProgressGroup};
use shipway_model::digest::InvalidDigest;
use shipway_model::{Definition, Digest, Edge, Vertex, VertexMeta};
use shipway_proto::pb;
use std::collections::HashMap;

/// Why a definition is refused.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDefinition {
    /// Bytes that are no definition.
    #[error("failed to read a definition")]
    Bytes(#[source] prost::DecodeError),
    /// More ops than [`decode`] takes.
    #[error("definition has {0} ops, more than {max}", max = limits::OPS)]
    TooManyOps(usize),
    /// More bytes than [`decode`] takes.
    #[error("definition has {0} bytes of ops, more than {max}", max = limits::BYTES)]
    TooLarge(usize),
    /// A path longer than [`decode`] takes.
    #[error("definition is deeper than {max} vertices", max = limits::DEPTH)]
    TooDeep,
    /// Bytes that are no op.
    #[error("failed to parse llb proto op {index}")]
    Malformed {
        /// Position in the definition.
        index: usize,
        /// The protobuf error.
        source: prost::DecodeError,
    },
    /// The last op must only name the result.
    #[error("invalid LLB: the last vertex must have one input and no operation")]
    Terminal,
    /// An op without operation before the last one, or one of a kind that is not known.
    #[error("invalid LLB: op {0} has no operation that is known here")]
    UnknownOp(Digest),
    /// An input that is no digest.
    #[error("input {input} of op {op}")]
    InputDigest {
        /// The op.
        op: Digest,
        /// Position of the input.
        input: usize,
        /// What is wrong.
        source: InvalidDigest,
    },
    /// An input that is not in the definition.
    #[error("invalid missing input digest {missing} of op {op}")]
    Dangling {
        /// The op.
        op: Digest,
        /// What it names.
        missing: Digest,
    },
    /// An input names an output that its vertex cannot have.
    #[error("invalid input {input} output index {index} of op {op}")]
    OutputIndex {
        /// The op.
        op: Digest,
        /// Position of the input.
        input: usize,
        /// The output.
        index: i64,
    },
    /// An op that is its own ancestor.
    #[error("invalid LLB: op {0} depends on itself")]
    Cycle(Digest),
    /// A field of an op.
    #[error("op {digest}")]
    Op {
        /// The op.
        digest: Digest,
        /// What is wrong with it.
        source: InvalidOp,
    },
    /// A metadata or source key that is no digest.
    #[error("key of {map}")]
    Key {
        /// `metadata` or `source locations`.
        map: &'static str,
        /// What is wrong.
        source: InvalidDigest,
    },
    /// A location names a source that is not there.
    #[error("failed to find source map with index {0}")]
    SourceIndex(i32),
}

/// Why an op is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOp {
    /// A field that must be set.
    #[error("invalid {op} op with no {field}")]
    Missing {
        /// Kind of op.
        op: &'static str,
        /// The field.
        field: &'static str,
    },
    /// An index that points nowhere.
    #[error("invalid {field} index {index}")]
    Index {
        /// The field.
        field: &'static str,
        /// Its value.
        index: i64,
    },
    /// An enumeration value that is not known.
    #[error("invalid {field} {value}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// Too many of something.
    #[error("{count} {field}, more than {max}", max = limits::PARTS)]
    TooMany {
        /// What.
        field: &'static str,
        /// How many.
        count: usize,
    },
    /// The number of inputs does not fit the op.
    #[error("invalid {op} op with {inner} inner inputs and {outer} outer inputs")]
    InputCount {
        /// Kind of op.
        op: &'static str,
        /// As the op says.
        inner: usize,
        /// As the vertex has.
        outer: usize,
    },
    /// A source without scheme.
    #[error("invalid source identifier {0:?}")]
    Identifier(String),
}

/// Reads an encoded definition.
///
/// # Errors
/// The first reason to refuse it.
pub fn decode_bytes(encoded: &[u8]) -> Result<Definition, InvalidDefinition> {
    decode(&pb::Definition::decode(encoded).map_err(InvalidDefinition::Bytes)?)
}

/// Reads a definition. An empty one is scratch: no vertices, no target.
///
/// # Errors
/// The first reason to refuse it.
pub fn decode(wire: &pb::Definition) -> Result<Definition, InvalidDefinition> {
    let Some((last, ops)) = wire.def.split_last() else {
        return Ok(Definition::default());
    };
    if wire.def.len() > limits::OPS {
        return Err(InvalidDefinition::TooManyOps(wire.def.len()));
    }
    let size = wire.def.iter().map(prost::bytes::Bytes::len).sum();
    if size > limits::BYTES {
        return Err(InvalidDefinition::TooLarge(size));
    }
    let nodes = parse(ops)?;
    let order = topological(&nodes)?;
    let vertices = connect(nodes, &order, wire)?;
    let target = terminal(last, ops.len(), &vertices)?;
    let source_maps = source::decode(wire.source.as_ref())?;
    Ok(Definition {
        vertices,
        target: Some(target),
        source_maps,
    })
}

/// An op that is parsed, with its inputs still by position in the message.
struct Node {
    digest: Digest,
    bytes: prost::bytes::Bytes,
    wire: pb::Op,
    inputs: Vec<usize>,
}

fn parse(ops: &[prost::bytes::Bytes]) -> Result<Vec<Node>, InvalidDefinition> {
    let mut nodes: Vec<Node> = Vec::with_capacity(ops.len());
    let mut by_digest = HashMap::with_capacity(ops.len());
    for (index, bytes) in ops.iter().enumerate() {
        let digest = Digest::of(bytes);
        if by_digest.contains_key(&digest) {
            continue;
        }
        let wire = pb::Op::decode(bytes.clone())
            .map_err(|source| InvalidDefinition::Malformed { index, source })?;
        by_digest.insert(digest, nodes.len());
        nodes.push(Node {
            digest,
            bytes: bytes.clone(),
            wire,
            inputs: Vec::new(),
        });
    }
    for node in &mut nodes {
        node.inputs = find_inputs(node.digest, &node.wire, &by_digest)?;
    }
    Ok(nodes)
}

fn find_inputs(
    op: Digest,
    wire: &pb::Op,
    by_digest: &HashMap<Digest, usize>,
) -> Result<Vec<usize>, InvalidDefinition> {
    if wire.inputs.len() > limits::INPUTS {
        let source = InvalidOp::TooMany {
            field: "inputs",
            count: wire.inputs.len(),
        };
        return Err(InvalidDefinition::Op { digest: op, source });
    }
    let find = |(input, wire): (usize, &pb::Input)| {
        let missing: Digest = wire
            .digest
            .parse()
            .map_err(|source| InvalidDefinition::InputDigest { op, input, source })?;
        by_digest
            .get(&missing)
            .copied()
            .ok_or(InvalidDefinition::Dangling { op, missing })
    };
    wire.inputs.iter().enumerate().map(find).collect()
}

/// Positions in an order where inputs come first; the sender's order is kept where it already does that.
fn topological(nodes: &[Node]) -> Result<Vec<usize>, InvalidDefinition> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; nodes.len()];
    let mut order = Vec::with_capacity(nodes.len());
    let mut stack: Vec<(usize, usize)> = Vec::new();
    for root in 0..nodes.len() {
        if marks[root] == Mark::New {
            marks[root] = Mark::Open;
            stack.push((root, 0));
        }
        while let Some((node, next)) = stack.last_mut() {
            let Some(&input) = nodes[*node].inputs.get(*next) else {
                marks[*node] = Mark::Done;
                order.push(*node);
                stack.pop();
                continue;
            };
            *next += 1;
            match marks[input] {
                Mark::Done => {}
                Mark::Open => return Err(InvalidDefinition::Cycle(nodes[input].digest)),
                Mark::New => {
                    marks[input] = Mark::Open;
                    stack.push((input, 0));
                }
            }
        }
    }
    check_depth(nodes, &order)?;
    Ok(order)
}

fn check_depth(nodes: &[Node], order: &[usize]) -> Result<(), InvalidDefinition> {
    let mut depths = vec![0_usize; nodes.len()];
    for &node in order {
        let below = nodes[node]
            .inputs
            .iter()
            .map(|&input| depths[input])
            .max()
            .unwrap_or(0);
        depths[node] = below + 1;
        if depths[node] > limits::DEPTH {
            return Err(InvalidDefinition::TooDeep);
        }
    }
    Ok(())
}

fn connect(
    nodes: Vec<Node>,
    order: &[usize],
    wire: &pb::Definition,
) -> Result<Vec<Vertex>, InvalidDefinition> {
    let mut metadata = HashMap::with_capacity(wire.metadata.len());
    for (key, meta) in &wire.metadata {
        let digest: Digest = key.parse().map_err(|source| InvalidDefinition::Key {
            map: "metadata",
            source,
        })?;
        metadata.insert(digest, meta);
    }
    let mut places = vec![0; nodes.len()];
    order
        .iter()
        .enumerate()
        .for_each(|(place, &node)| places[node] = place);
    let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    let mut vertices: Vec<Vertex> = Vec::with_capacity(nodes.len());
    for &index in order {
        let node = nodes[index]
            .take()
            .expect("each node stands once in the order");
        let inputs = edges(&node, &places, &vertices)?;
        let meta = metadata
            .get(&node.digest)
            .map(|meta| decode_meta(meta))
            .unwrap_or_default();
        vertices.push(vertex(node, inputs, meta)?);
    }
    Ok(vertices)
}

fn edges(
    node: &Node,
    places: &[usize],
    vertices: &[Vertex],
) -> Result<Vec<Edge>, InvalidDefinition> {
    let inputs = node.wire.inputs.iter().zip(&node.inputs).enumerate();
    inputs
        .map(|(input, (wire, &target))| {
            let vertex = places[target];
            let bad = InvalidDefinition::OutputIndex {
                op: node.digest,
                input,
                index: wire.index,
            };
            let output = usize::try_from(wire.index).ok();
            let output = output
                .filter(|&o| op::has_output(&vertices[vertex].op, o))
                .ok_or(bad)?;
            Ok(Edge { vertex, output })
        })
        .collect()
}

fn vertex(node: Node, inputs: Vec<Edge>, meta: VertexMeta) -> Result<Vertex, InvalidDefinition> {
    let Node {
        digest,
        bytes,
        wire,
        ..
    } = node;
    let Some(body) = wire.op else {
        return Err(InvalidDefinition::UnknownOp(digest));
    };
    let op = op::decode(body, inputs.len())
        .map_err(|source| InvalidDefinition::Op { digest, source })?;
    Ok(Vertex {
        digest,
        bytes: bytes.as_ref().into(),
        inputs,
        op,
        platform: wire.platform.map(op::platform),
        constraints: wire.constraints.map(|c| c.filter).unwrap_or_default(),
        meta,
    })
}

fn terminal(
    bytes: &prost::bytes::Bytes,
    index: usize,
    vertices: &[Vertex],
) -> Result<Edge, InvalidDefinition> {
    let op = pb::Op::decode(bytes.clone())
        .map_err(|source| InvalidDefinition::Malformed { index, source })?;
    let digest = Digest::of(bytes);
    let (None, [input]) = (&op.op, op.inputs.as_slice()) else {
        return Err(InvalidDefinition::Terminal);
    };
    let missing: Digest =
        input
            .digest
            .parse()
            .map_err(|source| InvalidDefinition::InputDigest {
                op: digest,
                input: 0,
                source,
            })?;
    let vertex = vertices
        .iter()
        .position(|vertex| vertex.digest == missing)
        .ok_or(InvalidDefinition::Dangling {
            op: digest,
            missing,
        })?;
    let bad = InvalidDefinition::OutputIndex {
        op: digest,
        input: 0,
        index: input.index,
    };
    let output = usize::try_from(input.index).ok();
    let output = output
        .filter(|&o| op::has_output(&vertices[vertex].op, o))
        .ok_or(bad)?;
    Ok(Edge { vertex, output })
}

fn decode_meta(meta: &pb::OpMetadata) -> VertexMeta {
    VertexMeta {
        ignore_cache: meta.ignore_cache,
        description: meta.description.clone(),
        export_cache: meta.export_cache.as_ref().map(|export| export.value),
        caps: meta.caps.clone(),
        progress_group: meta.progress_group.clone().map(|group| ProgressGroup {
            id: group.id,
            name: group.name,
            weak: group.weak,
        }),
        linux_resources: meta
            .linux_resources
            .clone()
            .map(|limits| limits_of(limits).into()),
    }
}

fn limits_of(limits: pb::LinuxResources) -> LinuxResources {
    LinuxResources {
        memory: limits.memory,
        memory_swap: limits.memory_swap,
        cpu_shares: limits.cpu_shares,
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpuset_cpus: limits.cpuset_cpus,
        cpuset_mems: limits.cpuset_mems,
    }
}

#[cfg(test)]
mod tests;
