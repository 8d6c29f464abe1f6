//! What devices add to a step: variables, device nodes, mounts. What a step cannot be given is refused by name. Numbers of a
//! device node that are not written are the host's.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use shipway_model::Failure;
use shipway_model::failure::FailureKind;

use super::files::{ContainerEdits, Mount, Node};

/// What devices add to a step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Edits {
    /// Variables, `NAME=value`; they replace those of equal name.
    pub(crate) env: Vec<String>,
    /// Device nodes.
    pub(crate) nodes: Vec<DeviceNode>,
    /// Directories and files of the host.
    pub(crate) mounts: Vec<HostMount>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceNode {
    /// Where the step finds it.
    pub(crate) path: PathBuf,
    /// `b`, `c`, `u` or `p`.
    pub(crate) kind: String,
    /// Major number.
    pub(crate) major: i64,
    /// Minor number.
    pub(crate) minor: i64,
    /// Permission bits; the host's where not given.
    pub(crate) mode: Option<u32>,
    /// Owner.
    pub(crate) uid: Option<u32>,
    /// Group.
    pub(crate) gid: Option<u32>,
    /// Some of `r`, `w`, `m`.
    pub(crate) access: String,
}

/// A directory or file of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent mount options")]
pub(crate) struct HostMount {
    /// On the host.
    pub(crate) from: PathBuf,
    /// In the step.
    pub(crate) to: PathBuf,
    /// `ro`.
    pub(crate) read_only: bool,
    /// `nosuid`.
    pub(crate) no_suid: bool,
    /// `nodev`.
    pub(crate) no_dev: bool,
    /// `noexec`.
    pub(crate) no_exec: bool,
}

fn refused(device: &str, what: &str) -> Failure {
    let message = format!("CDI device {device:?}: {what} is not supported");
    Failure::of_kind(FailureKind::Unimplemented, message)
}

impl Edits {
    pub(super) fn add(&mut self, device: &str, edits: &ContainerEdits) -> Result<(), Failure> {
        for (present, what) in [
            (!edits.hooks.is_empty(), "hooks"),
            (!edits.net_devices.is_empty(), "netDevices"),
            (edits.intel_rdt.is_some(), "intelRdt"),
            (!edits.additional_gids.is_empty(), "additionalGids"),
        ] {
            if present {
                return Err(refused(device, what));
            }
        }
        self.env.extend(edits.env.iter().cloned());
        for written in &edits.device_nodes {
            self.nodes.push(node(device, written)?);
        }
        for written in &edits.mounts {
            self.mounts.push(mount(device, written)?);
        }
        Ok(())
    }
}

fn node(device: &str, written: &Node) -> Result<DeviceNode, Failure> {
    let (mut kind, mut major, mut minor) = (written.kind.clone(), written.major, written.minor);
    let mut mode = written.file_mode;
    if kind.is_empty() || (major.is_none() && kind != "p") {
        let path = written.host_path.as_ref().unwrap_or(&written.path);
        let host = std::fs::metadata(path).map_err(|e| {
            let attempt = format!("CDI device {device:?}: looking at {}", path.display());
            Failure::from_error(&e).context(attempt)
        })?;
        let found = match host.file_type() {
            of if of.is_block_device() => "b",
            of if of.is_char_device() => "c",
            of if of.is_fifo() => "p",
            _ => {
                let what = format!("{}, which is no device,", path.display());
                return Err(refused(device, &what));
            }
        };
        if kind.is_empty() {
            found.clone_into(&mut kind);
        }
        let number = |of: u32| Some(i64::from(of));
        major = major.or(number(rustix::fs::major(host.rdev())));
        minor = minor.or(number(rustix::fs::minor(host.rdev())));
        mode = mode.or(Some(host.mode() & 0o7777));
    }
    if !matches!(kind.as_str(), "b" | "c" | "u" | "p") {
        return Err(refused(device, &format!("a node of type {kind:?}")));
    }
    let access = match written.permissions.as_str() {
        "" => "rwm",
        given => given,
    };
    Ok(DeviceNode {
        path: written.path.clone(),
        kind,
        major: major.unwrap_or(0),
        minor: minor.unwrap_or(0),
        mode,
        uid: written.uid,
        gid: written.gid,
        access: access.to_owned(),
    })
}

fn mount(device: &str, written: &Mount) -> Result<HostMount, Failure> {
    if !matches!(written.kind.as_str(), "" | "bind") {
        let what = format!("a mount of type {:?}", written.kind);
        return Err(refused(device, &what));
    }
    let mut mount = HostMount {
        from: written.host_path.clone(),
        to: written.container_path.clone(),
        read_only: false,
        no_suid: false,
        no_dev: false,
        no_exec: false,
    };
    for option in &written.options {
        match option.as_str() {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            "nosuid" => mount.no_suid = true,
            "nodev" => mount.no_dev = true,
            "noexec" => mount.no_exec = true,
            // What is mounted in a step is never seen by anybody else.
            "bind" | "rbind" | "private" | "rprivate" => {}
            other => return Err(refused(device, &format!("mount option {other:?}"))),
        }
    }
    Ok(mount)
}
