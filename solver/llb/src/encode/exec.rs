//! Exec ops and mounts as wire messages.

use super::position;
use shipway_model::op::{
    CacheSharing, CdiDevice, ContentCache, ExecOp, HostIp, Meta, Mount, MountKind, NetMode,
    ProxyEnv, SecretEnv, SecretMount, SecurityMode, Ulimit,
};
use shipway_proto::pb;

/// A process without its description, which stands before all else of it ([`encode_meta`]).
pub(super) fn encode(exec: &ExecOp) -> pb::ExecOp {
    let secret = |s: &SecretEnv| pb::SecretEnv {
        id: s.id.clone(),
        name: s.name.clone(),
        optional: s.optional,
    };
    let device = |d: &CdiDevice| pb::CdiDevice {
        name: d.name.clone(),
        optional: d.optional,
    };
    let network = match exec.network {
        NetMode::Unset => pb::NetMode::Unset,
        NetMode::Host => pb::NetMode::Host,
        NetMode::None => pb::NetMode::None,
    };
    let security = match exec.security {
        SecurityMode::Sandbox => pb::SecurityMode::Sandbox,
        SecurityMode::Insecure => pb::SecurityMode::Insecure,
    };
    pb::ExecOp {
        meta: None,
        mounts: exec.mounts.iter().map(encode_mount).collect(),
        network: network.into(),
        security: security.into(),
        secretenv: exec.secret_env.iter().map(secret).collect(),
        cdi_devices: exec.cdi_devices.iter().map(device).collect(),
    }
}

/// How a process is started: what stands before its variables, and behind them.
pub(super) fn encode_meta(meta: &Meta) -> (pb::Meta, pb::Meta) {
    let host = |h: &HostIp| pb::HostIp {
        host: h.host.clone(),
        ip: h.ip.clone(),
    };
    let ulimit = |u: &Ulimit| pb::Ulimit {
        name: u.name.clone(),
        soft: u.soft,
        hard: u.hard,
    };
    let proxy = |p: &ProxyEnv| pb::ProxyEnv {
        http_proxy: p.http_proxy.clone(),
        https_proxy: p.https_proxy.clone(),
        ftp_proxy: p.ftp_proxy.clone(),
        no_proxy: p.no_proxy.clone(),
        all_proxy: p.all_proxy.clone(),
    };
    let before = pb::Meta {
        args: meta.args.clone(),
        ..pb::Meta::default()
    };
    let after = pb::Meta {
        args: Vec::new(),
        env: Vec::new(),
        cwd: meta.cwd.clone(),
        user: meta.user.clone(),
        proxy_env: meta.proxy_env.as_ref().map(proxy),
        extra_hosts: meta.extra_hosts.iter().map(host).collect(),
        hostname: meta.hostname.clone(),
        ulimit: meta.ulimits.iter().map(ulimit).collect(),
        cgroup_parent: meta.cgroup_parent.clone(),
        remove_mount_stubs_recursive: meta.remove_mount_stubs_recursive,
        valid_exit_codes: meta.valid_exit_codes.clone(),
    };
    (before, after)
}

/// One mount of an exec op.
#[must_use]
pub fn encode_mount(mount: &Mount) -> pb::Mount {
    let content_cache = match mount.content_cache {
        ContentCache::Default => pb::MountContentCache::Default,
        ContentCache::On => pb::MountContentCache::On,
        ContentCache::Off => pb::MountContentCache::Off,
    };
    let mut wire = pb::Mount {
        input: position(mount.input),
        selector: mount.selector.clone(),
        dest: mount.dest.clone(),
        output: position(mount.output),
        readonly: mount.readonly,
        result_id: mount.result_id.clone(),
        content_cache: content_cache.into(),
        ..pb::Mount::default()
    };
    let kind = match &mount.kind {
        MountKind::Bind => pb::MountType::Bind,
        MountKind::Secret(secret) => {
            wire.secret_opt = Some(secret_opt(secret));
            // Secrets and sockets stand outside of the outputs' numbering; the client leaves theirs at 0.
            wire.output = 0;
            pb::MountType::Secret
        }
        MountKind::Ssh(ssh) => {
            wire.ssh_opt = Some(ssh_opt(ssh));
            wire.output = 0;
            pb::MountType::Ssh
        }
        MountKind::Cache { id, sharing } => {
            let sharing = match sharing {
                CacheSharing::Shared => pb::CacheSharingOpt::Shared,
                CacheSharing::Private => pb::CacheSharingOpt::Private,
                CacheSharing::Locked => pb::CacheSharingOpt::Locked,
            };
            wire.cache_opt = Some(pb::CacheOpt {
                id: id.clone(),
                sharing: sharing.into(),
            });
            pb::MountType::Cache
        }
        MountKind::Tmpfs { size } => {
            let size = i64::try_from(*size).unwrap_or(i64::MAX);
            wire.tmpfs_opt = Some(pb::TmpfsOpt { size });
            pb::MountType::Tmpfs
        }
    };
    wire.mount_type = kind.into();
    wire
}

fn secret_opt(secret: &SecretMount) -> pb::SecretOpt {
    pb::SecretOpt {
        id: secret.id.clone(),
        uid: secret.uid,
        gid: secret.gid,
        mode: secret.mode,
        optional: secret.optional,
    }
}

fn ssh_opt(ssh: &SecretMount) -> pb::SshOpt {
    pb::SshOpt {
        id: ssh.id.clone(),
        uid: ssh.uid,
        gid: ssh.gid,
        mode: ssh.mode,
        optional: ssh.optional,
    }
}
