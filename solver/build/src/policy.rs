//! Source policies at work: which rule a source meets, and what it becomes. Pure. Rules and texts are those of BuildKit v0.33
//! (`sourcepolicy`): of rules that allow or deny the last counts, a replaced source is judged anew.

use std::collections::BTreeMap;

use regex::Regex;
use shipway_model::failure::FailureKind;
use shipway_model::op::SourceOp;
use shipway_model::policy::{Action, Condition, Constraint, MatchKind, Policy, Selector};
use shipway_model::{Failure, ImageRef};

/// How often one source may be replaced.
const REPLACEMENTS: usize = 20;

/// Why a source is not used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum PolicyError {
    /// A rule denies it.
    #[error("source {0:?} denied by policy: source denied by policy")]
    Denied(String),
    /// It is replaced again and again.
    #[error("too many mutations on a single source: too many operations")]
    TooMany,
    /// A rule's pattern cannot be read.
    #[error("error matching source policy: invalid pattern {0:?}")]
    Pattern(String),
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        let kind = match error {
            PolicyError::Denied(_) => FailureKind::PermissionDenied,
            PolicyError::TooMany | PolicyError::Pattern(_) => FailureKind::InvalidArgument,
        };
        Self::of_kind(kind, error.to_string())
    }
}

/// The policies of a build, ready to be asked.
#[derive(Debug, Default)]
pub(crate) struct Policies(Vec<Vec<Rule>>);

#[derive(Debug)]
struct Rule {
    action: Action,
    selector: Selector,
    pattern: Option<Regex>,
    constraints: Vec<(Constraint, Option<Regex>)>,
}

impl Policies {
    /// Policies, asked in order; a pattern that cannot be read is an error.
    pub(crate) fn new<'a>(
        policies: impl IntoIterator<Item = &'a Policy>,
    ) -> Result<Self, PolicyError> {
        let each = policies
            .into_iter()
            .map(|policy| policy.rules.iter().map(Rule::new).collect());
        Ok(Self(each.collect::<Result<_, _>>()?))
    }

    /// Judges a source; gives what it becomes, `None` where it stays as it is.
    pub(crate) fn judge(&self, source: &SourceOp) -> Result<Option<SourceOp>, PolicyError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let mut current = normalized(source);
        let mut changed = false;
        for _ in 0..=REPLACEMENTS {
            let mut replaced = None;
            for policy in &self.0 {
                replaced = judge_by(policy, &current)?;
                if replaced.is_some() {
                    break;
                }
            }
            match replaced {
                Some(next) => current = next,
                None => return Ok(changed.then_some(current)),
            }
            changed = true;
        }
        Err(PolicyError::TooMany)
    }
}

/// Judges by one policy; gives what the source is replaced with.
fn judge_by(rules: &[Rule], source: &SourceOp) -> Result<Option<SourceOp>, PolicyError> {
    let mut denied = false;
    for rule in rules.iter().filter(|rule| rule.matches(source)) {
        match &rule.action {
            Action::Allow => denied = false,
            Action::Deny => denied = true,
            Action::Convert { identifier, attrs } => {
                let other = rule.converted(source, identifier, attrs);
                if other != *source {
                    return Ok(Some(other));
                }
            }
        }
    }
    if denied {
        return Err(PolicyError::Denied(source.identifier.clone()));
    }
    Ok(None)
}

impl Rule {
    fn new(rule: &shipway_model::policy::Rule) -> Result<Self, PolicyError> {
        let selector = rule.selector.clone();
        let pattern = match selector.kind {
            MatchKind::Exact => None,
            MatchKind::Regex => Some(regex(&selector.identifier)?),
            MatchKind::Wildcard if selector.identifier.contains("**") => {
                return Err(PolicyError::Pattern(selector.identifier));
            }
            MatchKind::Wildcard => {
                let escaped = regex::escape(&selector.identifier).replace("\\*", "(.*)");
                Some(regex(&format!("^{escaped}$"))?)
            }
        };
        let constraints = selector.constraints.iter().map(|constraint| {
            let pattern = match constraint.condition {
                Condition::Matches => Some(regex(&constraint.value)?),
                Condition::Equal | Condition::NotEqual => None,
            };
            Ok((constraint.clone(), pattern))
        });
        let constraints = constraints.collect::<Result<_, PolicyError>>()?;
        Ok(Self {
            action: rule.action.clone(),
            selector,
            pattern,
            constraints,
        })
    }

    fn matches(&self, source: &SourceOp) -> bool {
        let holds = |(constraint, pattern): &(Constraint, Option<Regex>)| {
            let value = source.attrs.get(&constraint.key).map_or("", String::as_str);
            match constraint.condition {
                Condition::Equal => value == constraint.value,
                Condition::NotEqual => value != constraint.value,
                Condition::Matches => pattern.as_ref().is_some_and(|p| p.is_match(value)),
            }
        };
        if !self.constraints.iter().all(holds) {
            return false;
        }
        let name = &source.identifier;
        *name == self.selector.identifier || self.pattern.as_ref().is_some_and(|p| p.is_match(name))
    }

    fn converted(
        &self,
        source: &SourceOp,
        identifier: &str,
        attrs: &BTreeMap<String, String>,
    ) -> SourceOp {
        let to = if identifier.is_empty() {
            &self.selector.identifier
        } else {
            identifier
        };
        let groups = self.pattern.as_ref();
        let groups = groups.and_then(|pattern| pattern.captures(&source.identifier));
        let mut named = String::new();
        match (groups, self.selector.kind) {
            (Some(groups), MatchKind::Wildcard) => groups.expand(to, &mut named),
            (Some(_), MatchKind::Regex) => {
                let pattern = self.pattern.as_ref();
                let replaced = pattern.map(|p| p.replace_all(&source.identifier, to));
                named = replaced.unwrap_or_default().into_owned();
            }
            _ => to.clone_into(&mut named),
        }
        let mut other = source.clone();
        if !named.is_empty() {
            other.identifier = named;
        }
        let set = attrs
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()));
        other.attrs.extend(set);
        other
    }
}

fn regex(text: &str) -> Result<Regex, PolicyError> {
    Regex::new(text).map_err(|_| PolicyError::Pattern(text.to_owned()))
}

/// A source by its full name: rules are written for those.
pub(crate) fn normalized(source: &SourceOp) -> SourceOp {
    let mut source = source.clone();
    if let Some(("docker-image", rest)) = source.split()
        && let Ok(image) = rest.parse::<ImageRef>()
    {
        source.identifier = format!("docker-image://{image}");
    }
    if let Some(("git", _)) = source.split() {
        source.identifier = canonical_git(&source.identifier);
    }
    source
}

/// A git source with its subdirectory as it is used, so that `../` does not lead around a rule.
fn canonical_git(identifier: &str) -> String {
    let Some((remote, (reference, subdir))) = identifier
        .split_once('#')
        .and_then(|(remote, fragment)| Some((remote, fragment.split_once(':')?)))
    else {
        return identifier.to_owned();
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in subdir.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    match (reference, parts.join("/")) {
        ("", subdir) if subdir.is_empty() => remote.to_owned(),
        (reference, subdir) if subdir.is_empty() => format!("{remote}#{reference}"),
        (reference, subdir) => format!("{remote}#{reference}:{subdir}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: Action, identifier: &str, kind: MatchKind) -> shipway_model::policy::Rule {
        shipway_model::policy::Rule {
            action,
            selector: Selector {
                identifier: identifier.into(),
                kind,
                constraints: Vec::new(),
            },
        }
    }

    fn to(identifier: &str) -> Action {
        Action::Convert {
            identifier: identifier.into(),
            attrs: BTreeMap::new(),
        }
    }

    fn judged(rules: Vec<shipway_model::policy::Rule>, name: &str) -> Result<String, PolicyError> {
        let policies = Policies::new([&Policy { rules }])?;
        let source = SourceOp {
            identifier: name.into(),
            attrs: BTreeMap::new(),
        };
        Ok(policies.judge(&source)?.unwrap_or(source).identifier)
    }

    #[test]
    fn of_allow_and_deny_the_last_counts() {
        let (name, any) = ("docker-image://alpine", "docker-image://*");
        let allow = || rule(Action::Allow, any, MatchKind::Wildcard);
        let deny = || rule(Action::Deny, any, MatchKind::Wildcard);
        assert!(judged(vec![deny(), allow()], name).is_ok());
        let denied = judged(vec![allow(), deny()], name).unwrap_err().to_string();
        assert_eq!(
            denied,
            "source \"docker-image://docker.io/library/alpine:latest\" denied by policy: source denied by policy"
        );
    }

    #[test]
    fn a_source_is_replaced_by_full_name_and_groups() {
        let mirror = vec![rule(
            to("docker-image://mirror.example/$1"),
            "docker-image://docker.io/library/*",
            MatchKind::Wildcard,
        )];
        let found = judged(mirror, "docker-image://alpine").unwrap();
        assert_eq!(found, "docker-image://mirror.example/alpine:latest");
        let regex = vec![rule(
            to("https://b.example/$1"),
            "^https://a\\.example/(.*)$",
            MatchKind::Regex,
        )];
        let found = judged(regex, "https://a.example/x").unwrap();
        assert_eq!(found, "https://b.example/x");
    }

    #[test]
    fn a_source_that_is_replaced_for_ever_is_an_error() {
        let rules = vec![
            rule(to("local://b"), "local://a", MatchKind::Exact),
            rule(to("local://a"), "local://b", MatchKind::Exact),
        ];
        assert_eq!(judged(rules, "local://a"), Err(PolicyError::TooMany));
        let bad = vec![rule(Action::Deny, "(", MatchKind::Regex)];
        assert!(judged(bad, "local://a").is_err());
    }

    #[test]
    fn a_subdirectory_is_judged_as_it_is_used() {
        let (given, used) = ("git://h/r.git#main:../a/./b", "git://h/r.git#main:a/b");
        let deny = || vec![rule(Action::Deny, used, MatchKind::Exact)];
        assert!(judged(deny(), given).is_err());
        assert!(judged(deny(), "git://h/r.git#main:c").is_ok());
        assert_eq!(canonical_git("git://h/r.git#main:/"), "git://h/r.git#main");
    }

    #[test]
    fn constraints_are_about_attributes() {
        let mut only = rule(Action::Deny, "local://*", MatchKind::Wildcard);
        only.selector.constraints = vec![Constraint {
            key: "k".into(),
            value: "^v".into(),
            condition: Condition::Matches,
        }];
        let policies = Policies::new([&Policy { rules: vec![only] }]).unwrap();
        let mut source = SourceOp {
            identifier: "local://a".into(),
            attrs: BTreeMap::new(),
        };
        assert!(policies.judge(&source).is_ok());
        source.attrs.insert("k".into(), "value".into());
        assert!(policies.judge(&source).is_err());
    }
}
