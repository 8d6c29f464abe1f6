//! Source policies as people write them in JSON. Checks names; the daemon judges the rest.

use std::collections::BTreeMap;

use serde::Deserialize;
use shipway_proto::sourcepolicy::{
    AttrConstraint, AttrMatch, MatchType, Policy, PolicyAction, Rule, Selector, Update,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PolicyFile {
    version: i64,
    rules: Vec<RuleFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RuleFile {
    action: Choice,
    selector: Option<SelectorFile>,
    updates: Option<UpdateFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SelectorFile {
    identifier: String,
    #[serde(alias = "matchType")]
    match_type: Choice,
    constraints: Vec<ConstraintFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ConstraintFile {
    key: String,
    value: String,
    condition: Choice,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct UpdateFile {
    identifier: String,
    attrs: BTreeMap<String, String>,
}

/// One of an enumeration, by name or number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Choice {
    Number(i32),
    Name(String),
}

impl Default for Choice {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Choice {
    fn number(&self, by_name: fn(&str) -> Option<i32>) -> Result<i32, String> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Name(name) => by_name(name).ok_or_else(|| format!("unknown name {name:?}")),
        }
    }
}

/// Reads a policy.
pub(crate) fn parse(text: &[u8]) -> Result<Policy, String> {
    let file: PolicyFile = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let rules = file.rules.into_iter().map(rule).collect::<Result<_, _>>()?;
    Ok(Policy {
        version: file.version,
        rules,
    })
}

fn rule(rule: RuleFile) -> Result<Rule, String> {
    Ok(Rule {
        action: rule
            .action
            .number(|name| PolicyAction::from_str_name(name).map(Into::into))?,
        selector: rule.selector.map(selector).transpose()?,
        updates: rule.updates.map(|update| Update {
            identifier: update.identifier,
            attrs: update.attrs,
        }),
    })
}

fn selector(selector: SelectorFile) -> Result<Selector, String> {
    let constraint = |constraint: ConstraintFile| {
        let condition = constraint.condition;
        let condition = condition.number(|name| AttrMatch::from_str_name(name).map(Into::into))?;
        Ok(AttrConstraint {
            key: constraint.key,
            value: constraint.value,
            condition,
        })
    };
    Ok(Selector {
        identifier: selector.identifier,
        match_type: selector
            .match_type
            .number(|name| MatchType::from_str_name(name).map(Into::into))?,
        constraints: selector
            .constraints
            .into_iter()
            .map(constraint)
            .collect::<Result<_, String>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_by_name_and_number() {
        let text = br#"{"version":1,"rules":[{"action":"CONVERT",
            "selector":{"identifier":"docker-image://a","match_type":1},
            "updates":{"identifier":"docker-image://b"}}]}"#;
        let policy = parse(text).unwrap();
        let rule = &policy.rules[0];
        assert_eq!(rule.action(), PolicyAction::Convert);
        assert_eq!(
            rule.selector.as_ref().unwrap().match_type(),
            MatchType::Exact
        );
        assert_eq!(
            rule.updates.as_ref().unwrap().identifier,
            "docker-image://b"
        );
        assert!(parse(br#"{"rules":[{"action":"BAN"}]}"#).is_err());
        assert!(parse(br#"{"rulez":[]}"#).is_err());
    }
}
