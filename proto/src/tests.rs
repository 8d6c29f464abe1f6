//! Known encodings: field numbers that are easily got wrong, as seen on the wire.

use prost::Message as _;

use super::{control, fsutil, gateway, pb};

/// The field numbers at the top level of an encoding, in order.
fn fields(mut encoded: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    while !encoded.is_empty() {
        let (tag, wire) = prost::encoding::decode_key(&mut encoded).unwrap();
        found.push(tag);
        let context = prost::encoding::DecodeContext::default();
        prost::encoding::skip_field(wire, tag, &mut encoded, context).unwrap();
    }
    found
}

#[test]
fn a_solve_request_keeps_its_late_fields() {
    let request = control::SolveRequest {
        exporters: vec![control::Exporter::default()],
        enable_session_exporter: true,
        source_policy_session: "s".into(),
        ..Default::default()
    };
    assert_eq!(fields(&request.encode_to_vec()), [13, 14, 15]);
}

#[test]
fn usage_names_parents_in_field_twelve() {
    let record = control::UsageRecord {
        parents: vec!["p".into()],
        ..Default::default()
    };
    assert_eq!(fields(&record.encode_to_vec()), [12]);
}

#[test]
fn a_gateway_result_uses_the_new_forms() {
    let result = gateway::Result {
        result: Some(gateway::result::Result::Ref(gateway::Ref {
            id: "r".into(),
            def: None,
        })),
        metadata: [("k".to_owned(), "v".into())].into(),
        attestations: [("p".to_owned(), gateway::Attestations::default())].into(),
    };
    assert_eq!(fields(&result.encode_to_vec()), [3, 10, 12]);
    let refs = gateway::result::Result::Refs(gateway::RefMap::default());
    let result = gateway::Result {
        result: Some(refs),
        ..Default::default()
    };
    assert_eq!(fields(&result.encode_to_vec()), [4]);
}

#[test]
fn a_gateway_solve_keeps_its_flags_apart() {
    let request = gateway::SolveRequest {
        allow_result_return: true,
        allow_result_array_ref: true,
        evaluate: true,
        ..Default::default()
    };
    assert_eq!(fields(&request.encode_to_vec()), [5, 6, 14]);
}

#[test]
fn a_packet_is_byte_for_byte_what_fsutil_writes() {
    let packet = fsutil::Packet {
        r#type: fsutil::packet::PacketType::PacketData.into(),
        id: 5,
        data: "hi".into(),
        stat: None,
    };
    assert_eq!(
        packet.encode_to_vec(),
        [0x08, 2, 0x18, 5, 0x22, 2, b'h', b'i']
    );
}

#[test]
fn descriptors_leave_field_four_out() {
    let annotations = [("a".to_owned(), "b".to_owned())].into();
    let descriptor = control::Descriptor {
        annotations,
        ..Default::default()
    };
    assert_eq!(fields(&descriptor.encode_to_vec()), [5]);
}

#[test]
fn maps_encode_in_key_order() {
    let attrs = [
        ("b".to_owned(), "2".to_owned()),
        ("a".to_owned(), "1".to_owned()),
    ]
    .into();
    let source = pb::SourceOp {
        identifier: String::new(),
        attrs,
    };
    let expected = b"\x12\x06\x0a\x01a\x12\x011\x12\x06\x0a\x01b\x12\x012";
    assert_eq!(source.encode_to_vec(), expected);
}
