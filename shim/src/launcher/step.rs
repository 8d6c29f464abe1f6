//! What happens in the child that becomes a build step: its mounts, its root, its names. It runs in new namespaces, and
//! ends by becoming the step's program or by saying why not.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::{Linux, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};
use shipway_step::{LayerStack, MountAttribute, MountSource, StepMount, StepSpec};

use super::error::{Attempt as _, StartError};
use super::identity::{Identity, home_of};
use super::mounts::{Bind, bind_descriptor, mount_entry};
use super::paths::{PointKind, Resolved, descriptor_path, open_inside, read_inside};
use super::places::Places;
use super::program::{Program, Streams};
use super::seccomp::Filter;
use super::tree::{attach, mount_layers};
use super::wire::Order;
use crate::cgroup::Group;
use crate::sys::{SingleThreaded, bring_loopback_up, set_mount_attributes};

/// Everything that a step's child takes over from the launcher.
#[derive(Debug)]
pub(crate) struct StepChild<'a> {
    pub(crate) step: &'a StepSpec,
    /// The root's layers, mounted but attached nowhere.
    pub(crate) root: &'a OwnedFd,
    pub(crate) filter: Option<Rc<Filter>>,
    pub(crate) streams: Streams,
    pub(crate) places: &'a Places,
    pub(crate) set_up: &'a OwnedFd,
    pub(crate) order: &'a Order,
    pub(crate) proof: SingleThreaded,
    /// The step's own group, if it has to join it itself (v1).
    pub(crate) group: Option<&'a Group>,
}

impl StepChild<'_> {
    /// Becomes the step. Returns only to say why that was not possible.
    pub(crate) fn run(self) -> StartError {
        match self.prepare() {
            Err(error) => error,
            Ok((identity, home)) => Program {
                process: self
                    .step
                    .spec
                    .process()
                    .as_ref()
                    .expect("a checked step has a process"),
                identity,
                home,
                streams: self.streams,
                null: &self.places.null,
                filter: self.filter,
                set_up: self.set_up,
                size: self.order.size,
                console: true,
            }
            .become_it(),
        }
    }

    fn prepare(&self) -> Result<(Identity, String), StartError> {
        let spec = &self.step.spec;
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        if let Some(group) = self.group {
            group
                .join(self.proof)
                .attempt(|| "joining the step's control group".to_owned())?;
        }
        let empty = Linux::default();
        let linux = spec.linux().as_ref().unwrap_or(&empty);
        enter_network(linux)?;
        if let Some(name) = spec.hostname() {
            rustix::system::sethostname(name.as_bytes())
                .attempt(|| format!("setting hostname {name}"))?;
        }
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .attempt(|| "leaving mount propagation".to_owned())?;
        attach(self.root, &self.places.root).attempt(|| "attaching the root".to_owned())?;
        self.mount_all(linux)?;
        let (identity, home) = self.identity()?;
        if self.step.create_cwd {
            let cwd = spec
                .process()
                .as_ref()
                .expect("a checked step has a process")
                .cwd();
            create_directory(self.root, cwd, &identity)?;
        }
        self.protect(linux)?;
        self.enter_root()?;
        Ok((identity, home))
    }

    fn mount_all(&self, linux: &Linux) -> Result<(), StartError> {
        let entries = self.step.spec.mounts().as_deref().unwrap_or_default();
        for entry in entries {
            mount_entry(self.root, entry, &self.places.cgroups)?;
        }
        let dev_is_ours = entries.iter().any(|entry| {
            entry.destination() == Path::new("/dev") && entry.typ().as_deref() == Some("tmpfs")
        });
        if dev_is_ours {
            super::devices::fill(self.root, linux.devices().as_deref().unwrap_or_default())?;
        }
        self.step.mounts.iter().try_for_each(|wanted| {
            self.mount_one(wanted)
                .attempt(|| format!("mounting {}", wanted.destination.display()))
        })
    }

    fn mount_one(&self, wanted: &StepMount) -> io::Result<()> {
        let attributes = wanted.attributes.iter().map(|attribute| match attribute {
            MountAttribute::ReadOnly => libc::MOUNT_ATTR_RDONLY,
            MountAttribute::NoSuid => libc::MOUNT_ATTR_NOSUID,
            MountAttribute::NoDev => libc::MOUNT_ATTR_NODEV,
            MountAttribute::NoExec => libc::MOUNT_ATTR_NOEXEC,
        });
        let attributes = attributes.fold(0, |all, one| all | one);
        let target = &wanted.destination;
        match &wanted.source {
            MountSource::Path { path, subpath } => {
                let source = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                let source = part_of(source, subpath.as_deref())?;
                bind_descriptor(self.root, target, &source, attributes, Bind::Recursive)
            }
            MountSource::Layers { layers, subpath } => {
                self.mount_part(layers, subpath.as_deref(), target, attributes)
            }
            MountSource::Tmpfs { size, mode } => {
                let place =
                    Resolved::new(self.root, target)?.ensure(self.root, PointKind::Directory)?;
                let size = size.map(|size| format!(",size={size}")).unwrap_or_default();
                let data = std::ffi::CString::new(format!("mode={mode:o}{size}"))?;
                mount(
                    "tmpfs",
                    descriptor_path(&place),
                    "tmpfs",
                    MountFlags::empty(),
                    data.as_c_str(),
                )?;
                restrict(self.root, target, attributes)
            }
        }
    }

    /// Part of a tree can be mounted only once the whole is attached somewhere.
    fn mount_part(
        &self,
        layers: &LayerStack,
        subpath: Option<&Path>,
        target: &Path,
        attributes: u64,
    ) -> io::Result<()> {
        let part = &self.places.part;
        let tree = mount_layers(layers, part)?;
        attach(&tree, part)?;
        let bound = part_of(tree, subpath).and_then(|source| {
            bind_descriptor(self.root, target, &source, attributes, Bind::Single)
        });
        unmount(part, UnmountFlags::DETACH)?;
        bound
    }

    fn identity(&self) -> Result<(Identity, String), StartError> {
        let read = |path: &str| {
            read_inside(self.root, Path::new(path))
                .attempt(|| format!("reading {path}"))
                .map(Option::unwrap_or_default)
        };
        let passwd = read("/etc/passwd")?;
        let identity = if let Some(user) = &self.step.user {
            Identity::lookup(user, &passwd, &read("/etc/group")?)?
        } else {
            let user = self
                .step
                .spec
                .process()
                .as_ref()
                .expect("a checked step has a process")
                .user();
            let additional = user.additional_gids().as_deref().unwrap_or_default();
            Identity::numeric(user.uid(), user.gid(), additional)
        };
        let home = home_of(identity.uid, &passwd).to_owned();
        Ok((identity, home))
    }

    /// Hides and write-protects paths, sets kernel parameters, and makes the root read-only where asked.
    fn protect(&self, linux: &Linux) -> Result<(), StartError> {
        for (name, value) in linux.sysctl().iter().flatten() {
            let file = Path::new("/proc/sys").join(name.replace('.', "/"));
            write_inside(self.root, &file, value).attempt(|| format!("setting {name}"))?;
        }
        for path in linux.readonly_paths().iter().flatten() {
            let Ok(source) = open_inside(self.root, Path::new(path)) else {
                continue;
            };
            bind_descriptor(
                self.root,
                Path::new(path),
                &source,
                libc::MOUNT_ATTR_RDONLY,
                Bind::Recursive,
            )
            .attempt(|| format!("write-protecting {path}"))?;
        }
        for path in linux.masked_paths().iter().flatten() {
            self.mask(Path::new(path))
                .attempt(|| format!("hiding {path}"))?;
        }
        let read_only = self
            .step
            .spec
            .root()
            .as_ref()
            .and_then(oci_spec::runtime::Root::readonly);
        if read_only.unwrap_or(false) {
            restrict(self.root, Path::new("/"), libc::MOUNT_ATTR_RDONLY)
                .attempt(|| "making the root read-only".to_owned())?;
        }
        Ok(())
    }

    fn mask(&self, path: &Path) -> io::Result<()> {
        let Ok(hidden) = open_inside(self.root, path) else {
            return Ok(());
        };
        let cover = match super::paths::kind_of(&hidden)? {
            PointKind::Directory => self.places.empty.clone(),
            PointKind::File => PathBuf::from("/dev/null"),
        };
        Ok(mount_bind(cover, descriptor_path(&hidden))?)
    }

    fn enter_root(&self) -> Result<(), StartError> {
        let entering = || "entering the root".to_owned();
        let place = open(
            &self.places.root,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .attempt(entering)?;
        fchdir(&place).attempt(entering)?;
        // With both paths the same the old root ends up on top of the new one, and is taken off again.
        pivot_root(".", ".").attempt(entering)?;
        unmount(".", UnmountFlags::DETACH).attempt(entering)?;
        chdir("/").attempt(entering)
    }
}

/// Enters the network namespace that the specification names; a new one has its loopback device brought up.
fn enter_network(linux: &Linux) -> Result<(), StartError> {
    for namespace in linux.namespaces().iter().flatten() {
        match (namespace.typ(), namespace.path()) {
            (LinuxNamespaceType::Network, Some(path)) => {
                let entering = || format!("entering network namespace {}", path.display());
                let descriptor = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .attempt(entering)?;
                setns(descriptor, CloneFlags::CLONE_NEWNET).attempt(entering)?;
            }
            (LinuxNamespaceType::Network, None) => {
                bring_loopback_up().attempt(|| "bringing the loopback device up".to_owned())?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn part_of(whole: OwnedFd, subpath: Option<&Path>) -> io::Result<OwnedFd> {
    match subpath {
        None => Ok(whole),
        Some(part) => open_inside(&whole, part),
    }
}

fn restrict(root: &OwnedFd, target: &Path, attributes: u64) -> io::Result<()> {
    if attributes == 0 {
        return Ok(());
    }
    let mounted = open_inside(root, target)?;
    set_mount_attributes(std::os::fd::AsFd::as_fd(&mounted), attributes, false)
}

fn write_inside(root: &OwnedFd, path: &Path, value: &str) -> io::Result<()> {
    let file = open_inside(root, path)?;
    fs::write(descriptor_path(&file), value)
}

/// Creates a missing directory and its missing parents, owned by the identity.
fn create_directory(root: &OwnedFd, path: &Path, owner: &Identity) -> Result<(), StartError> {
    let creating = || format!("creating working directory {}", path.display());
    let resolved = Resolved::new(root, path).attempt(creating)?;
    for missing in resolved.missing().iter().rev() {
        let (parent, name) = super::paths::open_parent(root, missing).attempt(creating)?;
        let place: PathBuf = descriptor_path(&parent).join(name);
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&place)
            .attempt(creating)?;
        chown(&place, Some(owner.uid), Some(owner.gid)).attempt(creating)?;
    }
    Ok(())
}
