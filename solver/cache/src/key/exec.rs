//! The key of an exec operation. Decides which of its options count.

use shipway_model::op::{
    CacheSharing, ContentCache, ExecOp, Mount, MountKind, NetMode, SecretMount, SecurityMode,
};
use shipway_model::{Digest, Platform};

use super::gojson::Object;
use super::parts::Parts;
use crate::KeyParts;

/// Key of an exec on a normalised platform.
#[must_use]
pub fn exec(op: &ExecOp, platform: &Platform) -> Digest {
    Digest::of(platform_members(
        Object::new()
            .text("Type", "buildkit.exec.v0")
            .raw("Exec", &exec_json(op)),
        platform,
    ))
}

/// What the key of an exec is made of.
#[must_use]
pub fn exec_parts(op: &ExecOp, platform: &Platform) -> KeyParts {
    let meta = &op.meta;
    let mut parts = Parts::default();
    parts.add("args", meta.args.join(" "));
    for variable in &meta.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        // A key must not tell secrets: the value is compared, not shown.
        parts.add(&format!("env {name}"), Digest::of(value).to_string());
    }
    parts.add("cwd", &meta.cwd);
    parts.add("user", &meta.user);
    parts.add("platform", platform_members(Object::new(), platform));
    for mount in counted_mounts(op) {
        parts.add(&format!("mount {}", mount.dest), mount_json(mount));
    }
    let mut rest = ExecOp {
        mounts: Vec::new(),
        ..op.clone()
    };
    rest.meta.args.clear();
    rest.meta.env.clear();
    rest.meta.cwd.clear();
    rest.meta.user.clear();
    parts.add("options", Digest::of(exec_json(&rest)).to_string());
    parts.done()
}

fn platform_members(object: Object, platform: &Platform) -> String {
    object
        .text("OS", &platform.os)
        .text("Arch", &platform.architecture)
        .string("Variant", &platform.variant)
        .string("OSVersion", &platform.os_version)
        .strings("OSFeatures", &platform.os_features)
        .end()
}

/// Mounts in the key: none where the only one is the writable root, which early versions left out.
fn counted_mounts(op: &ExecOp) -> &[Mount] {
    match op.mounts.as_slice() {
        [root]
            if root.dest == "/"
                && !root.readonly
                && root.kind == MountKind::Bind
                && root.result_id.is_empty() =>
        {
            &[]
        }
        mounts => mounts,
    }
}

fn exec_json(op: &ExecOp) -> String {
    let secrets = op.secret_env.iter().map(|secret| {
        Object::new()
            .string("ID", &secret.id)
            .string("name", &secret.name)
            .bool("optional", secret.optional)
            .end()
    });
    let devices = op.cdi_devices.iter().map(|device| {
        Object::new()
            .string("name", &device.name)
            .bool("optional", device.optional)
            .end()
    });
    Object::new()
        .raw("meta", &meta_json(op))
        .list("mounts", counted_mounts(op).iter().map(mount_json))
        .int(
            "network",
            match op.network {
                NetMode::Unset => 0,
                NetMode::Host => 1,
                NetMode::None => 2,
            },
        )
        .int(
            "security",
            match op.security {
                SecurityMode::Sandbox => 0,
                SecurityMode::Insecure => 1,
            },
        )
        .list("secretenv", secrets)
        .list("cdiDevices", devices)
        .end()
}

/// Process parameters: addresses of extra hosts and proxies do not count.
fn meta_json(op: &ExecOp) -> String {
    let meta = &op.meta;
    let hosts = meta.extra_hosts.iter();
    let hosts = hosts.map(|host| Object::new().string("Host", &host.host).end());
    let limits = meta.ulimits.iter().map(|limit| {
        Object::new()
            .string("Name", &limit.name)
            .int("Soft", limit.soft)
            .int("Hard", limit.hard)
            .end()
    });
    Object::new()
        .strings("args", &meta.args)
        .strings("env", &meta.env)
        .string("cwd", &meta.cwd)
        .string("user", &meta.user)
        .list("extraHosts", hosts)
        .string("hostname", &meta.hostname)
        .list("ulimit", limits)
        .string("cgroupParent", &meta.cgroup_parent)
        .bool(
            "removeMountStubsRecursive",
            meta.remove_mount_stubs_recursive,
        )
        .list(
            "validExitCodes",
            meta.valid_exit_codes.iter().map(i32::to_string),
        )
        .end()
}

/// One mount: its source path comes in by the input's selector instead.
fn mount_json(mount: &Mount) -> String {
    let (kind, name, options) = match &mount.kind {
        MountKind::Bind => (0, "", String::new()),
        MountKind::Secret(secret) => (1, "secretOpt", secret_json(secret)),
        MountKind::Ssh(secret) => (2, "SSHOpt", secret_json(secret)),
        MountKind::Cache { id, sharing } => (3, "cacheOpt", cache_json(id, *sharing, &mount.dest)),
        MountKind::Tmpfs { size } => {
            let size = i64::try_from(*size).unwrap_or(i64::MAX);
            (4, "TmpfsOpt", Object::new().int("size", size).end())
        }
    };
    let mut object = Object::new()
        .int("input", index(mount.input))
        .string("dest", &mount.dest)
        .int("output", index(mount.output))
        .bool("readonly", mount.readonly)
        .int("mountType", kind);
    if !name.is_empty() {
        object = object.raw(name, &options);
    }
    object
        .string("resultID", &mount.result_id)
        .int(
            "contentCache",
            match mount.content_cache {
                ContentCache::Default => 0,
                ContentCache::On => 1,
                ContentCache::Off => 2,
            },
        )
        .end()
}

fn secret_json(secret: &SecretMount) -> String {
    Object::new()
        .string("ID", &secret.id)
        .int("uid", secret.uid)
        .int("gid", secret.gid)
        .int("mode", secret.mode)
        .bool("optional", secret.optional)
        .end()
}

/// Id and sharing of a cache mount count only where they are a Dockerfile's default.
fn cache_json(id: &str, sharing: CacheSharing, dest: &str) -> String {
    let namespaced = id.split_once('/').is_some_and(|(_, rest)| rest == dest);
    let default = sharing == CacheSharing::Shared && (id == dest || namespaced);
    Object::new()
        .string("ID", if default { id } else { "" })
        .end()
}

pub(super) fn index(index: Option<usize>) -> i64 {
    index.map_or(-1, |at| i64::try_from(at).unwrap_or(i64::MAX))
}
