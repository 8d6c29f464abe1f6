//! Makes the mounts of an OCI specification inside a root. It never decides which there are.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
};

use super::error::{Attempt as _, StartError};
use super::paths::{PointKind, Resolved, descriptor_path, kind_of};
use crate::sys::set_mount_attributes;

/// How far a bind goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bind {
    /// The one mount.
    Single,
    /// It and all below.
    Recursive,
}

/// What an option string says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MountOptions {
    flags: u64,
    attributes: u64,
    propagation: Option<MountPropagationFlags>,
    bind: Option<Bind>,
    data: Vec<String>,
}

impl MountOptions {
    /// Sorts an OCI mount's options into flags and what the filesystem itself reads.
    pub(crate) fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            parsed.take(option);
        }
        parsed
    }

    fn take(&mut self, option: &str) {
        match option {
            "bind" => self.bind = self.bind.or(Some(Bind::Single)),
            "rbind" => self.bind = Some(Bind::Recursive),
            "ro" => self.set(libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
            "nosuid" => self.set(libc::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
            "nodev" => self.set(libc::MS_NODEV, libc::MOUNT_ATTR_NODEV),
            "noexec" => self.set(libc::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
            "noatime" => self.set(libc::MS_NOATIME, libc::MOUNT_ATTR_NOATIME),
            "nodiratime" => self.set(libc::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
            "strictatime" => self.set(libc::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
            "relatime" => self.set(libc::MS_RELATIME, 0),
            "sync" => self.set(libc::MS_SYNCHRONOUS, 0),
            "dirsync" => self.set(libc::MS_DIRSYNC, 0),
            "rw" | "suid" | "dev" | "exec" | "async" | "atime" | "diratime" | "defaults" => {}
            "private" | "rprivate" => self.propagation = Some(MountPropagationFlags::PRIVATE),
            "slave" | "rslave" => self.propagation = Some(MountPropagationFlags::DOWNSTREAM),
            "shared" | "rshared" => self.propagation = Some(MountPropagationFlags::SHARED),
            "unbindable" | "runbindable" => {
                self.propagation = Some(MountPropagationFlags::UNBINDABLE);
            }
            other => self.data.push(other.to_owned()),
        }
    }

    fn set(&mut self, flag: libc::c_ulong, attribute: u64) {
        self.flags |= flag;
        self.attributes |= attribute;
    }
}

/// Makes one mount of the specification inside `root`. `cgroups` is where the launcher keeps the tree that steps see.
pub(crate) fn mount_entry(root: &OwnedFd, entry: &Mount, cgroups: &Path) -> Result<(), StartError> {
    let target = entry.destination();
    let kind = entry.typ().as_deref().unwrap_or("bind");
    let options = MountOptions::parse(entry.options().as_deref().unwrap_or_default());
    let source = entry
        .source()
        .clone()
        .unwrap_or_else(|| PathBuf::from(kind));
    let made = match options.bind {
        _ if kind == "cgroup" || kind == "cgroup2" => {
            bind(root, target, cgroups, &options, Bind::Recursive)
        }
        Some(depth) => bind(root, target, &source, &options, depth),
        None if kind == "bind" => bind(root, target, &source, &options, Bind::Single),
        None => mount_new(root, target, kind, &source, &options),
    };
    made.attempt(|| format!("mounting {kind} at {}", target.display()))
}

fn mount_new(
    root: &OwnedFd,
    target: &Path,
    kind: &str,
    source: &Path,
    options: &MountOptions,
) -> io::Result<()> {
    let place = Resolved::new(root, target)?.ensure(root, PointKind::Directory)?;
    let data = CString::new(options.data.join(","))?;
    let flags = MountFlags::from_bits_retain(
        u32::try_from(options.flags).expect("mount flags have 32 bits"),
    );
    mount(
        source,
        descriptor_path(&place),
        kind,
        flags,
        data.as_c_str(),
    )?;
    propagate(root, target, options)
}

fn bind(
    root: &OwnedFd,
    target: &Path,
    source: &Path,
    options: &MountOptions,
    depth: Bind,
) -> io::Result<()> {
    let source = open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    bind_descriptor(root, target, &source, options.attributes, depth)?;
    propagate(root, target, options)
}

/// Binds what `source` names to a path in `root` and restricts it by `MOUNT_ATTR_*` bits.
pub(crate) fn bind_descriptor(
    root: &OwnedFd,
    target: &Path,
    source: &OwnedFd,
    attributes: u64,
    depth: Bind,
) -> io::Result<()> {
    let place = Resolved::new(root, target)?.ensure(root, kind_of(source)?)?;
    let (from, to) = (descriptor_path(source), descriptor_path(&place));
    match depth {
        Bind::Single => mount_bind(from, to)?,
        Bind::Recursive => mount_bind_recursive(from, to)?,
    }
    if attributes == 0 {
        return Ok(());
    }
    let mounted = super::paths::open_inside(root, target)?;
    set_mount_attributes(mounted.as_fd(), attributes, depth == Bind::Recursive)
}

fn propagate(root: &OwnedFd, target: &Path, options: &MountOptions) -> io::Result<()> {
    let Some(propagation) = options.propagation else {
        return Ok(());
    };
    let mounted = super::paths::open_inside(root, target)?;
    Ok(mount_change(descriptor_path(&mounted), propagation)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_told_from_the_filesystems_own_options() {
        let given = ["nosuid", "noexec", "ro", "mode=755", "size=65536k", "rw"].map(str::to_owned);
        let options = MountOptions::parse(&given);
        assert_eq!(
            options.flags,
            libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_RDONLY
        );
        assert_eq!(options.data, ["mode=755", "size=65536k"]);
        assert_eq!(options.bind, None);
    }

    #[test]
    fn a_recursive_bind_is_both() {
        let options = MountOptions::parse(&["rbind".to_owned(), "rprivate".to_owned()]);
        assert_eq!(options.bind, Some(Bind::Recursive));
        assert_eq!(options.propagation, Some(MountPropagationFlags::PRIVATE));
    }
}
