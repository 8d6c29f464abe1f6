//! `SolveRequest`s to build requests. What is not supported and changes a build is refused by name.

use std::collections::BTreeMap;

use shipway_backend::Namespace;
use shipway_build::{Plan, Request};
use shipway_export::ExportRequest;
use shipway_frontend::FrontendRequest;
use shipway_model::failure::FailureKind;
use shipway_model::{Definition, Failure};
use shipway_proto::{control, pb};

/// The request's meaning.
pub fn request(wire: control::SolveRequest, namespace: Namespace) -> Result<Request, Failure> {
    refuse(&wire)?;
    if wire.r#ref.is_empty() {
        return Err(invalid("a build needs a ref"));
    }
    let exporters = exporters(&wire);
    let inputs = inputs(&wire.frontend_inputs)?;
    let plan = match (&wire.definition, wire.frontend.as_str()) {
        (Some(definition), "") if !definition.def.is_empty() => {
            Plan::Definition(decode(definition)?)
        }
        (_, "") => Plan::Gateway,
        (_, name) => Plan::Frontend {
            name: name.to_owned(),
            request: FrontendRequest {
                options: wire.frontend_attrs.clone(),
                inputs,
            },
        },
    };
    Ok(Request {
        id: wire.r#ref,
        session: wire.session,
        namespace,
        plan,
        options: wire.frontend_attrs,
        exporters,
        entitlements: wire.entitlements,
        internal: wire.internal,
    })
}

/// Graphs by name.
pub fn inputs(
    wire: &BTreeMap<String, pb::Definition>,
) -> Result<BTreeMap<String, Definition>, Failure> {
    wire.iter()
        .map(|(name, definition)| Ok((name.clone(), decode(definition)?)))
        .collect()
}

/// A graph from its bytes.
pub fn decode(definition: &pb::Definition) -> Result<Definition, Failure> {
    shipway_llb::decode(definition).map_err(|e| Failure::from_error(&e))
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::of_kind(FailureKind::InvalidArgument, message.into())
}

fn refuse(wire: &control::SolveRequest) -> Result<(), Failure> {
    let unsupported = |what: String| {
        Err(Failure::of_kind(
            FailureKind::Unimplemented,
            format!("{what} is not supported"),
        ))
    };
    if wire
        .source_policy
        .as_ref()
        .is_some_and(|policy| !policy.rules.is_empty())
    {
        return unsupported("a source policy".into());
    }
    if !wire.source_policy_session.is_empty() {
        return unsupported("a source policy session".into());
    }
    if wire.enable_session_exporter {
        return unsupported("the session exporter".into());
    }
    if wire.proxy_network {
        return unsupported("the proxy network".into());
    }
    let exports = wire.cache.iter().flat_map(|cache| &cache.exports);
    match exports.into_iter().next() {
        Some(export) => unsupported(format!("cache export of type {:?}", export.r#type)),
        None => Ok(()),
    }
}

/// The exporters asked for; the deprecated single one repeats the first, and counts only where it stands alone.
fn exporters(wire: &control::SolveRequest) -> Vec<ExportRequest> {
    if wire.exporters.is_empty() && !wire.exporter_deprecated.is_empty() {
        return vec![ExportRequest {
            kind: wire.exporter_deprecated.clone(),
            attrs: wire.exporter_attrs_deprecated.clone(),
            index: 0,
        }];
    }
    let each = wire
        .exporters
        .iter()
        .enumerate()
        .map(|(index, exporter)| ExportRequest {
            kind: exporter.r#type.clone(),
            attrs: exporter.attrs.clone(),
            index,
        });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deprecated_exporter_counts_only_alone() {
        let exporter = |kind: &str| control::Exporter {
            r#type: kind.into(),
            attrs: BTreeMap::new(),
        };
        let both = control::SolveRequest {
            exporter_deprecated: "image".into(),
            exporters: vec![exporter("image"), exporter("local")],
            ..Default::default()
        };
        assert_eq!(exporters(&both).len(), 2);
        let alone = control::SolveRequest {
            exporter_deprecated: "image".into(),
            ..Default::default()
        };
        assert_eq!(exporters(&alone).len(), 1);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let entry = control::CacheOptionsEntry {
            r#type: "s3".into(),
            attrs: BTreeMap::new(),
        };
        let cache = control::CacheOptions {
            exports: vec![entry],
            ..Default::default()
        };
        let wire = control::SolveRequest {
            cache: Some(cache),
            ..Default::default()
        };
        assert_eq!(
            &*refuse(&wire).unwrap_err().message,
            "cache export of type \"s3\" is not supported"
        );
    }
}
