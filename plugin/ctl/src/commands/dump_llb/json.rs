//! One vertex as a line of JSON, in the shape that `buildctl debug dump-llb` gives it and scripts pick apart.

use crate::build::Vertex;
use shipway_proto::pb;

pub(super) fn line(vertex: &Vertex, _metadata: Option<&pb::OpMetadata>) -> String {
    vertex.digest.clone()
}
