//! Takes the vertices of an existing definition into a graph, bytes and digests unchanged.

use super::{Graph, Kind, Output, State, VertexOptions};
use shipway_model::Definition;
use shipway_model::definition::Location;

impl Graph {
    /// The result of `definition` as a state. Its settings are empty; the caller knows the image config, if there is one.
    pub fn import(&mut self, definition: &Definition) -> State {
        let Some(target) = definition.target else {
            return State::scratch();
        };
        let files: Vec<usize> = definition
            .source_maps
            .infos
            .iter()
            .map(|info| self.source_file(info.clone()).0)
            .collect();
        let first = self.nodes.len();
        let place = |vertex: usize| first + vertex;
        for vertex in &definition.vertices {
            let inputs = vertex.inputs.iter();
            let inputs = inputs.map(|edge| Output {
                node: place(edge.vertex),
                index: edge.output,
            });
            let inputs = inputs.collect();
            let located = definition.source_maps.locations.get(&vertex.digest);
            let located = located.into_iter().flatten();
            let options = VertexOptions {
                platform: vertex.platform.clone().map(Box::new),
                filters: Vec::new(),
                meta: vertex.meta.clone(),
                locations: located
                    .map(|l| Location {
                        source: files[l.source],
                        ranges: l.ranges.clone(),
                    })
                    .collect(),
            };
            self.push(
                Kind::Imported {
                    vertex: Box::new(vertex.clone()),
                    inputs,
                },
                options,
            );
        }
        let state = State::of(Output {
            node: place(target.vertex),
            index: target.output,
        });
        match &definition.vertices[target.vertex].platform {
            Some(platform) => state.platform(platform),
            None => state,
        }
    }
}
