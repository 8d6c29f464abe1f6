//! A cache that a build brings along or leaves behind, as a client names it. What its options mean is decided elsewhere.

use std::collections::BTreeMap;

/// A cache to import or export.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct CacheEntry {
    /// `registry`, `local`, `inline`, …
    pub kind: String,
    /// Its options.
    pub attrs: BTreeMap<String, String>,
}
