//! Keys of operations that only arrange or hand on their inputs.

use std::collections::BTreeMap;

use shipway_model::Digest;
use shipway_model::op::{BuildOp, DiffOp, MergeOp, PassthroughOp};

use super::exec::index;
use super::gojson::{Object, string};

/// Key of a merge.
#[must_use]
pub fn merge(op: &MergeOp) -> Digest {
    let inputs = op.inputs.iter().map(|&at| input_json(Some(at)));
    let merge = Object::new().list("inputs", inputs).end();
    keyed("buildkit.merge.v0", "Merge", &merge)
}

/// Key of a diff.
#[must_use]
pub fn diff(op: &DiffOp) -> Digest {
    let diff = Object::new()
        .raw("lower", &input_json(op.lower))
        .raw("upper", &input_json(op.upper))
        .end();
    keyed("buildkit.diff.v0", "Diff", &diff)
}

/// Key of a nested build.
#[must_use]
pub fn build(op: &BuildOp) -> Digest {
    let inputs = op
        .inputs
        .iter()
        .map(|(name, &at)| (name, input_json(Some(at))));
    let attrs = op.attrs.iter().map(|(name, value)| (name, string(value)));
    let build = Object::new()
        .int("builder", index(op.builder))
        .optional("inputs", map_json(inputs.collect()))
        .optional("attrs", map_json(attrs.collect()))
        .end();
    // Upstream's member is called Exec.
    keyed("buildkit.build.v0", "Exec", &build)
}

/// Key of a passthrough.
#[must_use]
pub fn passthrough(op: &PassthroughOp) -> Digest {
    let outputs = op.outputs.iter().map(|&at| index(at).to_string());
    let passthrough = Object::new()
        .string("id", &op.id)
        .list("outputs", outputs)
        .end();
    keyed("buildkit.passthrough.v0", "Passthrough", &passthrough)
}

fn keyed(kind: &str, name: &str, json: &str) -> Digest {
    Digest::of(Object::new().text("Type", kind).raw(name, json).end())
}

fn input_json(input: Option<usize>) -> String {
    Object::new().int("input", index(input)).end()
}

fn map_json(members: BTreeMap<&String, String>) -> Option<String> {
    let any = !members.is_empty();
    let object = members.into_iter();
    let object = object.fold(Object::new(), |object, (name, json)| {
        object.raw(name, &json)
    });
    any.then(|| object.end())
}
