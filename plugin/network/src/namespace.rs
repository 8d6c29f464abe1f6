//! Network namespaces as mounts in one directory, which is a mount of its own so that later mounts in it reach the
//! mount namespaces of running builds. It never configures what is in a namespace.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

/// Makes `dir` the place of namespaces.
pub(crate) fn open_place(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    mount_bind(dir, dir)?;
    mount_change(dir, MountPropagationFlags::SHARED)?;
    Ok(())
}

/// Takes the place and every namespace in it away.
pub(crate) fn close_place(dir: &Path) -> io::Result<()> {
    let mut points = points_below(dir)?;
    points.reverse();
    for point in points {
        unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Ok(())
}

/// Makes a namespace and mounts it on `at`, which must not exist.
pub(crate) fn create(at: &Path) -> io::Result<()> {
    File::create_new(at)?;
    let target = at.to_owned();
    // The thread ends in its new namespace, which the mount keeps.
    let thread = std::thread::Builder::new()
        .name("network".to_owned())
        .spawn(move || -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(mount_bind("/proc/thread-self/ns/net", &target)?)
        })?;
    let made = thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread died")));
    if made.is_err() {
        fs::remove_file(at)?;
    }
    made
}

/// Takes a namespace away, as far as it is there.
pub(crate) fn remove(at: &Path) -> io::Result<()> {
    match unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) | Ok(()) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Mount points at and below `dir`, in the order of their mounting.
fn points_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    // Paths are written with blanks in octal; ours have what the configuration's root has.
    let written = dir.display().to_string().replace('\\', "\\134");
    let written = written.replace(' ', "\\040").replace('\t', "\\011");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let below = points.filter(|point| {
        point
            .strip_prefix(&written)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    let path = |point: &str| {
        let rest = point[written.len()..].trim_start_matches('/');
        if rest.is_empty() {
            dir.to_owned()
        } else {
            dir.join(rest)
        }
    };
    Ok(below.map(path).collect())
}
