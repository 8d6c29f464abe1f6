//! Remembers which mount points a step's root lacks, and removes those that runc made for it and that are still empty.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use shipway_step::MountStubs;

use super::mounts::open_inside;

/// Paths that do not exist before a step.
#[derive(Debug, Default)]
pub(super) struct Stubs(BTreeSet<PathBuf>);

impl Stubs {
    /// Looks which of the mount points are missing.
    pub(super) fn missing<'p>(
        root: &Path,
        points: impl Iterator<Item = &'p Path>,
        policy: MountStubs,
    ) -> Self {
        let depth = match policy {
            MountStubs::Keep => return Self::default(),
            MountStubs::Remove => 1,
            MountStubs::RemoveWithParents => usize::MAX,
        };
        let missing = |point: &'p Path| {
            point
                .ancestors()
                .take_while(|path| path.parent().is_some() && open_inside(root, path).is_err())
                .take(depth)
                .map(Path::to_owned)
        };
        Self(points.flat_map(missing).collect())
    }

    /// Removes those that exist and are empty, children first, and puts their parents' times back.
    pub(super) fn remove(&self, root: &Path) -> io::Result<()> {
        // In a sorted set parents come before their children.
        self.0
            .iter()
            .rev()
            .try_for_each(|path| remove_if_empty(root, path))
    }
}

fn remove_if_empty(root: &Path, path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let Ok(parent) = open_inside(root, parent) else {
        return Ok(());
    };
    let place = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
    let stub = place.join(name);
    let Ok(found) = fs::symlink_metadata(&stub) else {
        return Ok(());
    };
    let before = fs::metadata(&place)?;
    let removed = if found.is_dir() {
        fs::remove_dir(&stub)
    } else if found.is_file() && found.len() == 0 {
        fs::remove_file(&stub)
    } else {
        return Ok(());
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
        other => other?,
    }
    let times = fs::FileTimes::new()
        .set_accessed(before.accessed()?)
        .set_modified(before.modified()?);
    File::open(&place)?.set_times(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stubs_that_are_still_empty_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("etc")).unwrap();
        let points = ["/etc/hosts", "/run/secrets/one", "/deep/er/dir", "/etc"].map(Path::new);
        let policy = MountStubs::RemoveWithParents;
        let stubs = Stubs::missing(root.path(), points.into_iter(), policy);
        fs::create_dir_all(at("run/secrets")).unwrap();
        fs::create_dir_all(at("deep/er/dir")).unwrap();
        for file in ["etc/hosts", "run/secrets/one"] {
            fs::write(at(file), "").unwrap();
        }
        fs::write(at("deep/er/kept"), "x").unwrap();
        let before = fs::metadata(at("etc")).unwrap().modified().unwrap();
        stubs.remove(root.path()).unwrap();
        assert_eq!(fs::metadata(at("etc")).unwrap().modified().unwrap(), before);
        assert!(!at("etc/hosts").exists() && !at("run").exists());
        assert!(at("deep/er/kept").exists() && !at("deep/er/dir").exists());
    }
}
