//! What a step finds: its mounted root and the specification that runc gets. Made before the step, undone after it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::unistd::{Gid, Uid, fchownat};
use oci_spec::runtime::{
    LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder, Process, Root,
    RootBuilder, Spec, User, UserBuilder,
};
use shipway_step::identity::Identity;
use shipway_step::{LayerStack, MountAttribute, MountSource, StepMount, StepSpec, VisitSpec};

use super::mounts::{bind_part, mount_stack, open_inside, unmount};
use super::stubs::Stubs;
use super::usage::Usage;

/// Namespaces that are always new.
const OWN: [LinuxNamespaceType; 4] = [
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Uts,
];
/// Larger files of users and groups are cut off.
const ACCOUNTS: u64 = 4 << 20;

/// A step's mounts on this machine.
pub(crate) struct Rootfs {
    root: PathBuf,
    /// In the order of their making.
    mounted: Vec<PathBuf>,
    stubs: Stubs,
    pub(crate) usage: Usage,
}

impl Rootfs {
    /// Mounts what a step needs below `dir`, and says how runc is to start it.
    pub(super) fn prepare(step: &StepSpec, dir: &Path, cgroup: &Path) -> io::Result<(Self, Spec)> {
        let root = dir.join("root");
        let mut rootfs = Self {
            root: root.clone(),
            mounted: Vec::new(),
            stubs: Stubs::default(),
            usage: Usage::of(cgroup),
        };
        // Whatever was mounted before a failure is taken away by the drop.
        rootfs.mount(&step.root, &root)?;
        let mut spec = step.spec.clone();
        let identity = rootfs.identify(step, &mut spec)?;
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for (index, mount) in step.mounts.iter().enumerate() {
            mounts.push(rootfs.mount_for(mount, &dir.join(format!("m{index}")))?);
        }
        let points = mounts.iter().map(|mount| mount.destination().as_path());
        rootfs.stubs = Stubs::missing(&root, points, step.stubs);
        spec.set_mounts(Some(mounts));
        if step.create_cwd
            && let Some(process) = spec.process()
        {
            create_directory(&root, process.cwd(), &identity)?;
        }
        complete(&mut spec, &root, cgroup)?;
        Ok((rootfs, spec))
    }

    fn mount(&mut self, stack: &LayerStack, on: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(on)?;
        mount_stack(stack, on)?;
        self.mounted.push(on.to_owned());
        Ok(())
    }

    /// One of the step's mounts as runc makes it.
    fn mount_for(&mut self, mount: &StepMount, at: &Path) -> io::Result<Mount> {
        let builder = MountBuilder::default().destination(&mount.destination);
        let mut options: Vec<String> = mount
            .attributes
            .iter()
            .map(|a| option(*a).to_owned())
            .collect();
        let builder = match &mount.source {
            MountSource::Tmpfs { size, mode } => {
                options.push(format!("mode={mode:o}"));
                options.extend(size.map(|size| format!("size={size}")));
                builder.typ("tmpfs").source("tmpfs")
            }
            MountSource::Path {
                path,
                subpath: None,
            } => {
                options.push("rbind".to_owned());
                builder.typ("bind").source(path)
            }
            MountSource::Path {
                path,
                subpath: Some(part),
            } => {
                options.push("rbind".to_owned());
                self.show_part(path, part, at)?;
                builder.typ("bind").source(at)
            }
            MountSource::Layers { layers, subpath } => {
                options.push("rbind".to_owned());
                let source = self.mount_layers(layers, subpath.as_deref(), at)?;
                builder.typ("bind").source(source)
            }
        };
        builder.options(options).build().map_err(io::Error::other)
    }

    fn mount_layers(
        &mut self,
        layers: &LayerStack,
        part: Option<&Path>,
        at: &Path,
    ) -> io::Result<PathBuf> {
        let Some(part) = part else {
            self.mount(layers, at)?;
            return Ok(at.to_owned());
        };
        let whole = at.with_extension("whole");
        self.mount(layers, &whole)?;
        self.show_part(&whole, part, at)?;
        Ok(at.to_owned())
    }

    fn show_part(&mut self, tree: &Path, part: &Path, at: &Path) -> io::Result<()> {
        let opened = File::from(open_inside(tree, part)?);
        if opened.metadata()?.is_dir() {
            DirBuilder::new().mode(0o700).create(at)?;
        } else {
            File::create_new(at)?;
        }
        bind_part(tree, part, at)?;
        self.mounted.push(at.to_owned());
        Ok(())
    }

    /// Looks the step's user up in its own root, and puts the numbers into its process.
    fn identify(&self, step: &StepSpec, spec: &mut Spec) -> io::Result<Identity> {
        let process = spec.process_mut().as_mut();
        let process = process.ok_or_else(|| io::Error::other("the step has no process"))?;
        let Some(user) = &step.user else {
            let user = process.user();
            let groups = user.additional_gids().clone().unwrap_or_default();
            return Ok(Identity::numeric(user.uid(), user.gid(), &groups));
        };
        let (identity, user) = look_up(&self.root, user)?;
        process.set_user(user);
        Ok(identity)
    }

    /// Undoes everything: after this the step's directories can be read by others.
    pub(crate) fn undo(mut self) {
        self.take_down();
    }

    fn take_down(&mut self) {
        if self.mounted.is_empty() {
            return;
        }
        if let Err(error) = self.stubs.remove(&self.root) {
            tracing::warn!(%error, "a step's mount points stay");
        }
        for point in std::mem::take(&mut self.mounted).iter().rev() {
            unmount(point);
        }
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        self.take_down();
    }
}

/// A user's numbers, by the files of a root.
fn look_up(root: &Path, user: &str) -> io::Result<(Identity, User)> {
    let (passwd, group) = (account(root, "etc/passwd"), account(root, "etc/group"));
    let identity = Identity::lookup(user, &passwd, &group).map_err(io::Error::other)?;
    let user = UserBuilder::default()
        .uid(identity.uid)
        .gid(identity.gid)
        .additional_gids(identity.groups.clone())
        .build();
    Ok((identity, user.map_err(io::Error::other)?))
}

/// A process that enters a step with this root.
pub(super) fn visitor(root: &Path, visit: VisitSpec) -> io::Result<Process> {
    let mut process = visit.process;
    let (_, user) = look_up(root, &visit.user)?;
    process.set_user(user);
    Ok(process)
}

fn account(root: &Path, path: &str) -> String {
    let read = || -> io::Result<String> {
        // Opened as a path first: what is there may be anything, a pipe too.
        let place = File::from(open_inside(root, Path::new(path))?);
        if !place.metadata()?.is_file() {
            return Ok(String::new());
        }
        let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&place));
        let mut bytes = Vec::new();
        io::Read::read_to_end(
            &mut io::Read::take(File::open(again)?, ACCOUNTS),
            &mut bytes,
        )?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

fn option(attribute: MountAttribute) -> &'static str {
    match attribute {
        MountAttribute::ReadOnly => "ro",
        MountAttribute::NoSuid => "nosuid",
        MountAttribute::NoDev => "nodev",
        MountAttribute::NoExec => "noexec",
    }
}

/// What our own shim does without being told.
fn complete(spec: &mut Spec, root: &Path, cgroup: &Path) -> io::Result<()> {
    let readonly = spec.root().as_ref().and_then(Root::readonly);
    let at = RootBuilder::default()
        .path(root)
        .readonly(readonly.unwrap_or(false))
        .build();
    spec.set_root(Some(at.map_err(io::Error::other)?));
    let mut linux = spec.linux().clone().unwrap_or_default();
    let given = linux.namespaces().clone().unwrap_or_default();
    let mut namespaces: Vec<LinuxNamespace> = Vec::new();
    for kind in OWN {
        let own = LinuxNamespaceBuilder::default().typ(kind).build();
        namespaces.push(own.map_err(io::Error::other)?);
    }
    namespaces.extend(
        given
            .into_iter()
            .filter(|given| !OWN.contains(&given.typ())),
    );
    linux.set_namespaces(Some(namespaces));
    if linux.cgroups_path().is_none() {
        linux.set_cgroups_path(Some(cgroup.to_owned()));
    }
    spec.set_linux(Some(linux));
    Ok(())
}

/// Creates a missing directory and its missing parents inside a root, owned by the step's user.
fn create_directory(root: &Path, path: &Path, owner: &Identity) -> io::Result<()> {
    let mut above = PathBuf::from("/");
    for part in path.components().skip(1) {
        let place = open_inside(root, &above)?;
        above.push(part);
        if open_inside(root, &above).is_ok() {
            continue;
        }
        let at = PathBuf::from(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&place)
        ));
        let new = at.join(part);
        fs::DirBuilder::new().mode(0o755).create(&new)?;
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(nix::fcntl::AT_FDCWD, &new, Some(uid), Some(gid), flags)?;
    }
    Ok(())
}
