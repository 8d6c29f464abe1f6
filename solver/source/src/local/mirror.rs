//! What earlier transfers of client directories left here: stacks of layers and the list of entries that they show. A new
//! transfer takes over every file that any of them has already, and lands as a small layer on the stack that it is most
//! like, or as a fresh layer of links. Layers are never changed, so transfers need no locks among each other.
//!
//! Layout of the directory: `<sha256 of the key>.<number>.mirror`, postcard of [`Saved`]; the newest number is the latest.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shipway_backend::session::FileStat;
use shipway_backend::{BackendError, ErrorKind, LayerId};
use shipway_layers::{Layer, Layers, Snapshot};
use shipway_model::Digest;

use super::sink::MirrorSink;

/// Mirrors that are kept; the least recently written go first.
const KEPT: usize = 16;
/// Mirrors that one transfer looks for files in.
const CONSULTED: usize = 3;

/// The mirrors of this machine.
pub struct Mirrors {
    dir: PathBuf,
    next: AtomicU64,
}

/// An entry as it was sent; what tells one version of a file from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sent {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mod_time: i64,
    pub(super) link_name: String,
    pub(super) dev: (i64, i64),
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

impl From<FileStat> for Sent {
    fn from(stat: FileStat) -> Self {
        Self {
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            size: stat.size,
            mod_time: stat.mod_time,
            link_name: stat.link_name,
            dev: (stat.dev_major, stat.dev_minor),
            xattrs: stat.xattrs.into_iter().collect(),
        }
    }
}

/// A mirror on disk.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    /// Name of the client's directory.
    pub(super) name: String,
    /// Layers, lowest first.
    pub(super) layers: Vec<LayerId>,
    /// What they show, in the order of the transfer.
    pub(super) entries: Vec<(String, Sent)>,
}

/// A mirror that a transfer consults.
pub(super) struct Mirror {
    pub(super) snapshot: Snapshot,
    pub(super) entries: HashMap<String, Sent>,
}

/// Where a transfer leaves its result.
pub(super) type Outcome = Arc<Mutex<Option<Snapshot>>>;

impl Mirrors {
    /// Mirrors described in a directory.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        let number = |path: &PathBuf| number_of(path).unwrap_or(0);
        let highest = files(&dir).iter().map(number).max().unwrap_or(0);
        Self {
            dir,
            next: AtomicU64::new(highest + 1),
        }
    }

    /// Takes a transfer of the directory `name`; `key` names the mirror that it is most likely to resemble.
    pub(super) fn sink(
        self: &Arc<Self>,
        layers: &Layers,
        name: &str,
        key: &str,
    ) -> (MirrorSink, Outcome) {
        let outcome = Outcome::default();
        let mirrors = self.consulted(layers, name, key);
        let sink = MirrorSink::new(
            Arc::clone(self),
            layers.clone(),
            (name.to_owned(), key.to_owned()),
            mirrors,
            Arc::clone(&outcome),
        );
        (sink, outcome)
    }

    /// Layers that mirrors need.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerId> {
        files(&self.dir)
            .iter()
            .filter_map(|file| read(file))
            .flat_map(|m| m.layers)
            .collect()
    }

    /// Forgets every mirror; the caller releases the layers.
    pub fn forget(&self) {
        for file in files(&self.dir) {
            remove(&file);
        }
    }

    /// The mirror of this key first, then others of the same name, newest first.
    fn consulted(&self, layers: &Layers, name: &str, key: &str) -> Vec<Mirror> {
        let own = stem(key);
        let mut files = files(&self.dir);
        files.sort_by_key(|file| {
            let is_own = file
                .file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(&own));
            (
                std::cmp::Reverse(is_own),
                std::cmp::Reverse(number_of(file)),
            )
        });
        let opened = files.iter().filter_map(|file| {
            let saved = read(file).filter(|saved| saved.name == name)?;
            let opened: Result<Vec<Layer>, _> =
                saved.layers.iter().map(|&id| layers.open(id)).collect();
            let Ok(stack) = opened else {
                remove(file);
                return None;
            };
            Some(Mirror {
                snapshot: Snapshot::new(stack),
                entries: saved.entries.into_iter().collect(),
            })
        });
        opened.take(CONSULTED).collect()
    }

    /// Remembers a mirror, in the place of the one that `key` had.
    pub(super) fn save(&self, key: &str, saved: &Saved) -> Result<(), BackendError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let own = stem(key);
        let file = self.dir.join(format!("{own}.{number}.mirror"));
        let failed = |cause: Box<dyn std::error::Error + Send + Sync>| {
            let attempt = format!(
                "recording the mirror of {} in {}",
                saved.name,
                file.display()
            );
            BackendError::caused(ErrorKind::Other, attempt, cause)
        };
        let bytes = postcard::to_stdvec(saved).map_err(|e| failed(e.into()))?;
        let fresh = file.with_extension("new");
        std::fs::write(&fresh, bytes)
            .and_then(|()| std::fs::rename(&fresh, &file))
            .map_err(|e| failed(e.into()))?;
        let mut others = files(&self.dir);
        others.retain(|other| *other != file);
        others.sort_by_key(|other| std::cmp::Reverse(number_of(other)));
        for (place, other) in others.iter().enumerate() {
            let replaced = other
                .file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(&own));
            if replaced || place + 1 >= KEPT {
                remove(other);
            }
        }
        Ok(())
    }
}

fn stem(key: &str) -> String {
    Digest::of(key).hex()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .map(|dir| dir.flatten().collect())
        .unwrap_or_default();
    let entries: Vec<std::fs::DirEntry> = entries;
    let paths = entries.into_iter().map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == "mirror"))
        .collect()
}

fn number_of(file: &Path) -> Option<u64> {
    file.file_stem()?.to_str()?.rsplit_once('.')?.1.parse().ok()
}

fn read(file: &Path) -> Option<Saved> {
    postcard::from_bytes(&std::fs::read(file).ok()?).ok()
}

fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(file = %file.display(), %error, "forgetting a context mirror");
    }
}
