//! Decides how a tree made of layer directories is described. It never mounts one.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::InvalidStep;
use crate::step::absolute;

/// A directory tree made of layer directories.
///
/// | `lower` | `writable` | mounted as |
/// | --- | --- | --- |
/// | none | some | the upper directory itself, bound; `work` is not used |
/// | one | none | that directory, bound read-only |
/// | several | none | a read-only overlay |
/// | some | some | an overlay with `index=off,redirect_dir=off,metacopy=off,volatile` |
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerStack {
    /// Lower directories, **topmost first** (the order of overlay's `lowerdir`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lower: Vec<PathBuf>,
    /// Where writes go; none makes the tree read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable: Option<Writable>,
}

/// The two directories of a writable overlay, on one filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writable {
    /// The upper directory: what the step writes.
    pub upper: PathBuf,
    /// overlay's work directory. With `volatile` the kernel marks it, so give every mount a fresh one.
    pub work: PathBuf,
}

impl LayerStack {
    /// A read-only tree; `lower` is topmost first.
    pub fn read_only<P: Into<PathBuf>>(lower: impl IntoIterator<Item = P>) -> Self {
        Self {
            lower: lower.into_iter().map(Into::into).collect(),
            writable: None,
        }
    }

    /// A tree whose writes go to `upper`; `lower` is topmost first.
    pub fn writable<P: Into<PathBuf>>(
        lower: impl IntoIterator<Item = P>,
        upper: impl Into<PathBuf>,
        work: impl Into<PathBuf>,
    ) -> Self {
        let writable = Writable {
            upper: upper.into(),
            work: work.into(),
        };
        Self {
            writable: Some(writable),
            ..Self::read_only(lower)
        }
    }

    pub(crate) fn check(&self, what: &'static str) -> Result<(), InvalidStep> {
        if self.lower.is_empty() && self.writable.is_none() {
            return Err(InvalidStep::NoLayers(what));
        }
        let own = self
            .writable
            .iter()
            .flat_map(|writable| [&writable.upper, &writable.work]);
        self.lower
            .iter()
            .chain(own)
            .try_for_each(|path| absolute(what, path))
    }
}
