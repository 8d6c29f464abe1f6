//! Derivation of cache keys, byte for byte as BuildKit v0.33 derives them: the sha256 of what Go's `encoding/json` makes
//! of an operation. It decides keys only, never what runs.

mod exec;
mod file;
mod gojson;
mod parts;
mod source;
mod stack;
#[cfg(test)]
mod tests;

pub use exec::{exec, exec_parts};
pub use file::{file, file_parts};
pub use source::{Git, Http, Local, git, http, image, local, source};
pub use stack::{build, diff, merge, passthrough};

use shipway_model::Digest;

/// Digest of a choice of paths, in the order given: how a selector stands in a link.
#[must_use]
pub fn selector<'a>(paths: impl IntoIterator<Item = &'a str>) -> Digest {
    let paths: Vec<&str> = paths.into_iter().collect();
    Digest::of(paths.join("\0"))
}
