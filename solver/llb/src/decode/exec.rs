//! Exec ops: mounts with their kinds, modes, and what a process needs to start.

use super::InvalidOp;
use super::op::{at_most, optional};
use crate::limits;
use shipway_model::op::{
    CacheSharing, CdiDevice, ContentCache, ExecOp, HostIp, Meta, Mount, MountKind, NetMode,
    ProxyEnv, SecretEnv, SecretMount, SecurityMode, Ulimit,
};
use shipway_proto::pb;

pub(super) fn decode(wire: pb::ExecOp, inputs: usize) -> Result<ExecOp, InvalidOp> {
    let missing = |field| InvalidOp::Missing { op: "exec", field };
    let network = decode_net_mode(wire.network)?;
    let security = decode_security_mode(wire.security)?;
    let meta = decode_process(wire.meta.ok_or(missing("meta"))?);
    if meta.args.is_empty() {
        return Err(missing("args"));
    }
    if wire.mounts.is_empty() {
        return Err(missing("mounts"));
    }
    at_most("mounts", wire.mounts.len())?;
    let mounts = wire
        .mounts
        .into_iter()
        .map(|mount| decode_mount(mount, inputs));
    let mounts = mounts.collect::<Result<Vec<_>, _>>()?;
    if !mounts.iter().any(|mount| mount.dest == "/") {
        return Err(missing("rootfs"));
    }
    let secret = |s: pb::SecretEnv| SecretEnv {
        id: s.id,
        name: s.name,
        optional: s.optional,
    };
    let device = |d: pb::CdiDevice| CdiDevice {
        name: d.name,
        optional: d.optional,
    };
    Ok(ExecOp {
        meta,
        mounts,
        network,
        security,
        secret_env: wire.secretenv.into_iter().map(secret).collect(),
        cdi_devices: wire.cdi_devices.into_iter().map(device).collect(),
    })
}

/// Reads what a process needs to start; processes of gateway containers use the same message.
#[must_use]
pub fn decode_process(wire: pb::Meta) -> Meta {
    let host = |h: pb::HostIp| HostIp {
        host: h.host,
        ip: h.ip,
    };
    let ulimit = |u: pb::Ulimit| Ulimit {
        name: u.name,
        soft: u.soft,
        hard: u.hard,
    };
    let proxy = |p: pb::ProxyEnv| ProxyEnv {
        http_proxy: p.http_proxy,
        https_proxy: p.https_proxy,
        ftp_proxy: p.ftp_proxy,
        no_proxy: p.no_proxy,
        all_proxy: p.all_proxy,
    };
    Meta {
        args: wire.args,
        env: wire.env,
        cwd: wire.cwd,
        user: wire.user,
        proxy_env: wire.proxy_env.map(proxy),
        extra_hosts: wire.extra_hosts.into_iter().map(host).collect(),
        hostname: wire.hostname,
        ulimits: wire.ulimit.into_iter().map(ulimit).collect(),
        cgroup_parent: wire.cgroup_parent,
        remove_mount_stubs_recursive: wire.remove_mount_stubs_recursive,
        valid_exit_codes: wire.valid_exit_codes,
    }
}

/// Reads one mount; gateway containers use the same message.
///
/// # Errors
/// An index that points nowhere, or a kind without its options.
pub fn decode_mount(wire: pb::Mount, inputs: usize) -> Result<Mount, InvalidOp> {
    let kind = mount_kind(&wire)?;
    let content_cache = match pb::MountContentCache::try_from(wire.content_cache) {
        Ok(pb::MountContentCache::Default) => ContentCache::Default,
        Ok(pb::MountContentCache::On) => ContentCache::On,
        Ok(pb::MountContentCache::Off) => ContentCache::Off,
        Err(_) => return Err(unknown("content cache mode", wire.content_cache)),
    };
    // Clients leave the output of a secret or a socket at 0; it is never one.
    let output = match kind {
        MountKind::Secret(_) | MountKind::Ssh(_) => None,
        MountKind::Bind | MountKind::Cache { .. } | MountKind::Tmpfs { .. } => {
            optional("mount output", wire.output, limits::PARTS)?
        }
    };
    Ok(Mount {
        input: optional("mount input", wire.input, inputs)?,
        selector: wire.selector,
        dest: wire.dest,
        output,
        readonly: wire.readonly,
        kind,
        content_cache,
        result_id: wire.result_id,
    })
}

fn mount_kind(wire: &pb::Mount) -> Result<MountKind, InvalidOp> {
    let missing = |field| InvalidOp::Missing { op: "exec", field };
    let kind = pb::MountType::try_from(wire.mount_type)
        .map_err(|_| unknown("mount type", wire.mount_type))?;
    Ok(match kind {
        pb::MountType::Bind => MountKind::Bind,
        pb::MountType::Secret => {
            let o = wire
                .secret_opt
                .as_ref()
                .ok_or(missing("secret mount options"))?;
            MountKind::Secret(SecretMount {
                id: o.id.clone(),
                uid: o.uid,
                gid: o.gid,
                mode: o.mode,
                optional: o.optional,
            })
        }
        pb::MountType::Ssh => {
            let o = wire.ssh_opt.as_ref().ok_or(missing("ssh mount options"))?;
            MountKind::Ssh(SecretMount {
                id: o.id.clone(),
                uid: o.uid,
                gid: o.gid,
                mode: o.mode,
                optional: o.optional,
            })
        }
        pb::MountType::Cache => {
            let o = wire
                .cache_opt
                .as_ref()
                .ok_or(missing("cache mount options"))?;
            MountKind::Cache {
                id: o.id.clone(),
                sharing: sharing(o.sharing)?,
            }
        }
        pb::MountType::Tmpfs => {
            let size = wire.tmpfs_opt.as_ref().map_or(0, |o| o.size);
            let bad = InvalidOp::Value {
                field: "tmpfs size",
                value: size,
            };
            MountKind::Tmpfs {
                size: u64::try_from(size).map_err(|_| bad)?,
            }
        }
    })
}

fn sharing(value: i32) -> Result<CacheSharing, InvalidOp> {
    match pb::CacheSharingOpt::try_from(value) {
        Ok(pb::CacheSharingOpt::Shared) => Ok(CacheSharing::Shared),
        Ok(pb::CacheSharingOpt::Private) => Ok(CacheSharing::Private),
        Ok(pb::CacheSharingOpt::Locked) => Ok(CacheSharing::Locked),
        Err(_) => Err(unknown("cache sharing mode", value)),
    }
}

/// Reads a network mode.
///
/// # Errors
/// One that nobody knows.
pub fn decode_net_mode(value: i32) -> Result<NetMode, InvalidOp> {
    match pb::NetMode::try_from(value) {
        Ok(pb::NetMode::Unset) => Ok(NetMode::Unset),
        Ok(pb::NetMode::Host) => Ok(NetMode::Host),
        Ok(pb::NetMode::None) => Ok(NetMode::None),
        Err(_) => Err(unknown("network mode", value)),
    }
}

/// Reads a security mode.
///
/// # Errors
/// One that nobody knows.
pub fn decode_security_mode(value: i32) -> Result<SecurityMode, InvalidOp> {
    match pb::SecurityMode::try_from(value) {
        Ok(pb::SecurityMode::Sandbox) => Ok(SecurityMode::Sandbox),
        Ok(pb::SecurityMode::Insecure) => Ok(SecurityMode::Insecure),
        Err(_) => Err(unknown("security mode", value)),
    }
}

fn unknown(field: &'static str, value: i32) -> InvalidOp {
    InvalidOp::Value {
        field,
        value: value.into(),
    }
}
