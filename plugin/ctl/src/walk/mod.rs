//! Lists a directory for the daemon: which entries it gets, in which order, and what is said about each. Reads no file's
//! content and speaks no protocol.
//!
//! Directories are read by several threads ahead of the one that emits entries in order:
//!
//! ```text
//! emitter (depth first, sorted) ── waits for ──► slot of each directory ◄── fills ── readers (stack of directories)
//! ```

mod entry;
mod filter;
mod follow;
mod order;

use std::path::Path;

pub(crate) use entry::{is_dir, is_regular, is_symlink, permissions};
pub(crate) use filter::Filter;
use shipway_proto::fsutil::Stat;

/// Why a directory can't be listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalkError {
    /// A pattern that can't be understood.
    #[error("invalid {list}")]
    Pattern {
        /// Which list it is in.
        list: &'static str,
        /// What is wrong with it.
        source: shipway_patterns::InvalidPattern,
    },
    /// Something below the directory can't be read.
    #[error("{doing} {}", path.display())]
    Read {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: std::path::PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// What a caller does with each entry. Returning false ends the walk.
pub(crate) trait Visit {
    /// The next entry, parents before their children, siblings sorted by name.
    fn entry(&mut self, stat: Stat) -> bool;
}

/// Walks `root` and hands over every entry that `filter` lets through. Blocks; reads on as many threads as there are
/// processors.
pub(crate) fn walk(root: &Path, filter: &Filter, visitor: &mut dyn Visit) -> Result<(), WalkError> {
    order::walk(root, filter, visitor)
}
