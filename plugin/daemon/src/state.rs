//! Facts about the machine and the daemon's own directories: instance name, private directory in memory, worker id.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use shipway_containerd::unmount_below;
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

/// Removes the empty cgroups of builds that an earlier daemon of this instance did not see to their end, in every hierarchy.
pub(crate) fn sweep_cgroups(instance: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).map(|dir| dir.flatten().map(|e| e.path()).collect());
    let hierarchies: Vec<PathBuf> = hierarchies.unwrap_or_default();
    let ours = format!("shipway-{instance}-");
    for parent in hierarchies
        .iter()
        .map(|h| h.join("shipway"))
        .chain([root.join("shipway")])
    {
        let Ok(builds) = fs::read_dir(&parent) else {
            continue;
        };
        for build in builds.flatten() {
            if build.file_name().to_string_lossy().starts_with(&ours) {
                remove_cgroup(&build.path());
            }
        }
    }
}

/// Removes a cgroup, children first; one with processes stays, and says so.
fn remove_cgroup(dir: &Path) {
    let children = fs::read_dir(dir).into_iter().flatten().flatten();
    for child in children.filter(|child| child.path().is_dir()) {
        remove_cgroup(&child.path());
    }
    if let Err(error) = fs::remove_dir(dir) {
        tracing::warn!(cgroup = %dir.display(), %error, "removing a build's control group");
    }
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
    fn an_instance_is_named_by_its_root() {
        assert_eq!(instance(Path::new("/a")), instance(Path::new("/a")));
        assert_ne!(instance(Path::new("/a")), instance(Path::new("/b")));
    }
}
