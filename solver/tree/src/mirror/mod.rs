//! A copy of a client's directory, kept between builds, so that only what changed crosses the wire. On disk:
//!
//! ```text
//! MIRROR/tree/     the files; they are only ever replaced by others, never changed, and may be hard-linked from here
//! MIRROR/stage/    files of a transfer that has not ended
//! MIRROR/index     what the tree holds; absent while the tree is being changed
//! ```
//!
//! A tree without an index is thrown away: it may be half changed. It never talks to a client.

mod apply;
mod entry;
mod plan;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

pub use entry::{Entry, FileStat, order};
pub use plan::{Plan, Request, Summary};

use crate::error::{Context, Error, Result};
use crate::hash::LayerIndex;
use crate::hash::index::{Builder, NodeKind, Sum};
use crate::stat::Kind;

const TREE: &str = "tree";
const STAGE: &str = "stage";
const INDEX: &str = "index";

/// A mirror at rest.
#[derive(Debug, Clone)]
pub struct Mirror {
    dir: PathBuf,
    /// In the order of a walk.
    entries: Vec<Entry>,
    index: Arc<LayerIndex>,
}

impl Mirror {
    /// Opens the mirror in a directory, or begins an empty one there.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let entries = if let Some(entries) = store::read(&dir.join(INDEX))? {
            entries
        } else {
            clear(&dir.join(TREE))?;
            Vec::new()
        };
        for part in [TREE, STAGE] {
            std::fs::create_dir_all(dir.join(part)).map_err(|e| Error::io("mkdir", &dir, e))?;
        }
        let index = Arc::new(index_of(&entries));
        Ok(Self {
            dir,
            entries,
            index,
        })
    }

    /// The directory that holds the files: a layer for everything that reads trees.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.dir.join(TREE)
    }

    /// What the tree holds, with all digests taken.
    #[must_use]
    pub fn index(&self) -> &Arc<LayerIndex> {
        &self.index
    }

    /// The entries, in the order of a walk.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn stage(&self) -> PathBuf {
        self.dir.join(STAGE)
    }

    /// Says on disk that the tree is not what the index says.
    fn begin_change(&self) -> Result<()> {
        match std::fs::remove_file(self.dir.join(INDEX)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).on("remove", Path::new(INDEX))
            }
            _ => Ok(()),
        }
    }

    /// Says on disk what the tree is now.
    fn end_change(&mut self, entries: Vec<Entry>) -> Result<()> {
        store::write(&self.dir, INDEX, &entries)?;
        self.set_entries(entries);
        Ok(())
    }

    fn set_entries(&mut self, entries: Vec<Entry>) {
        self.index = Arc::new(index_of(&entries));
        self.entries = entries;
    }
}

fn clear(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// The checksum index of a mirror. BuildKit gives the root of a client's directory the digest of nothing.
fn index_of(entries: &[Entry]) -> LayerIndex {
    let mut builder = Builder::default();
    let root = builder.open(b"", false);
    builder.set(root, Some(Sum::from(Sha256::digest(b""))));
    let mut open: Vec<&str> = Vec::new();
    for Entry { stat, sum } in entries {
        let (dir, name) = stat.path.rsplit_once('/').unwrap_or(("", &stat.path));
        while open.last().is_some_and(|last| *last != dir) {
            open.pop();
            builder.close();
        }
        match stat.kind() {
            Kind::Dir => {
                let id = builder.open(name.as_bytes(), false);
                builder.set(id, Some(*sum));
                open.push(&stat.path);
            }
            Kind::Symlink => {
                builder.leaf(
                    name.as_bytes(),
                    NodeKind::Symlink,
                    stat.link.as_bytes(),
                    Some(*sum),
                );
            }
            _ => builder.leaf(name.as_bytes(), NodeKind::Leaf, b"", Some(*sum)),
        }
    }
    builder.finish()
}

#[cfg(test)]
mod tests;
