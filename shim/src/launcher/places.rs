//! The launcher's own corner of its mount namespace, which steps mount from. It is never seen outside.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount,
};

use super::error::{Attempt as _, StartError};
use crate::cgroup::{Group, Hierarchies};

/// Directories on a small tmpfs over the bundle's `rootfs`.
#[derive(Debug)]
pub(crate) struct Places {
    /// Where a step's root is attached, in the step's own mount namespace.
    pub(crate) root: PathBuf,
    /// Where a tree is attached for as long as a part of it is taken.
    pub(crate) part: PathBuf,
    /// What steps see as `/sys/fs/cgroup`.
    pub(crate) cgroups: PathBuf,
    /// An empty directory that nobody can write to.
    pub(crate) empty: PathBuf,
    /// The host's `/dev/null`.
    pub(crate) null: OwnedFd,
}

impl Places {
    /// Cuts this process's mounts off from the host's, in the direction outwards, and sets the corner up. The caller is
    /// in a new mount namespace and a new PID namespace.
    pub(crate) fn set_up(bundle: &Path) -> Result<Self, StartError> {
        mount_change(
            "/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
        .attempt(|| "making mounts slaves of the host's".to_owned())?;
        let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", "/proc", "proc", plain, None).attempt(|| "mounting proc".to_owned())?;
        let corner = bundle.join("rootfs");
        fs::create_dir_all(&corner).attempt(|| format!("creating {}", corner.display()))?;
        mount(
            "shipway",
            &corner,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            c"mode=700,size=1m",
        )
        .attempt(|| format!("mounting a tmpfs at {}", corner.display()))?;
        let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .attempt(|| "opening /dev/null".to_owned())?;
        let name = |name: &str| corner.join(name);
        let places = Self {
            root: name("root"),
            part: name("part"),
            cgroups: name("cgroups"),
            empty: name("empty"),
            null,
        };
        for directory in [&places.root, &places.part, &places.cgroups, &places.empty] {
            fs::create_dir(directory).attempt(|| format!("creating {}", directory.display()))?;
        }
        seal(&places.empty, plain)?;
        Ok(places)
    }

    /// Lays out the control groups as a step sees them: the group that it is in, read-only.
    pub(crate) fn show_cgroups(
        &self,
        hierarchies: &Hierarchies,
        group: &Group,
    ) -> Result<(), StartError> {
        let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let Hierarchies::Legacy(trees) = hierarchies else {
            let showing = || "showing the control group".to_owned();
            let directory = group.directory("").attempt_some(showing)?;
            mount_bind(directory, &self.cgroups).attempt(showing)?;
            return mount_remount(
                &self.cgroups,
                MountFlags::BIND | MountFlags::RDONLY | plain,
                "",
            )
            .attempt(showing);
        };
        for (controllers, directory) in group.directories() {
            let tree = trees.iter().find(|tree| &tree.controllers == controllers);
            let name = tree
                .and_then(|tree| tree.mount_point.file_name())
                .unwrap_or_default();
            let place = self.cgroups.join(name);
            let showing = || format!("showing control group {}", directory.display());
            fs::create_dir(&place).attempt(showing)?;
            mount_bind(directory, &place).attempt(showing)?;
            mount_remount(&place, MountFlags::BIND | MountFlags::RDONLY | plain, "")
                .attempt(showing)?;
        }
        seal(&self.cgroups, plain)
    }
}

/// Makes a directory a read-only mount of its own, with the mounts in it.
fn seal(directory: &Path, flags: MountFlags) -> Result<(), StartError> {
    let sealing = || format!("sealing {}", directory.display());
    rustix::mount::mount_bind_recursive(directory, directory).attempt(sealing)?;
    mount_remount(directory, MountFlags::BIND | MountFlags::RDONLY | flags, "").attempt(sealing)
}

trait AttemptSome<T> {
    fn attempt_some(self, what: impl FnOnce() -> String) -> Result<T, StartError>;
}

impl<T> AttemptSome<T> for Option<T> {
    fn attempt_some(self, what: impl FnOnce() -> String) -> Result<T, StartError> {
        self.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))
            .attempt(what)
    }
}
