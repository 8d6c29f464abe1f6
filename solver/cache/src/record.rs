//! What is remembered about a result, and one change to a store. It decides nothing.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::link::{KeyId, KeyParts, LinkRow};

/// Name of a stored result, given by whoever stores results.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResultId(Arc<str>);

impl ResultId {
    /// A result of this name.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ResultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One result of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: KeyId,
    /// The result.
    pub result: ResultId,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What is told about a result when it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultInfo {
    /// When it was made.
    pub created_at: Timestamp,
    /// What made it, for people.
    pub description: String,
    /// Kind, such as `regular` or `source.local`; as disk usage reports it.
    pub kind: String,
}

/// A recorded result with its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultUsage {
    /// The result.
    pub result: ResultId,
    /// What was told when it was recorded.
    pub info: ResultInfo,
    /// When a build last took it.
    pub last_used_at: Option<Timestamp>,
    /// How many builds took it.
    pub usage_count: u64,
}

/// One change, applied as a whole.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// Results of keys.
    pub results: Vec<(KeyId, ResultId, ResultInfo)>,
    /// Links to add.
    pub links: Vec<LinkRow>,
    /// What keys were made of.
    pub parts: Vec<(KeyId, KeyParts)>,
}
