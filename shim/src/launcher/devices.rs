//! Fills a step's /dev. It never decides which devices a step may open: that is the cgroup's matter.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::stat::makedev;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{FileType, Gid, Mode, Uid, chownat, mknodat, symlinkat};
use rustix::io::Errno;

use super::error::{Attempt as _, StartError};
use super::mounts::{Bind, bind_descriptor};
use super::paths::{PointKind, Resolved, open_inside};

/// Character devices that every step has: name, major, minor.
const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Makes the default devices and links in the root's `/dev`, and the specification's own devices.
pub(crate) fn fill(root: &OwnedFd, devices: &[LinuxDevice]) -> Result<(), StartError> {
    let dev = open_inside(root, Path::new("/dev")).attempt(|| "opening /dev".to_owned())?;
    for (name, major, minor) in DEVICES {
        node(
            &dev,
            Path::new(name),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            (major, minor),
        )
        .or_else(|error| bind_from_host(root, &Path::new("/dev").join(name), error))
        .attempt(|| format!("making /dev/{name}"))?;
    }
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
        .attempt(|| format!("linking /dev/{name}"))?;
    }
    devices
        .iter()
        .try_for_each(|device| own_device(root, device))
}

fn own_device(root: &OwnedFd, device: &LinuxDevice) -> Result<(), StartError> {
    let path = device.path();
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::A => FileType::CharacterDevice,
    };
    let numbers = (device.major().unsigned_abs(), device.minor().unsigned_abs());
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666));
    let make = || -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let parent = Resolved::new(root, parent)?.ensure(root, PointKind::Directory)?;
        let name = Path::new(path.file_name().ok_or(Errno::INVAL)?);
        node(&parent, name, kind, mode, numbers)?;
        let (uid, gid) = (
            device.uid().map(Uid::from_raw),
            device.gid().map(Gid::from_raw),
        );
        Ok(chownat(
            &parent,
            name,
            uid,
            gid,
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )?)
    };
    make().attempt(|| format!("making device {}", path.display()))
}

fn node(
    place: impl AsFd,
    name: &Path,
    kind: FileType,
    mode: Mode,
    (major, minor): (u64, u64),
) -> io::Result<()> {
    match mknodat(place, name, kind, mode, makedev(major, minor)) {
        Err(Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}

/// In a user namespace nodes can't be made, but the host's can be bound.
fn bind_from_host(root: &OwnedFd, path: &Path, error: io::Error) -> io::Result<()> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return Err(error);
    }
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let source = rustix::fs::open(path, flags, Mode::empty())?;
    bind_descriptor(root, path, &source, 0, Bind::Single)
}
