//! Failures to gRPC statuses and back, with the typed details that BuildKit's clients render (`+json` values under
//! scheme-less type URLs; protocol notes, "Failure"). It decides no message text.

use std::panic::Location;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::{Value, json};
use shipway_model::definition::SourceInfo;
use shipway_model::failure::{FailedPart, FailureKind};
use shipway_model::{Failure, FailureDetail, SourceRange};
use shipway_proto::{pb, rpc};
use tonic::{Code, Status};

const PREFIX: &str = "github.com/moby/buildkit/";

/// The status that a client gets.
#[must_use]
pub fn to_status(failure: &Failure) -> Status {
    let wire = to_wire(failure);
    Status::with_details(
        code(failure.kind),
        wire.message.clone(),
        wire.encode_to_vec().into(),
    )
}

/// The same as a message, for records.
#[must_use]
pub fn to_wire(failure: &Failure) -> rpc::Status {
    let details = failure.details.iter().map(detail);
    let details = details.chain(failure.raised.map(stack));
    rpc::Status {
        code: code(failure.kind) as i32,
        message: failure.message.to_string(),
        details: details.collect(),
    }
}

/// A failure that a client reports (a frontend running at the client): its details are handed on unread.
#[must_use]
pub fn from_wire(status: rpc::Status) -> Failure {
    let kind = match Code::from_i32(status.code) {
        Code::Cancelled => FailureKind::Cancelled,
        Code::InvalidArgument => FailureKind::InvalidArgument,
        Code::NotFound => FailureKind::NotFound,
        Code::AlreadyExists => FailureKind::AlreadyExists,
        Code::PermissionDenied => FailureKind::PermissionDenied,
        Code::Unimplemented => FailureKind::Unimplemented,
        _ => FailureKind::Unknown,
    };
    let details = status.details.into_iter().map(|any| FailureDetail::Opaque {
        type_url: any.type_url,
        value: any.value,
    });
    Failure {
        message: status.message.into(),
        kind,
        details: details.collect(),
        raised: None,
    }
}

/// Where in the daemon a failure was raised, as a stack of one frame.
fn stack(raised: &Location<'_>) -> prost_types::Any {
    let value = json!({
        "frames": [{
            "Name": module(raised.file()),
            "File": raised.file(),
            "Line": raised.line(),
        }],
        "cmdline": std::env::args().collect::<Vec<_>>(),
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    prost_types::Any {
        type_url: format!("{PREFIX}stack.Stack+json"),
        value: value.to_string().into_bytes(),
    }
}

/// The module that a source file is: `solver/ops/src/exec/run.rs` is `shipway_ops::exec::run`.
fn module(file: &str) -> String {
    let Some((name, path)) = file.split_once("/src/") else {
        return file.to_owned();
    };
    let name = name.rsplit('/').next().unwrap_or(name);
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    format!("shipway_{name}::{}", path.replace('/', "::"))
}

fn code(kind: FailureKind) -> Code {
    match kind {
        FailureKind::Unknown => Code::Unknown,
        FailureKind::Cancelled => Code::Cancelled,
        FailureKind::InvalidArgument => Code::InvalidArgument,
        FailureKind::NotFound => Code::NotFound,
        FailureKind::AlreadyExists => Code::AlreadyExists,
        FailureKind::PermissionDenied => Code::PermissionDenied,
        FailureKind::Unimplemented => Code::Unimplemented,
    }
}

fn detail(detail: &FailureDetail) -> prost_types::Any {
    let (kind, value) = match detail {
        FailureDetail::Opaque { type_url, value } => {
            return prost_types::Any {
                type_url: type_url.clone(),
                value: value.clone(),
            };
        }
        FailureDetail::Vertex(digest) => ("errdefs.Vertex", json!({"digest": digest})),
        FailureDetail::Source { info, ranges } => ("errdefs.Source", source(info, ranges)),
        FailureDetail::Exit(code) => ("gatewayapi.ExitMessage", json!({"Code": code})),
        FailureDetail::Solve {
            input_ids,
            mount_ids,
            subject,
            op,
            description,
            ..
        } => {
            let mut solve = json!({
                "inputIDs": input_ids,
                "mountIDs": mount_ids,
                "op": shipway_llb::op_proto_json(op),
                "description": description,
            });
            match subject {
                FailedPart::Whole => {}
                FailedPart::FileAction(index) => {
                    solve["file"] = json!({"index": index.to_string()});
                }
                FailedPart::Content(index) => {
                    solve["cache"] = json!({"index": index.to_string()});
                }
            }
            ("errdefs.Solve", solve)
        }
        FailureDetail::Frontend(name) => ("errdefs.Frontend", json!({"name": name})),
        FailureDetail::UnsupportedSubrequest(name) => ("errdefs.Subrequest", json!({"name": name})),
        FailureDetail::UnsupportedFrontendCap(name) => {
            ("errdefs.FrontendCap", json!({"name": name}))
        }
        FailureDetail::Denied(reasons) => {
            let reasons = reasons.iter().map(|reason| json!({"message": reason}));
            let decision = json!({"action": "DENY", "denyMessages": reasons.collect::<Vec<_>>()});
            ("policysession.DecisionResponse", decision)
        }
    };
    prost_types::Any {
        type_url: format!("{PREFIX}{kind}+json"),
        value: value.to_string().into_bytes(),
    }
}

fn source(info: &SourceInfo, ranges: &[SourceRange]) -> Value {
    let ranges: Vec<Value> = ranges
        .iter()
        .map(|range| {
            json!({
                "start": position(range.start_line, range.start_character),
                "end": position(range.end_line, range.end_character),
            })
        })
        .collect();
    let mut described = json!({
        "filename": info.filename,
        "data": STANDARD.encode(&info.data),
        "language": info.language,
    });
    // The definition is kept encoded: only its ops are of use to who reads an error.
    let definition = info.definition.as_deref().map(pb::Definition::decode);
    if let Some(Ok(definition)) = definition {
        let ops: Vec<String> = definition
            .def
            .iter()
            .map(|op| STANDARD.encode(op))
            .collect();
        described["definition"] = json!({"def": ops});
    }
    json!({"info": described, "ranges": ranges})
}

fn position(line: i32, character: i32) -> Value {
    if character == 0 {
        json!({"line": line})
    } else {
        json!({"line": line, "character": character})
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use shipway_model::failure::Held;

    use super::*;

    #[test]
    fn details_are_json_under_scheme_less_urls() {
        let info = SourceInfo {
            filename: "Dockerfile".into(),
            data: b"FROM x".into(),
            ..Default::default()
        };
        let failure = Failure::new("boom").with(FailureDetail::Source {
            info: Arc::new(info),
            ranges: vec![SourceRange::lines(1, 1)],
        });
        let wire = to_wire(&failure);
        assert_eq!(wire.code, 2);
        assert_eq!(
            wire.details[0].type_url,
            "github.com/moby/buildkit/errdefs.Source+json"
        );
        let json: Value = serde_json::from_slice(&wire.details[0].value).unwrap();
        assert_eq!(json["ranges"][0]["start"]["line"], 1);
        assert_eq!(json["info"]["data"], "RlJPTSB4");
    }

    #[test]
    fn a_failed_change_of_files_names_its_action_and_a_failed_key_its_input() {
        let index = json!({"index": "2"});
        for (subject, file, cache) in [
            (FailedPart::Whole, Value::Null, Value::Null),
            (FailedPart::FileAction(2), index.clone(), Value::Null),
            (FailedPart::Content(2), Value::Null, index),
        ] {
            let failure = Failure::new("x").with(FailureDetail::Solve {
                input_ids: Vec::new(),
                mount_ids: vec!["a".into()],
                subject,
                op: Arc::from([]),
                description: BTreeMap::default(),
                held: Held::nothing(),
            });
            let wire = to_wire(&failure);
            let json: Value = serde_json::from_slice(&wire.details[0].value).unwrap();
            assert_eq!(
                (&json["file"], &json["cache"], &json["mountIDs"][0]),
                (&file, &cache, &json!("a"))
            );
        }
    }

    #[test]
    fn the_place_that_raised_a_failure_comes_last() {
        let wire = to_wire(&Failure::new("x").with(FailureDetail::Exit(7)));
        assert_eq!(wire.details.len(), 2);
        let stack: Value = serde_json::from_slice(&wire.details[1].value).unwrap();
        assert_eq!(stack["frames"][0]["Name"], "shipway_api::wire::failure");
    }

    #[test]
    fn a_client_s_details_come_back_as_they_were() {
        let failure = Failure::new("x").with(FailureDetail::Exit(7));
        let wire = to_wire(&failure);
        assert_eq!(to_wire(&from_wire(wire.clone())), wire);
    }
}
