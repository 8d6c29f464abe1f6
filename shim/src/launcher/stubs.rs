//! Remembers which mount points a step's root lacks, and removes those that were created for it and are still empty. It
//! never removes what a step has filled.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Timespec, Timestamps, fstat, statat, unlinkat, utimensat};
use rustix::io::Errno;
use shipway_step::MountStubs;

use super::paths::{Resolved, open_parent};

/// Paths (link-free, relative to the root) that do not exist before a step, children before parents.
#[derive(Debug, Default)]
pub(crate) struct Stubs(Vec<PathBuf>);

impl Stubs {
    /// Looks which of the mount points are missing. A path that can't be resolved is left to the mount to complain about.
    pub(crate) fn missing<'p>(
        root: impl AsFd,
        mount_points: impl Iterator<Item = &'p Path>,
        policy: MountStubs,
    ) -> Self {
        let deepest = match policy {
            MountStubs::Keep => return Self::default(),
            MountStubs::Remove => 1,
            MountStubs::RemoveWithParents => usize::MAX,
        };
        let mut missing: Vec<PathBuf> = mount_points
            .filter_map(|point| Resolved::new(root.as_fd(), point).ok())
            .flat_map(|resolved| resolved.missing().into_iter().take(deepest))
            .collect();
        missing.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        missing.dedup();
        Self(missing)
    }

    /// Removes those that exist and are empty, and puts their parents' times back.
    pub(crate) fn remove(&self, root: &OwnedFd) -> io::Result<()> {
        self.0
            .iter()
            .try_for_each(|path| remove_if_empty(root, path))
    }
}

fn remove_if_empty(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let Ok((parent, name)) = open_parent(root, path) else {
        return Ok(());
    };
    let Ok(stat) = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return Ok(());
    };
    let flags = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => AtFlags::REMOVEDIR,
        FileType::RegularFile if stat.st_size == 0 => AtFlags::empty(),
        _ => return Ok(()),
    };
    let before = fstat(&parent)?;
    match unlinkat(&parent, name, flags) {
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ROFS) => return Ok(()),
        other => other?,
    }
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: before.st_atime,
            tv_nsec: nanoseconds(before.st_atime_nsec),
        },
        last_modification: Timespec {
            tv_sec: before.st_mtime,
            tv_nsec: nanoseconds(before.st_mtime_nsec),
        },
    };
    // The parent is open as a path only, so it is named by its own `.`.
    Ok(utimensat(&parent, ".", &times, AtFlags::empty())?)
}

fn nanoseconds(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{Mode, OFlags, open};

    use super::super::paths::PointKind;
    use super::*;

    #[test]
    fn only_stubs_that_are_still_empty_are_removed() {
        let path = std::env::temp_dir().join(format!("shipway-stubs-{}", std::process::id()));
        fs::create_dir_all(path.join("etc")).unwrap();
        let root = open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let points = ["/etc/hosts", "/run/secrets/one", "/deep/er/dir", "/etc"].map(Path::new);
        let stubs = Stubs::missing(&root, points.into_iter(), MountStubs::RemoveWithParents);
        for (point, kind) in
            points
                .into_iter()
                .zip([PointKind::File, PointKind::File, PointKind::Directory])
        {
            Resolved::new(&root, point)
                .unwrap()
                .ensure(&root, kind)
                .unwrap();
        }
        fs::write(path.join("deep/er/kept"), "x").unwrap();
        let before = fs::metadata(path.join("etc")).unwrap().modified().unwrap();
        stubs.remove(&root).unwrap();
        assert_eq!(
            fs::metadata(path.join("etc")).unwrap().modified().unwrap(),
            before
        );
        assert!(!path.join("etc/hosts").exists() && !path.join("run").exists());
        assert!(path.join("deep/er/kept").exists() && !path.join("deep/er/dir").exists());
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn without_parents_only_the_mount_point_goes() {
        let path = std::env::temp_dir().join(format!("shipway-stubs-leaf-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let root = open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let point = Path::new("/a/b");
        let stubs = Stubs::missing(&root, [point].into_iter(), MountStubs::Remove);
        Resolved::new(&root, point)
            .unwrap()
            .ensure(&root, PointKind::Directory)
            .unwrap();
        stubs.remove(&root).unwrap();
        assert!(path.join("a").is_dir() && !path.join("a/b").exists());
        fs::remove_dir_all(&path).unwrap();
    }
}
