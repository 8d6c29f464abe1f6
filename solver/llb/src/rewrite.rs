//! Definitions with other sources in the place of some: what stands on a replaced vertex gets a new digest, as if it had
//! been written that way. It decides nothing about which sources are replaced.

use std::collections::{BTreeMap, HashMap};

use shipway_model::op::{Op, SourceOp};
use shipway_model::{Definition, Digest, Edge};

use crate::encode::encode_op;

/// Puts these sources in the place of the vertices at these positions. Vertices that become equal become one.
#[must_use]
pub fn replace_sources(
    definition: Definition,
    mut sources: BTreeMap<usize, SourceOp>,
) -> Definition {
    let mut moved: Vec<usize> = Vec::with_capacity(definition.vertices.len());
    let mut at: HashMap<Digest, usize> = HashMap::new();
    let mut renamed: Vec<(Digest, Digest)> = Vec::new();
    let mut vertices = Vec::with_capacity(definition.vertices.len());
    let mut changed: Vec<bool> = Vec::with_capacity(definition.vertices.len());
    for (index, mut vertex) in definition.vertices.into_iter().enumerate() {
        let mut anew = vertex.inputs.iter().any(|input| changed[input.vertex]);
        for input in &mut vertex.inputs {
            input.vertex = moved[input.vertex];
        }
        if let Some(source) = sources.remove(&index) {
            vertex.op = Op::Source(source);
            anew = true;
        }
        if anew {
            let old = vertex.digest;
            let inputs: Vec<(Digest, usize)> = vertex
                .inputs
                .iter()
                .map(|input| (digest_of(&vertices, *input), input.output))
                .collect();
            let platform = vertex.platform.as_ref();
            let bytes = encode_op(&vertex.op, &inputs, platform, &vertex.constraints);
            vertex.digest = Digest::of(&bytes);
            vertex.bytes = bytes.into();
            renamed.push((old, vertex.digest));
        }
        changed.push(anew);
        let place = *at.entry(vertex.digest).or_insert(vertices.len());
        if place == vertices.len() {
            vertices.push(vertex);
        }
        moved.push(place);
    }
    let mut source_maps = definition.source_maps;
    for (old, new) in renamed {
        if let Some(locations) = source_maps.locations.get(&old).cloned() {
            source_maps.locations.entry(new).or_insert(locations);
        }
    }
    Definition {
        vertices,
        target: definition.target.map(|target| Edge {
            vertex: moved[target.vertex],
            ..target
        }),
        source_maps,
    }
}

fn digest_of(vertices: &[shipway_model::Vertex], input: Edge) -> Digest {
    vertices[input.vertex].digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{Graph, Image, Run, VertexOptions};
    use crate::{decode, encode};

    #[test]
    fn what_stands_on_a_replaced_source_is_valid_and_new() {
        let mut graph = Graph::default();
        let image = Image::new("docker.io/library/a:1");
        let base = graph.image(image, VertexOptions::named("a"));
        let built = graph.run(&base, Run::new(["x"]), VertexOptions::default());
        let before = graph.definition(built.root(), None).unwrap();
        let other = SourceOp {
            identifier: "local://x".into(),
            attrs: BTreeMap::new(),
        };
        let after = replace_sources(before.clone(), BTreeMap::from([(0, other)]));
        assert_ne!(after.vertices[1].digest, before.vertices[1].digest);
        let again = decode(&encode(&after)).unwrap();
        assert_eq!(again.vertices, after.vertices);
    }
}
