//! Facts about the machine and the daemon's own directories: instance name, private directory in memory, worker id.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use shipway_containerd::{remove_cgroups, unmount_below};
use shipway_model::Digest;

/// Type of a filesystem in memory, as statfs reports it.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// A name for this daemon among others on the same containerd: the same as long as its root directory is.
pub(crate) fn instance(root: &Path) -> String {
    Digest::of(root.as_os_str().as_encoded_bytes()).hex()[..10].to_owned()
}

/// An empty private directory, in memory where the machine has one: secrets of steps pass through it.
pub(crate) fn private_dir(root: &Path, instance: &str) -> io::Result<PathBuf> {
    let in_memory = |dir: &&&str| rustix::fs::statfs(**dir).is_ok_and(|s| s.f_type == TMPFS_MAGIC);
    let base = ["/run", "/dev/shm"]
        .iter()
        .find(in_memory)
        .map_or(root, |dir| Path::new(*dir));
    let dir = base.join(format!("shipway-{instance}"));
    remove_private_dir(&dir)?;
    fs::DirBuilder::new().mode(0o700).create(&dir)?;
    Ok(dir)
}

/// Fields that the operator adds to provenance: those of every JSON object in the directory's `.json` files, in the order of
/// their names. No directory is no fields.
pub(crate) fn provenance_environment(dir: &Path) -> Result<Map<String, Value>, String> {
    let failed = |path: &Path, why: String| format!("reading {}: {why}", path.display());
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(e) => return Err(failed(dir, e.to_string())),
    };
    let paths: Result<Vec<PathBuf>, io::Error> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect();
    let mut paths = paths.map_err(|e| failed(dir, e.to_string()))?;
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    paths.sort();
    let mut fields = Map::new();
    for path in paths {
        let bytes = fs::read(&path).map_err(|e| failed(&path, e.to_string()))?;
        let read: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|e| failed(&path, e.to_string()))?;
        fields.extend(read);
    }
    Ok(fields)
}

/// Removes it, where there is one.
pub(crate) fn remove_private_dir(dir: &Path) -> io::Result<()> {
    // A daemon that was killed leaves the roots of its steps mounted here where it mounts them itself. What is below
    // such a mount belongs to a layer or a cache mount, and must be out of reach when the directory is removed.
    unmount_below(dir)?;
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The worker's id, made once and kept in a file.
pub(crate) fn worker_id(root: &Path) -> io::Result<String> {
    let file = root.join("workerid");
    match fs::read_to_string(&file) {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        _ => {
            let id = uuid::Uuid::new_v4().simple().to_string();
            fs::write(&file, &id)?;
            Ok(id)
        }
    }
}

/// Removes the cgroups of builds that an earlier daemon of this instance did not see to their end, in every hierarchy.
pub(crate) fn sweep_cgroups(instance: &str) {
    remove_cgroups(Path::new("/shipway"), &format!("shipway-{instance}-"));
}

/// The cache's file in the root directory.
pub(crate) const CACHE: &str = "cache.db";

/// Removes the cache if it was made for another layer store: it names layers by ids that mean other layers here.
pub(crate) fn drop_foreign_cache(root: &Path, store: u64) -> io::Result<()> {
    let (note, cache) = (root.join("cache.store"), root.join(CACHE));
    let own = format!("{store:016x}");
    let known = fs::read_to_string(&note).unwrap_or_default();
    if known.trim() == own {
        return Ok(());
    }
    if cache.exists() && !known.is_empty() {
        tracing::warn!("the layer store is another one than before: starting with an empty cache");
        fs::remove_file(&cache)?;
    }
    fs::write(note, own)
}

/// Lets this process open as many files as it may at most: streams, pipes and layers of many builds add up to more than
/// the 1024 that a shell gives.
pub(crate) fn raise_file_limit() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current, maximum })?)
}

/// Number of a group of this machine.
pub(crate) fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    let line = groups
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// Name of the machine.
pub(crate) fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_goes_with_its_layer_store() {
        let root = tempfile::tempdir().unwrap();
        let cache = root.path().join(CACHE);
        // The first store's cache may be older than the note about it.
        for (store, stays) in [(1, true), (1, true), (2, false), (2, true), (1, false)] {
            fs::write(&cache, "").unwrap();
            drop_foreign_cache(root.path(), store).unwrap();
            assert_eq!(cache.exists(), stays, "{store}");
        }
    }

    #[test]
    fn an_instance_is_named_by_its_root() {
        assert_eq!(instance(Path::new("/a")), instance(Path::new("/a")));
        assert_ne!(instance(Path::new("/a")), instance(Path::new("/b")));
    }

    #[test]
    fn provenance_takes_the_fields_of_every_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            provenance_environment(&dir.path().join("none"))
                .unwrap()
                .is_empty()
        );
        fs::write(dir.path().join("a.json"), r#"{"x": 1, "y": 1}"#).unwrap();
        fs::write(dir.path().join("b.json"), r#"{"y": 2}"#).unwrap();
        fs::write(dir.path().join("c.txt"), "other").unwrap();
        let fields = provenance_environment(dir.path()).unwrap();
        assert_eq!(Value::Object(fields), serde_json::json!({"x": 1, "y": 2}));
        fs::write(dir.path().join("d.json"), "[]").unwrap();
        assert!(provenance_environment(dir.path()).is_err());
    }
}
