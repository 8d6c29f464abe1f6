//! What a hostile sender may try, and that whatever is accepted survives a round trip.

use super::*;
use crate::build::{Graph, Image, Run, VertexOptions};
use crate::encode;
use proptest::prelude::*;

fn sample() -> pb::Definition {
    let mut graph = Graph::default();
    let base = graph.image(
        Image::new("docker.io/library/a:1"),
        VertexOptions::named("a"),
    );
    let built = graph.run(&base, Run::new(["x"]), VertexOptions::default());
    encode(&graph.definition(built.root(), None).unwrap())
}

fn op(wire: &pb::Definition, index: usize) -> pb::Op {
    pb::Op::decode(wire.def[index].clone()).unwrap()
}

/// The sample with its exec op changed, and its terminal op pointing there.
fn with_exec(change: impl FnOnce(&mut pb::Op, &mut pb::ExecOp)) -> pb::Definition {
    let mut wire = sample();
    let mut exec_op = op(&wire, 1);
    let Some(pb::op::Op::Exec(mut exec)) = exec_op.op.take() else {
        panic!("an exec op")
    };
    change(&mut exec_op, &mut exec);
    exec_op.op = Some(pb::op::Op::Exec(exec));
    let bytes = exec_op.encode_to_vec();
    let mut last = op(&wire, 2);
    last.inputs[0].digest = Digest::of(&bytes).to_string();
    wire.def[1] = bytes.into();
    wire.def[2] = last.encode_to_vec().into();
    wire
}

fn refusal(wire: &pb::Definition) -> String {
    let error = decode(wire).unwrap_err();
    match std::error::Error::source(&error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

#[test]
fn the_sample_is_accepted() {
    let definition = decode(&sample()).unwrap();
    assert_eq!(definition.vertices.len(), 2);
    assert_eq!(encode(&definition), sample());
    assert_eq!(
        decode(&pb::Definition::default()).unwrap(),
        Definition::default()
    );
}

#[test]
fn each_bad_field_is_refused_by_name() {
    let cases: Vec<(pb::Definition, &str)> = vec![
        (
            with_exec(|_, exec| exec.meta = None),
            "invalid exec op with no meta",
        ),
        (
            with_exec(|_, exec| exec.meta = Some(pb::Meta::default())),
            "invalid exec op with no args",
        ),
        (
            with_exec(|_, exec| exec.mounts.clear()),
            "invalid exec op with no mounts",
        ),
        (
            with_exec(|_, exec| exec.mounts[0].dest = "/x".into()),
            "invalid exec op with no rootfs",
        ),
        (
            with_exec(|_, exec| exec.mounts[0].input = 7),
            "invalid mount input index 7",
        ),
        (
            with_exec(|_, exec| exec.mounts[0].input = -2),
            "invalid mount input index -2",
        ),
        (
            with_exec(|_, exec| exec.mounts[0].mount_type = 99),
            "invalid mount type 99",
        ),
        (
            with_exec(|_, exec| exec.mounts[0].mount_type = 3),
            "invalid exec op with no cache mount options",
        ),
        (
            with_exec(|_, exec| exec.network = 9),
            "invalid network mode 9",
        ),
        (
            with_exec(|_, exec| exec.security = 9),
            "invalid security mode 9",
        ),
        (
            with_exec(|op, _| op.inputs[0].digest = "sha256:0".into()),
            "invalid digest \"sha256:0\": it has not 64 hex digits",
        ),
    ];
    for (wire, want) in cases {
        assert_eq!(refusal(&wire), want);
    }
}

#[test]
fn bad_edges_are_refused() {
    let missing = Digest::of("nowhere");
    let wire = with_exec(|op, _| op.inputs[0].digest = missing.to_string());
    assert!(refusal(&wire).starts_with(&format!("invalid missing input digest {missing}")));
    let wire = with_exec(|op, _| op.inputs[0].index = 3);
    assert!(refusal(&wire).starts_with("invalid input 0 output index 3"));
    let wire = with_exec(|op, _| op.inputs[0].index = -1);
    assert!(refusal(&wire).starts_with("invalid input 0 output index -1"));
    let mut wire = with_exec(|_, _| ());
    wire.def[2] = pb::Op::default().encode_to_vec().into();
    assert!(matches!(decode(&wire), Err(InvalidDefinition::Terminal)));
    wire.def[2] = vec![0xff].into();
    assert!(matches!(
        decode(&wire),
        Err(InvalidDefinition::Malformed { index: 2, .. })
    ));
    let mut wire = sample();
    wire.def[0] = pb::Op::default().encode_to_vec().into();
    assert!(matches!(
        decode(&wire),
        Err(InvalidDefinition::Dangling { .. })
    ));
    let mut wire = sample();
    wire.metadata.insert("x".into(), pb::OpMetadata::default());
    assert!(matches!(
        decode(&wire),
        Err(InvalidDefinition::Key {
            map: "metadata",
            ..
        })
    ));
}

#[test]
fn an_op_without_operation_is_refused() {
    let nothing = pb::Op {
        platform: Some(pb::Platform::default()),
        ..pb::Op::default()
    };
    let bytes = nothing.encode_to_vec();
    let input = pb::Input {
        digest: Digest::of(&bytes).to_string(),
        index: 0,
    };
    let last = pb::Op {
        inputs: vec![input],
        ..pb::Op::default()
    };
    let def = vec![bytes.into(), last.encode_to_vec().into()];
    let wire = pb::Definition {
        def,
        ..pb::Definition::default()
    };
    assert!(matches!(
        decode(&wire),
        Err(InvalidDefinition::UnknownOp(_))
    ));
}

#[test]
fn inputs_may_stand_behind_their_users() {
    let mut wire = sample();
    wire.def.swap(0, 1);
    assert_eq!(decode(&wire).unwrap(), decode(&sample()).unwrap());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(ops in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4)) {
        let def = ops.into_iter().map(Into::into).collect();
        drop(decode(&pb::Definition { def, ..pb::Definition::default() }));
    }

    #[test]
    fn a_flipped_byte_is_refused_or_survives(op in 0_usize..3, at in 0_usize..400, bit in 0_u8..8) {
        let mut wire = sample();
        let mut bytes = wire.def[op].to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        wire.def[op] = bytes.into();
        if let Ok(definition) = decode(&wire) {
            prop_assert_eq!(decode(&encode(&definition)).unwrap(), definition);
        }
    }
}
