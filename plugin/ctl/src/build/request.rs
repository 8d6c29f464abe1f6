//! A plan as the messages that start a build. Pure; the conversation sends them.

use std::collections::BTreeMap;

use serde::Serialize;
use shipway_proto::{control, gateway, pb};

use super::plan::Plan;
use crate::args::outputs::CacheEntry;

/// The request that opens the build: it names no frontend, for the client drives the build itself.
pub(super) fn solve(
    plan: &Plan,
    reference: &str,
    session: &str,
    cache: control::CacheOptions,
    attrs: BTreeMap<String, String>,
) -> control::SolveRequest {
    let exporters: Vec<_> = plan
        .exports
        .iter()
        .map(|export| control::Exporter {
            r#type: export.kind.clone(),
            attrs: export.attrs.clone(),
        })
        .collect();
    let first = exporters.first().cloned().unwrap_or_default();
    control::SolveRequest {
        r#ref: reference.to_owned(),
        session: session.to_owned(),
        exporter_deprecated: first.r#type,
        exporter_attrs_deprecated: first.attrs,
        exporters,
        frontend_attrs: attrs,
        cache: Some(cache),
        entitlements: plan.entitlements.clone(),
        source_policy: plan.policy.clone(),
        proxy_network: plan.proxy_network,
        ..control::SolveRequest::default()
    }
}

/// The request that makes the frontend, or a definition, into a result.
pub(super) fn bridge_solve(
    plan: &Plan,
    definition: Option<pb::Definition>,
    imports: &[CacheEntry],
    attrs: BTreeMap<String, String>,
) -> gateway::SolveRequest {
    let cache_imports = imports
        .iter()
        .map(|entry| gateway::CacheOptionsEntry {
            r#type: entry.kind.clone(),
            attrs: entry.attrs.clone(),
        })
        .collect();
    gateway::SolveRequest {
        frontend: plan.frontend.clone().unwrap_or_default(),
        frontend_opt: attrs,
        definition,
        allow_result_return: true,
        allow_result_array_ref: true,
        cache_imports,
        ..gateway::SolveRequest::default()
    }
}

/// Options of the frontend, with the caches to import in the form that frontends expect.
pub(super) fn frontend_attrs(plan: &Plan, imports: &[CacheEntry]) -> BTreeMap<String, String> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Import<'a> {
        r#type: &'a str,
        attrs: &'a BTreeMap<String, String>,
    }
    let mut attrs = plan.attrs.clone();
    if !imports.is_empty() {
        let list: Vec<_> = imports
            .iter()
            .map(|entry| Import {
                r#type: &entry.kind,
                attrs: &entry.attrs,
            })
            .collect();
        let text = serde_json::to_string(&list).expect("strings always have a JSON form");
        attrs.insert("cache-imports".to_owned(), text);
    }
    if attrs.contains_key("requestid") {
        attrs
            .entry("frontend.caps".to_owned())
            .or_insert_with(|| "moby.buildkit.frontend.subrequests".to_owned());
    }
    attrs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_reach_the_frontend_as_json_with_capitals() {
        let imports = [CacheEntry {
            kind: "registry".into(),
            attrs: [("ref".to_owned(), "r".to_owned())].into(),
        }];
        let attrs = frontend_attrs(&Plan::default(), &imports);
        assert_eq!(
            attrs["cache-imports"],
            r#"[{"Type":"registry","Attrs":{"ref":"r"}}]"#
        );
    }
}
