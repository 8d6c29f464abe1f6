//! Source policies: rules that allow, deny or replace sources before they are resolved. Plain data; what matches is decided
//! elsewhere.

use std::collections::BTreeMap;

use crate::Platform;
use crate::op::SourceOp;

/// An ordered list of rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The rules.
    pub rules: Vec<Rule>,
}

/// What to do with sources that match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What to do.
    pub action: Action,
    /// With which.
    pub selector: Selector,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Takes an earlier rule's denial back.
    Allow,
    /// Fails the build, unless a later rule allows.
    Deny,
    /// Puts another source in its place.
    Convert {
        /// The other source; may name groups of the selector as `$1`. Empty for the selector's own identifier.
        identifier: String,
        /// Attributes to set.
        attrs: BTreeMap<String, String>,
    },
}

/// Which sources a rule is about. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// What the identifier is compared with; an equal identifier matches whatever the kind.
    pub identifier: String,
    /// How.
    pub kind: MatchKind,
    /// Conditions on attributes.
    pub constraints: Vec<Constraint>,
}

/// How an identifier is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchKind {
    /// `*` stands for anything.
    Wildcard,
    /// As it is.
    Exact,
    /// A regular expression.
    Regex,
}

/// A condition on an attribute; one that is missing is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// Name of the attribute.
    pub key: String,
    /// What it is compared with.
    pub value: String,
    /// How.
    pub condition: Condition,
}

/// How an attribute is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Matches a regular expression.
    Matches,
}

/// What a client's own policy says of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may be used.
    Allow,
    /// It may not, for these reasons.
    Deny(Vec<String>),
    /// Another is put in its place, and judged in turn.
    Convert(SourceOp),
    /// Nothing yet: the policy wants to know more of it.
    Ask(Inquiry),
}

/// What a policy wants to know of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inquiry {
    /// The source; no other than the one that is judged.
    pub source: SourceOp,
    /// For which platform; `None` is the daemon's.
    pub platform: Option<Platform>,
    /// How it is to be found out.
    pub wishes: Vec<Wish>,
}

/// A particular of an inquiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Ask the registry, also where the image is here.
    Pull,
    /// An image's digest is enough.
    DigestOnly,
    /// A git reference's objects as well.
    GitObjects,
}
