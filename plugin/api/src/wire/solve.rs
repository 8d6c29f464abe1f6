//! `SolveRequest`s to build requests. What is not supported and changes a build is refused by name.

use std::collections::BTreeMap;

use shipway_backend::Namespace;
use shipway_build::{Plan, Request};
use shipway_export::ExportRequest;
use shipway_frontend::FrontendRequest;
use shipway_history::TraceParent;
use shipway_model::failure::FailureKind;
use shipway_model::policy::{Action, Condition, Constraint, MatchKind, Policy, Rule, Selector};
use shipway_model::{CacheEntry, Definition, Failure};
use shipway_proto::{control, pb, sourcepolicy};

/// The built-in frontend.
const BUILTIN: &str = "dockerfile.v0";

/// The request's meaning.
pub fn request(
    mut wire: control::SolveRequest,
    namespace: Namespace,
    trace: Option<TraceParent>,
) -> Result<Request, Failure> {
    refuse(&wire)?;
    direct(&mut wire);
    if wire.r#ref.is_empty() {
        return Err(invalid("a build needs a ref"));
    }
    let exporters = exporters(&wire);
    let inputs = inputs(&wire.frontend_inputs)?;
    let (cache_exports, cache_imports) = caches(wire.cache.unwrap_or_default());
    let plan = match (&wire.definition, wire.frontend.as_str()) {
        // An empty definition is the empty filesystem; a client that drives its own build sends none.
        (Some(definition), "") => Plan::Definition(decode(definition)?),
        (None, "") => Plan::Gateway,
        (_, name) => Plan::Frontend {
            name: name.to_owned(),
            request: FrontendRequest {
                options: wire.frontend_attrs.clone(),
                inputs: inputs.clone(),
            },
        },
    };
    Ok(Request {
        id: wire.r#ref,
        session: wire.session,
        namespace,
        plan,
        options: wire.frontend_attrs,
        inputs,
        exporters,
        source_policy: policy(wire.source_policy.as_ref())?,
        policy_session: Some(wire.source_policy_session).filter(|id| !id.is_empty()),
        cache_imports,
        cache_exports,
        entitlements: wire.entitlements,
        trace,
        internal: wire.internal,
    })
}

/// The built-in frontend asked for by way of the gateway is itself: BuildKit's rule, unless a context stands in its place.
fn direct(wire: &mut control::SolveRequest) {
    let named =
        |key: &String| key == "context:dockerfile.v0" || key.starts_with("context:dockerfile.v0::");
    let attrs = &wire.frontend_attrs;
    let builtin = attrs.get("source").is_some_and(|source| source == BUILTIN);
    if wire.frontend == "gateway.v0" && builtin && !attrs.keys().any(named) {
        wire.frontend_attrs.remove("source");
        BUILTIN.clone_into(&mut wire.frontend);
    }
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
    if wire.enable_session_exporter {
        return unsupported("the session exporter".into());
    }
    if wire.proxy_network {
        return unsupported("the proxy network".into());
    }
    Ok(())
}

/// Policies, each rule checked.
pub fn policies(wire: &[sourcepolicy::Policy]) -> Result<Vec<Policy>, Failure> {
    wire.iter().map(|each| policy(Some(each))).collect()
}

fn policy(wire: Option<&sourcepolicy::Policy>) -> Result<Policy, Failure> {
    let rules = wire.map_or(&[] as &[_], |policy| &policy.rules);
    let rules = rules.iter().map(rule);
    Ok(Policy {
        rules: rules.collect::<Result<_, _>>()?,
    })
}

fn rule(wire: &sourcepolicy::Rule) -> Result<Rule, Failure> {
    use sourcepolicy::{MatchType, PolicyAction};
    let selector = wire.selector.as_ref();
    let selector = selector.ok_or_else(|| invalid("invalid nil selector in policy"))?;
    let action = PolicyAction::try_from(wire.action);
    let action = match action.map_err(|_| unknown("type", wire.action))? {
        PolicyAction::Allow => Action::Allow,
        PolicyAction::Deny => Action::Deny,
        PolicyAction::Convert => {
            let updates = wire.updates.as_ref();
            let updates = updates.ok_or_else(|| invalid("missing destination for convert rule"))?;
            Action::Convert {
                identifier: updates.identifier.clone(),
                attrs: updates.attrs.clone(),
            }
        }
    };
    let kind = MatchType::try_from(selector.match_type);
    let kind = match kind.map_err(|_| unknown("match type", selector.match_type))? {
        MatchType::Wildcard => MatchKind::Wildcard,
        MatchType::Exact => MatchKind::Exact,
        MatchType::Regex => MatchKind::Regex,
    };
    let constraints = selector.constraints.iter().map(constraint);
    Ok(Rule {
        action,
        selector: Selector {
            identifier: selector.identifier.clone(),
            kind,
            constraints: constraints.collect::<Result<_, Failure>>()?,
        },
    })
}

fn unknown(what: &str, number: i32) -> Failure {
    invalid(format!("source policy: unknown {what} {number}"))
}

fn constraint(wire: &sourcepolicy::AttrConstraint) -> Result<Constraint, Failure> {
    use sourcepolicy::AttrMatch;
    let condition = AttrMatch::try_from(wire.condition);
    let condition = match condition.map_err(|_| unknown("attr condition", wire.condition))? {
        AttrMatch::Equal => Condition::Equal,
        AttrMatch::Notequal => Condition::NotEqual,
        AttrMatch::Matches => Condition::Matches,
    };
    Ok(Constraint {
        key: wire.key.clone(),
        value: wire.value.clone(),
        condition,
    })
}

/// The caches to export and to import; those of older clients' fields come last.
fn caches(wire: control::CacheOptions) -> (Vec<CacheEntry>, Vec<CacheEntry>) {
    let registry = |mut attrs: BTreeMap<String, String>, reference: String| {
        attrs.insert("ref".to_owned(), reference);
        CacheEntry {
            kind: "registry".to_owned(),
            attrs,
        }
    };
    let entries = |wire: Vec<control::CacheOptionsEntry>| {
        wire.into_iter().map(|entry| CacheEntry {
            kind: entry.r#type,
            attrs: entry.attrs,
        })
    };
    let old = Some(wire.export_ref_deprecated).filter(|reference| !reference.is_empty());
    let old = old.map(|reference| registry(wire.export_attrs_deprecated, reference));
    let exports = entries(wire.exports).chain(old).collect();
    let old = wire.import_refs_deprecated.into_iter();
    let old = old.map(|reference| registry(BTreeMap::new(), reference));
    let imports = entries(wire.imports).chain(old).collect();
    (exports, imports)
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
    fn the_built_in_frontend_is_reached_directly() {
        let attrs = [("source".to_owned(), BUILTIN.to_owned())];
        let mut wire = control::SolveRequest {
            frontend: "gateway.v0".into(),
            frontend_attrs: attrs.into(),
            ..Default::default()
        };
        let mut replaced = wire.clone();
        direct(&mut wire);
        assert_eq!(wire.frontend, BUILTIN);
        assert!(wire.frontend_attrs.is_empty());
        let context = "context:dockerfile.v0".to_owned();
        replaced.frontend_attrs.insert(context, "x".to_owned());
        direct(&mut replaced);
        assert_eq!(replaced.frontend, "gateway.v0");
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let wire = control::SolveRequest {
            enable_session_exporter: true,
            ..Default::default()
        };
        assert_eq!(
            &*refuse(&wire).unwrap_err().message,
            "the session exporter is not supported"
        );
    }
}
