//! Directories of cache mounts: found by key, shared, private or one at a time, kept between builds. Contents are written in
//! place by steps, so no file in them ever shares its inode with a layer.
//!
//! Layout: `<root>/<sha256 of the key, 24 digits>.<number>/{fs/,info.json}`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shipway_model::op::CacheSharing;
use shipway_model::{Digest, Failure};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// The cache mounts of this machine.
pub struct CacheMounts {
    root: PathBuf,
    state: Mutex<HashMap<String, Slot>>,
}

/// What is known of the directories of one key.
#[derive(Default)]
struct Slot {
    /// Steps in each directory, by number.
    users: HashMap<u64, usize>,
    turn: Arc<AsyncMutex<()>>,
}

/// What is remembered of one directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheMountInfo {
    /// The key: id, and what it starts from.
    pub key: String,
    /// Text to show.
    pub description: String,
    /// When it was made.
    pub created: Timestamp,
    /// When a step last used it.
    pub last_used: Timestamp,
    /// How many steps used it.
    pub uses: u64,
}

/// A step's hold on a directory.
pub struct CacheMountUse {
    mounts: Arc<CacheMounts>,
    stem: String,
    number: u64,
    /// The key that it was entered by.
    pub key: String,
    /// The directory.
    pub dir: PathBuf,
    /// True where nobody has used it: the caller fills it.
    pub fresh: bool,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl CacheMounts {
    /// Cache mounts below a directory.
    #[must_use]
    pub fn new(root: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            root,
            state: Mutex::default(),
        })
    }

    /// Takes a directory for a step; with [`CacheSharing::Locked`] waits for its turn, first come, first served.
    pub async fn enter(
        self: &Arc<Self>,
        key: &str,
        sharing: CacheSharing,
        description: &str,
    ) -> Result<CacheMountUse, Failure> {
        let stem = Digest::of(key).hex()[..24].to_owned();
        let turn = if sharing == CacheSharing::Locked {
            let turn = Arc::clone(&self.state.lock().entry(stem.clone()).or_default().turn);
            Some(turn.lock_owned().await)
        } else {
            None
        };
        let number = self.choose(&stem, sharing);
        let home = self.root.join(format!("{stem}.{number}"));
        let dir = home.join("fs");
        let used = CacheMountUse {
            mounts: Arc::clone(self),
            key: key.to_owned(),
            fresh: !dir.exists(),
            stem,
            number,
            dir,
            _turn: turn,
        };
        used.record(&home, key, description)?;
        Ok(used)
    }

    /// Removes the directories of an id, whatever they started from, that no step uses now.
    pub fn clear(&self, id: &str) -> Result<(), Failure> {
        for (path, info, busy) in self.list() {
            let base = info.key.strip_prefix(id);
            let named = base.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
            if named && !busy {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Every directory: its path, what is remembered of it, and whether a step uses it now.
    #[must_use]
    pub fn list(&self) -> Vec<(PathBuf, CacheMountInfo, bool)> {
        let entries = std::fs::read_dir(&self.root).map(|d| d.flatten().collect());
        let entries: Vec<std::fs::DirEntry> = entries.unwrap_or_default();
        let state = self.state.lock();
        let listed = entries.into_iter().filter_map(|entry| {
            let info = read_info(&entry.path())?;
            let name = entry.file_name().into_string().ok()?;
            let (stem, number) = name.rsplit_once('.')?;
            let number = number.parse().ok()?;
            let busy = state
                .get(stem)
                .is_some_and(|slot| slot.users.contains_key(&number));
            Some((entry.path(), info, busy))
        });
        listed.collect()
    }

    /// Removes a directory that [`CacheMounts::list`] gave, unless a step uses it.
    pub fn remove(&self, path: &Path) -> Result<bool, Failure> {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Ok(false);
        };
        let Some((stem, number)) = name.rsplit_once('.') else {
            return Ok(false);
        };
        let state = self.state.lock();
        let number: u64 = number.parse().unwrap_or(u64::MAX);
        if state
            .get(stem)
            .is_some_and(|slot| slot.users.contains_key(&number))
        {
            return Ok(false);
        }
        remove(&self.root.join(name))?;
        Ok(true)
    }

    fn choose(&self, stem: &str, sharing: CacheSharing) -> u64 {
        let mut state = self.state.lock();
        let slot = state.entry(stem.to_owned()).or_default();
        let known = numbers(&self.root, stem);
        let idle = known.iter().copied().find(|n| !slot.users.contains_key(n));
        let first = known.first().copied().unwrap_or(0);
        let number = match sharing {
            CacheSharing::Shared | CacheSharing::Locked => first,
            CacheSharing::Private => idle.unwrap_or_else(|| {
                let highest = known.iter().chain(slot.users.keys()).max();
                highest.map_or(0, |n| n + 1)
            }),
        };
        *slot.users.entry(number).or_default() += 1;
        number
    }

    fn leave(&self, stem: &str, number: u64) {
        let mut state = self.state.lock();
        let Some(slot) = state.get_mut(stem) else {
            return;
        };
        if let Some(users) = slot.users.get_mut(&number) {
            *users -= 1;
            if *users == 0 {
                slot.users.remove(&number);
            }
        }
    }
}

impl CacheMountUse {
    fn record(&self, home: &Path, key: &str, description: &str) -> Result<(), Failure> {
        let now = Timestamp::now();
        let mut info = read_info(home).unwrap_or_else(|| CacheMountInfo {
            key: key.to_owned(),
            description: description.to_owned(),
            created: now,
            last_used: now,
            uses: 0,
        });
        info.last_used = now;
        info.uses += 1;
        let text = serde_json::to_vec(&info).map_err(|e| Failure::from_error(&e))?;
        std::fs::create_dir_all(&self.dir)
            .and_then(|()| std::fs::write(home.join("info.json"), text))
            .map_err(|e| Failure::from_error(&e).context(format!("making cache mount {key}")))
    }
}

impl Drop for CacheMountUse {
    fn drop(&mut self) {
        self.mounts.leave(&self.stem, self.number);
    }
}

fn read_info(home: &Path) -> Option<CacheMountInfo> {
    serde_json::from_slice(&std::fs::read(home.join("info.json")).ok()?).ok()
}

fn remove(home: &Path) -> Result<(), Failure> {
    std::fs::remove_dir_all(home)
        .map_err(|e| Failure::from_error(&e).context(format!("removing {}", home.display())))
}

fn numbers(root: &Path, stem: &str) -> Vec<u64> {
    let entries = std::fs::read_dir(root)
        .map(|d| d.flatten().collect())
        .unwrap_or_default();
    let entries: Vec<std::fs::DirEntry> = entries;
    let mut numbers: Vec<u64> = entries
        .iter()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix(stem)?
                .strip_prefix('.')?
                .parse()
                .ok()
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shared_steps_share_and_private_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = CacheMounts::new(dir.path().to_owned());
        let a = mounts.enter("k", CacheSharing::Shared, "").await.unwrap();
        let b = mounts.enter("k", CacheSharing::Shared, "").await.unwrap();
        assert_eq!(a.dir, b.dir);
        assert!(a.fresh && !b.fresh);
        let c = mounts.enter("k", CacheSharing::Private, "").await.unwrap();
        assert_ne!(a.dir, c.dir);
        let kept = c.dir.clone();
        drop((a, b, c));
        assert_eq!(mounts.list().len(), 2);
        mounts.clear("k").unwrap();
        assert!(!kept.exists());
    }

    #[tokio::test]
    async fn a_locked_directory_has_one_user_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = CacheMounts::new(dir.path().to_owned());
        let first = mounts.enter("k", CacheSharing::Locked, "").await.unwrap();
        let second = mounts.enter("k", CacheSharing::Locked, "");
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert!(!second.await.unwrap().fresh);
    }
}
