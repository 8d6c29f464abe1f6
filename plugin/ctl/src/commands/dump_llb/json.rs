//! One vertex as a line of JSON, in the shape that `buildctl debug dump-llb` gives it and scripts pick apart: `<`, `>` and
//! `&` escaped as Go does.

use serde_json::{Map, Value, json};
use shipway_llb::op_json as llb;
use shipway_proto::pb;

use crate::build::Vertex;

/// The line, without its end.
pub(super) fn line(vertex: &Vertex, metadata: Option<&pb::OpMetadata>) -> String {
    let mut line = Map::new();
    line.insert("Op".to_owned(), llb::op(&vertex.op));
    line.insert("Digest".to_owned(), json!(vertex.digest));
    let metadata = metadata.map_or(Value::Null, llb::op_metadata);
    line.insert("OpMetadata".to_owned(), metadata);
    let text = Value::Object(line).to_string();
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_the_shape_that_scripts_know() {
        let source = pb::SourceOp {
            identifier: "local://<a&b>".into(),
            ..pb::SourceOp::default()
        };
        let vertex = Vertex {
            digest: "sha256:d".into(),
            op: pb::Op {
                op: Some(pb::op::Op::Source(source)),
                constraints: Some(pb::WorkerConstraints::default()),
                ..pb::Op::default()
            },
        };
        let caps = [("source.local".to_owned(), true)].into();
        let metadata = pb::OpMetadata {
            caps,
            ..pb::OpMetadata::default()
        };
        let expected = concat!(
            r#"{"Op":{"Op":{"source":{"identifier":"local://\u003ca\u0026b\u003e"}},"constraints":{}},"#,
            r#""Digest":"sha256:d","OpMetadata":{"caps":{"source.local":true}}}"#
        );
        assert_eq!(line(&vertex, Some(&metadata)), expected);
    }
}
