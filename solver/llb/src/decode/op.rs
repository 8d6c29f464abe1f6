//! One op's body: kinds, input counts and input indexes. Never looks at other vertices.

use super::{InvalidOp, exec, file};
use crate::limits;
use shipway_model::Platform;
use shipway_model::op::{BuildOp, DiffOp, FileAction, MergeOp, Mount, Op, PassthroughOp, SourceOp};
use shipway_proto::pb;

/// On the wire: no input, or no output.
pub(crate) const NONE: i64 = -1;

pub(super) fn decode(body: pb::op::Op, inputs: usize) -> Result<Op, InvalidOp> {
    match body {
        pb::op::Op::Exec(wire) => exec::decode(wire, inputs).map(|exec| Op::Exec(exec.into())),
        pb::op::Op::Source(wire) => source(wire, inputs).map(Op::Source),
        pb::op::Op::File(wire) => file::decode(wire, inputs).map(Op::File),
        pb::op::Op::Build(wire) => build(wire, inputs).map(Op::Build),
        pb::op::Op::Merge(wire) => merge(&wire, inputs).map(Op::Merge),
        pb::op::Op::Diff(wire) => diff(&wire, inputs).map(Op::Diff),
        pb::op::Op::Passthrough(wire) => passthrough(wire, inputs).map(Op::Passthrough),
    }
}

/// True where `op` can have that output.
pub(super) fn has_output(op: &Op, output: usize) -> bool {
    match op {
        Op::Exec(exec) => exec
            .mounts
            .iter()
            .any(|mount: &Mount| mount.output == Some(output)),
        Op::File(file) => file
            .actions
            .iter()
            .any(|a: &FileAction| a.output == Some(output)),
        Op::Passthrough(pass) => output < pass.outputs.len(),
        Op::Source(_) | Op::Merge(_) | Op::Diff(_) => output == 0,
        // Its outputs are those of a definition that does not exist yet.
        Op::Build(_) => output < limits::INPUTS,
    }
}

pub(super) fn platform(wire: pb::Platform) -> Platform {
    Platform {
        architecture: wire.architecture,
        os: wire.os,
        os_version: wire.os_version,
        os_features: wire.os_features,
        variant: wire.variant,
    }
}

/// An index below `bound`, or none for -1.
pub(super) fn optional(
    field: &'static str,
    index: i64,
    bound: usize,
) -> Result<Option<usize>, InvalidOp> {
    if index == NONE {
        Ok(None)
    } else {
        required(field, index, bound).map(Some)
    }
}

fn required(field: &'static str, index: i64, bound: usize) -> Result<usize, InvalidOp> {
    let position = usize::try_from(index)
        .ok()
        .filter(|&position| position < bound);
    position.ok_or(InvalidOp::Index { field, index })
}

pub(super) fn at_most(field: &'static str, count: usize) -> Result<(), InvalidOp> {
    if count > limits::PARTS {
        Err(InvalidOp::TooMany { field, count })
    } else {
        Ok(())
    }
}

fn source(wire: pb::SourceOp, inputs: usize) -> Result<SourceOp, InvalidOp> {
    if inputs != 0 {
        return Err(InvalidOp::InputCount {
            op: "source",
            inner: 0,
            outer: inputs,
        });
    }
    let source = SourceOp {
        identifier: wire.identifier,
        attrs: wire.attrs,
    };
    if source.split().is_none_or(|(scheme, _)| scheme.is_empty()) {
        return Err(InvalidOp::Identifier(
            source.identifier.chars().take(256).collect(),
        ));
    }
    Ok(source)
}

fn build(wire: pb::BuildOp, inputs: usize) -> Result<BuildOp, InvalidOp> {
    let builder = optional("builder", wire.builder, inputs)?;
    let named = wire.inputs.into_iter();
    let named = named.map(|(name, input)| {
        required("build input", input.input, inputs).map(|index| (name, index))
    });
    Ok(BuildOp {
        builder,
        inputs: named.collect::<Result<_, _>>()?,
        attrs: wire.attrs,
    })
}

fn merge(wire: &pb::MergeOp, inputs: usize) -> Result<MergeOp, InvalidOp> {
    let inner = wire.inputs.len();
    if inner != inputs || inner == 0 {
        return Err(InvalidOp::InputCount {
            op: "merge",
            inner,
            outer: inputs,
        });
    }
    let index = |input: &pb::MergeInput| required("merge input", input.input, inputs);
    Ok(MergeOp {
        inputs: wire.inputs.iter().map(index).collect::<Result<_, _>>()?,
    })
}

fn diff(wire: &pb::DiffOp, inputs: usize) -> Result<DiffOp, InvalidOp> {
    let missing = |field| InvalidOp::Missing { op: "diff", field };
    let lower = wire.lower.as_ref().ok_or(missing("lower input"))?.input;
    let upper = wire.upper.as_ref().ok_or(missing("upper input"))?.input;
    let lower = optional("lower input", lower, inputs)?;
    let upper = optional("upper input", upper, inputs)?;
    let inner = usize::from(lower.is_some()) + usize::from(upper.is_some());
    if inner != inputs {
        return Err(InvalidOp::InputCount {
            op: "diff",
            inner,
            outer: inputs,
        });
    }
    Ok(DiffOp { lower, upper })
}

fn passthrough(wire: pb::PassthroughOp, inputs: usize) -> Result<PassthroughOp, InvalidOp> {
    let missing = |field| InvalidOp::Missing {
        op: "passthrough",
        field,
    };
    if wire.id.is_empty() {
        return Err(missing("id"));
    }
    if wire.outputs.is_empty() {
        return Err(missing("outputs"));
    }
    // A passthrough of scratch has an output and no input to take it from.
    let output = |&index: &i64| match (index, inputs) {
        (0, 0) => Ok(None),
        _ => required("passthrough output input", index, inputs).map(Some),
    };
    let outputs = wire.outputs.iter().map(output).collect::<Result<_, _>>()?;
    Ok(PassthroughOp {
        id: wire.id,
        outputs,
    })
}
