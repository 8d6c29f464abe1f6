//! Mounts layer directories as one tree, attached nowhere yet. It never decides where the tree goes.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount,
    move_mount, open_tree, unmount,
};
use shipway_step::{LayerStack, Writable};

use crate::sys::set_mount_attributes;

/// Without these an upper directory is no complete layer.
const PLAIN_LAYERS: [(&str, &str); 3] = [
    ("index", "off"),
    ("redirect_dir", "off"),
    ("metacopy", "off"),
];

/// Mounts the layers and gives the mount's root. `scratch` is a directory of this mount namespace that only the caller
/// uses; kernels without overlay's new options need it for a moment.
pub(crate) fn mount_layers(layers: &LayerStack, scratch: &Path) -> io::Result<OwnedFd> {
    match (layers.lower.as_slice(), &layers.writable) {
        ([], Some(writable)) => clone_tree(&writable.upper),
        ([only], None) => {
            let tree = clone_tree(only)?;
            set_mount_attributes(
                std::os::fd::AsFd::as_fd(&tree),
                libc::MOUNT_ATTR_RDONLY,
                false,
            )?;
            Ok(tree)
        }
        _ => match overlay(layers) {
            Ok(tree) => Ok(tree),
            Err(_) => overlay_by_mount(layers, scratch),
        },
    }
}

/// Attaches a detached tree at a path of this mount namespace.
pub(crate) fn attach(tree: &OwnedFd, place: &Path) -> io::Result<()> {
    Ok(move_mount(
        tree,
        "",
        CWD,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// A detached copy of the mount at a path, which follows links.
fn clone_tree(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

/// Linux 6.7 and newer: one call per layer, so any number of them.
fn overlay(layers: &LayerStack) -> io::Result<OwnedFd> {
    let filesystem = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in PLAIN_LAYERS {
        fsconfig_set_string(&filesystem, key, value)?;
    }
    for lower in &layers.lower {
        fsconfig_set_string(&filesystem, "lowerdir+", lower)?;
    }
    let mut attributes = MountAttrFlags::empty();
    if let Some(Writable { upper, work }) = &layers.writable {
        fsconfig_set_string(&filesystem, "upperdir", upper)?;
        fsconfig_set_string(&filesystem, "workdir", work)?;
        fsconfig_set_flag(&filesystem, "volatile")?;
    } else {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    fsconfig_create(&filesystem)?;
    Ok(fsmount(
        &filesystem,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Older kernels take all layers in one string of at most a page, so the layers are named by descriptor numbers.
fn overlay_by_mount(layers: &LayerStack, scratch: &Path) -> io::Result<OwnedFd> {
    let lowers = layers
        .lower
        .iter()
        .map(|path| open_directory(path))
        .collect::<io::Result<Vec<_>>>()?;
    let names: Vec<String> = lowers
        .iter()
        .map(|lower| lower.as_raw_fd().to_string())
        .collect();
    let mut options = vec![format!("lowerdir={}", names.join(":"))];
    options.extend(PLAIN_LAYERS.map(|(key, value)| format!("{key}={value}")));
    let mut flags = MountFlags::empty();
    let mut kept = Vec::new();
    if let Some(Writable { upper, work }) = &layers.writable {
        let (upper, work) = (open_directory(upper)?, open_directory(work)?);
        options.push(format!("upperdir={}", upper.as_raw_fd()));
        options.push(format!("workdir={}", work.as_raw_fd()));
        options.push("volatile".to_owned());
        kept.extend([upper, work]);
    } else {
        flags |= MountFlags::RDONLY;
    }
    let before = open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    rustix::process::chdir("/proc/self/fd")?;
    let options = std::ffi::CString::new(options.join(","))?;
    let mounted = mount("overlay", scratch, "overlay", flags, options.as_c_str());
    rustix::process::fchdir(&before)?;
    mounted?;
    let tree = clone_tree(scratch);
    unmount(scratch, UnmountFlags::DETACH)?;
    tree
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}
