//! A stack as one read-only directory that system calls can work on: a detached overlay mount, reachable only through
//! its descriptor and gone with it. It is never attached anywhere, so nothing can be left behind. On kernels before
//! 6.5, which take all layers in one option, a mount point is needed for a moment.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, unmount,
};

use crate::error::{Context, Error, Result};
use crate::layer::Layer;
use crate::stack::Stack;

/// Options without which a layer is not complete in itself.
const OPTIONS: [(&str, &str); 3] = [
    ("index", "off"),
    ("redirect_dir", "off"),
    ("metacopy", "off"),
];

/// An open view.
#[derive(Debug)]
pub struct View {
    fd: OwnedFd,
}

impl View {
    /// Of a stack. One layer is its directory itself, none an empty directory.
    pub fn of(stack: &Stack) -> Result<Self> {
        let fd = match stack.layers() {
            [] => empty(),
            [layer] => layer.open_dir(Path::new("")),
            layers => match detached(layers.iter().rev().map(AsRef::as_ref)) {
                Err(Errno::INVAL | Errno::NOSYS) => attached(stack),
                other => other.on("mounting overlay", Path::new("")),
            },
        };
        Ok(Self { fd: fd? })
    }

    /// A path that leads into it, for this process and as long as it is open.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        fd_path(&self.fd)
    }
}

impl AsFd for View {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn fd_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

fn empty() -> Result<OwnedFd> {
    let new = || {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        mounted(&context)
    };
    new().on("mounting tmpfs", Path::new(""))
}

/// Mounts layers, top first.
fn detached<'a>(layers: impl Iterator<Item = &'a Layer>) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    fsconfig_set_flag(&context, "ro")?;
    for (key, value) in OPTIONS {
        fsconfig_set_string(&context, key, value)?;
    }
    for layer in layers {
        fsconfig_set_string(&context, "lowerdir+", fd_path(layer))?;
    }
    mounted(&context)
}

/// The root of what is described, mounted read-only where nobody else sees it.
fn mounted(context: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    fsconfig_create(context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    let mount = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    fs::openat(
        &mount,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// The same through a mount point that is given up at once.
fn attached(stack: &Stack) -> Result<OwnedFd> {
    let point = tempfile::tempdir().map_err(|e| Error::io("mkdir", std::env::temp_dir(), e))?;
    let lower: Vec<_> = stack
        .layers()
        .iter()
        .rev()
        .map(|l| fd_path(l).display().to_string())
        .collect();
    let options = OPTIONS
        .map(|(key, value)| format!("{key}={value}"))
        .join(",");
    let data = format!("lowerdir={},{options}", lower.join(":"));
    let data = std::ffi::CString::new(data)
        .map_err(|e| Error::io("mounting overlay", point.path(), std::io::Error::from(e)))?;
    mount(
        "overlay",
        point.path(),
        "overlay",
        MountFlags::RDONLY,
        data.as_c_str(),
    )
    .map_err(|e| Error::io("mounting overlay", point.path(), e))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = fs::open(point.path(), flags, Mode::empty());
    unmount(point.path(), UnmountFlags::DETACH)
        .map_err(|e| Error::io("unmounting overlay", point.path(), e))?;
    opened.map_err(|e| Error::io("open", point.path(), e))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs as std_fs;

    /// A writable detached overlay: what everything here is compared with.
    pub(crate) fn writable(lower: &Stack, upper: &Path, work: &Path) -> OwnedFd {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        for (key, value) in OPTIONS {
            fsconfig_set_string(&context, key, value).unwrap();
        }
        for layer in lower.layers().iter().rev() {
            fsconfig_set_string(&context, "lowerdir+", fd_path(layer)).unwrap();
        }
        fsconfig_set_string(&context, "upperdir", upper).unwrap();
        fsconfig_set_string(&context, "workdir", work).unwrap();
        fsconfig_create(&context).unwrap();
        fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
        .unwrap()
    }

    #[test]
    fn a_stack_of_250_layers_is_one_directory() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let layers: Vec<_> = (0..250).map(|n| temp.path().join(n.to_string())).collect();
        for (n, layer) in layers.iter().enumerate() {
            std_fs::create_dir_all(layer.join("d")).unwrap();
            std_fs::write(layer.join(format!("d/{n}")), "").unwrap();
            std_fs::write(layer.join("same"), n.to_string()).unwrap();
        }
        let stack = Stack::open(&layers).unwrap();
        let view = View::of(&stack).unwrap();
        assert_eq!(
            std_fs::read_dir(view.path().join("d")).unwrap().count(),
            250
        );
        assert_eq!(
            std_fs::read_to_string(view.path().join("same")).unwrap(),
            "249"
        );
        let merged = stack.lookup(&stack.root(), "d".as_ref()).unwrap().unwrap();
        assert_eq!(stack.list(&merged.dir.unwrap()).unwrap().len(), 250);
    }

    #[test]
    fn a_momentary_mount_point_gives_the_same() {
        let temp = tempfile::tempdir_in(".").unwrap();
        for layer in ["a", "b"] {
            std_fs::create_dir(temp.path().join(layer)).unwrap();
            std_fs::write(temp.path().join(layer).join(layer), layer).unwrap();
        }
        let stack = Stack::open(["a", "b"].map(|layer| temp.path().join(layer))).unwrap();
        let view = View {
            fd: attached(&stack).unwrap(),
        };
        assert_eq!(std_fs::read_dir(view.path()).unwrap().count(), 2);
    }

    #[test]
    fn no_layer_is_an_empty_directory() {
        let view = View::of(&Stack::default()).unwrap();
        assert_eq!(std_fs::read_dir(view.path()).unwrap().count(), 0);
        assert!(std_fs::write(view.path().join("f"), "").is_err());
    }
}
