//! What earlier transfers of client directories left here: stacks of layers and the list of entries that they show. A new
//! transfer takes over every file that any of them has already, and lands as a small layer on the stack that it is most
//! like, or as a fresh layer of links. Layers are never changed, so transfers need no locks among each other.
//!
//! Layout of the directory: `<16 digits of the sha256 of the name>-<sha256 of the key>.<number>.mirror`, postcard of
//! [`Saved`]; the newest number is the latest.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{self, AtomicU64};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shipway_backend::session::{FileStat, in_transfer_order};
use shipway_backend::{BackendError, ErrorKind, LayerId};
use shipway_layers::{Layer, Layers, Snapshot};
use shipway_model::Digest;

use super::sink::MirrorSink;

/// Mirrors that are kept; the least recently written go first.
const KEPT: usize = 16;
/// Mirrors that one transfer looks for files in.
pub(super) const CONSULTED: usize = 3;

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
    pub(super) file: PathBuf,
    /// It is the one of the transfer's own key.
    pub(super) own: bool,
    pub(super) snapshot: Snapshot,
    /// In the order of transfers: by components of the paths.
    entries: Vec<(String, Sent)>,
    /// Where the next path is expected.
    next: usize,
}

impl Mirror {
    /// Reads the mirror in a file for a transfer of the directory `name` with `key`; `None` for one that is of no more use.
    pub(super) fn open(layers: &Layers, file: PathBuf, (name, key): (&str, &str)) -> Option<Self> {
        let saved = read(&file)?;
        let opened: Result<Vec<Layer>, _> =
            saved.layers.iter().map(|&id| layers.open(id)).collect();
        let Ok(stack) = opened else {
            remove(&file);
            return None;
        };
        Some(Self {
            own: begins_with(&file, &stem(name, key)),
            file,
            snapshot: Snapshot::new(stack),
            entries: saved.entries,
            next: 0,
        })
    }

    /// What a path was sent as. Fastest for one path after the other in the order of a transfer.
    pub(super) fn get(&mut self, path: &str) -> Option<&Sent> {
        let expected = self.entries.get(self.next);
        let at = if expected.is_some_and(|(known, _)| known == path) {
            self.next
        } else {
            let found = self
                .entries
                .binary_search_by(|(p, _)| in_transfer_order(p, path));
            found.ok()?
        };
        self.next = at + 1;
        Some(&self.entries[at].1)
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it shows a hard link.
    pub(super) fn has_hard_links(&self) -> bool {
        self.entries.iter().any(|(_, sent)| sent.is_hard_link())
    }

    /// All paths, in the order of transfers.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(path, _)| path.as_str())
    }
}

/// How a transfer ended.
pub(super) enum Landing {
    /// What was sent is this.
    As(Snapshot),
    /// Several calls may have parted a hard link: one call is to send it all.
    Unsure,
}

/// Where a transfer leaves its result.
pub(super) type Outcome = Arc<Mutex<Option<Landing>>>;

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
        let sink = MirrorSink::new(
            Arc::clone(self),
            layers.clone(),
            (name.to_owned(), key.to_owned()),
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

    /// Files of mirrors to consult: that of this key first, then others of the same name, newest first.
    pub(super) fn to_consult(&self, name: &str, key: &str) -> VecDeque<PathBuf> {
        let (of_name, own) = (name_stem(name), stem(name, key));
        let mut files = files(&self.dir);
        files.retain(|file| begins_with(file, &of_name));
        files.sort_by_key(|file| Reverse((begins_with(file, &own), number_of(file))));
        files.into()
    }

    /// Makes a mirror that a transfer has found to be as it was the latest.
    pub(super) fn renew(&self, file: &Path) {
        let number = self.next.fetch_add(1, atomic::Ordering::Relaxed);
        let name = file.file_name().map(OsStr::to_string_lossy);
        let renewed = name.as_deref().and_then(|name| name.split_once('.'));
        if let Some((stem, _)) = renewed
            && let Err(error) = std::fs::rename(file, self.file(stem, number))
        {
            tracing::debug!(file = %file.display(), %error, "renewing a context mirror");
        }
    }

    fn file(&self, stem: &str, number: u64) -> PathBuf {
        self.dir.join(format!("{stem}.{number}.mirror"))
    }

    /// Remembers a mirror, in the place of the one that `key` had.
    pub(super) fn save(&self, key: &str, saved: &Saved) -> Result<(), BackendError> {
        let number = self.next.fetch_add(1, atomic::Ordering::Relaxed);
        let own = stem(&saved.name, key);
        let file = self.file(&own, number);
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
        others.sort_by_key(|other| Reverse(number_of(other)));
        for (place, other) in others.iter().enumerate() {
            if begins_with(other, &own) || place + 1 >= KEPT {
                remove(other);
            }
        }
        Ok(())
    }
}

/// What the files of all mirrors of a name begin with.
fn name_stem(name: &str) -> String {
    Digest::of(name).hex()[..16].to_owned() + "-"
}

/// What the files of the mirrors of a key begin with.
fn stem(name: &str, key: &str) -> String {
    name_stem(name) + &Digest::of(key).hex()
}

fn begins_with(file: &Path, stem: &str) -> bool {
    let name = file.file_name();
    name.is_some_and(|name| name.as_encoded_bytes().starts_with(stem.as_bytes()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(size: u64) -> Sent {
        FileStat {
            size,
            ..FileStat::default()
        }
        .into()
    }

    #[test]
    fn a_path_is_found_in_whatever_order_it_is_asked_for() {
        let paths = ["a", "a/b", "a/b/c", "a-b", "a0", "é"];
        assert!(paths.is_sorted_by(|one, other| in_transfer_order(one, other).is_lt()));
        let entries = (0..).map(sent).zip(paths);
        let mut mirror = Mirror {
            file: PathBuf::new(),
            own: true,
            snapshot: Snapshot::new(Vec::new()),
            entries: entries
                .map(|(sent, path)| (path.to_owned(), sent))
                .collect(),
            next: 0,
        };
        for at in [0, 1, 2, 3, 4, 5, 0, 4, 2, 3, 5, 5] {
            let found = mirror.get(paths[at]).map(|sent| sent.size);
            assert_eq!(found, Some(at as u64));
            assert_eq!(mirror.get("a/bb"), None);
        }
    }

    #[test]
    fn mirrors_are_consulted_own_first_and_newest_first_and_only_of_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let mirrors = Mirrors::new(dir.path().to_owned());
        let save = |name: &str, key: &str| {
            let saved = Saved {
                name: name.into(),
                layers: Vec::new(),
                entries: Vec::new(),
            };
            mirrors.save(key, &saved).unwrap();
        };
        save("context", "own");
        save("context", "older");
        save("context", "newer");
        save("dockerfile", "own");
        let keys = || -> Vec<String> {
            let files = mirrors.to_consult("context", "own");
            let key = |file: PathBuf| {
                let of = |key| begins_with(&file, &stem("context", key));
                let known = ["own", "older", "newer"].into_iter().find(|key| of(key));
                known.unwrap_or("another").to_owned()
            };
            files.into_iter().map(key).collect()
        };
        assert_eq!(keys(), ["own", "newer", "older"]);
        let older = mirrors.to_consult("context", "older").remove(0).unwrap();
        mirrors.renew(&older);
        assert_eq!(keys(), ["own", "older", "newer"]);
    }
}
