//! The runtime specification of a step: what BuildKit's containerd worker gives a RUN, as plain data. It mounts and
//! starts nothing.

use std::path::Path;
use std::sync::LazyLock;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, Mount, Spec};
use rustix::thread::CapabilitySet;
use serde_json::{Value, json};
use shipway_model::definition::LinuxResources;
use shipway_model::op::{ExecOp, Meta, NetMode, SecurityMode};

use super::seccomp;
use crate::cdi::{DeviceNode, Edits};

/// Capabilities of a sandboxed step (0xa80425fb).
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

/// Every other capability that Linux knows, for an insecure step.
const ALL_CAPABILITIES: [&str; 27] = [
    "CAP_DAC_READ_SEARCH",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_LEASE",
    "CAP_AUDIT_CONTROL",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Host name of a step that asked for none.
pub(super) const HOSTNAME: &str = "buildkitsandbox";

/// `PATH` of a step whose environment has none.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the specification takes from outside the op.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent of each other")]
pub(super) struct SpecInputs<'a> {
    /// Secrets that become variables: `NAME=value`.
    pub(super) secret_env: Vec<String>,
    /// Socket path of the first ssh mount.
    pub(super) ssh_socket: Option<String>,
    /// Size of `/dev/shm` where a mount of the op asks for one; bytes.
    pub(super) shm_size: Option<u64>,
    /// Limits.
    pub(super) resources: Option<&'a LinuxResources>,
    /// A terminal instead of pipes.
    pub(super) terminal: bool,
    /// The root is mounted read-only.
    pub(super) readonly_root: bool,
    /// The network namespace to enter instead of the host's.
    pub(super) network: Option<&'a Path>,
    /// Unique name of the step, for a cgroup of its own.
    pub(super) id: &'a str,
}

/// The runtime specification of a step.
pub(super) fn runtime_spec(op: &ExecOp, inputs: &SpecInputs<'_>) -> Spec {
    let mut spec = template(op.security);
    let fields = json!({
        "args": op.meta.args,
        "env": environment(&op.meta, inputs),
        "cwd": op.meta.cwd,
        "terminal": inputs.terminal,
        "user": {"uid": 0, "gid": 0, "umask": 0o022},
        "capabilities": capabilities(op.security),
        "noNewPrivileges": false,
        "rlimits": rlimits(&op.meta),
    });
    spec.set_process(Some(parsed(fields)));
    let hostname = if op.meta.hostname.is_empty() {
        HOSTNAME
    } else {
        &op.meta.hostname
    };
    spec.set_hostname(Some(hostname.to_owned()));
    spec.set_root(Some(parsed(
        json!({"path": "/", "readonly": inputs.readonly_root}),
    )));
    if let Some(size) = inputs.shm_size {
        resize_shm(&mut spec, size);
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_namespaces(Some(parsed(namespaces(op.network, inputs.network))));
        if let Some(resources) = inputs.resources {
            linux.set_resources(Some(parsed(limits(resources))));
        }
        if !op.meta.cgroup_parent.is_empty() {
            let parent = op.meta.cgroup_parent.trim_matches('/');
            linux.set_cgroups_path(Some(format!("/{parent}/buildkit/{}", inputs.id).into()));
        }
    }
    spec
}

/// Adds what CDI devices bring: variables, nodes, and the permission to use these.
pub(super) fn add_devices(spec: &mut Spec, edits: &Edits) {
    if let Some(process) = spec.process_mut() {
        let mut env = process.env().clone().unwrap_or_default();
        let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
        for variable in &edits.env {
            env.retain(|known| name(known) != name(variable));
            env.push(variable.clone());
        }
        process.set_env(Some(env));
    }
    if edits.nodes.is_empty() {
        return;
    }
    let nodes: Vec<Value> = edits.nodes.iter().map(node).collect();
    let rules = edits.nodes.iter().filter(|node| node.kind != "p");
    let rules = rules.map(|node| {
        let kind = if node.kind == "u" { "c" } else { &node.kind };
        json!({"allow": true, "type": kind, "major": node.major, "minor": node.minor, "access": node.access})
    });
    let Some(linux) = spec.linux_mut() else {
        return;
    };
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.extend(parsed::<Vec<LinuxDevice>>(nodes.into()));
    linux.set_devices(Some(devices));
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut allowed = resources.devices().clone().unwrap_or_default();
    if allowed.is_empty() {
        allowed = parsed(default_device_rules());
    }
    allowed.extend(parsed::<Vec<LinuxDeviceCgroup>>(
        rules.collect::<Vec<_>>().into(),
    ));
    resources.set_devices(Some(allowed));
    linux.set_resources(Some(resources));
}

fn node(node: &DeviceNode) -> Value {
    let mut written = json!({
        "path": node.path, "type": node.kind, "major": node.major, "minor": node.minor,
    });
    for (key, value) in [
        ("fileMode", node.mode),
        ("uid", node.uid),
        ("gid", node.gid),
    ] {
        if let Some(value) = value {
            written[key] = value.into();
        }
    }
    written
}

/// What runtimes allow where nothing else is said: rules that are given replace these.
fn default_device_rules() -> Value {
    let open = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(2)),
        (136, None),
    ];
    let mut rules = vec![
        json!({"allow": false, "access": "rwm"}),
        json!({"allow": true, "type": "c", "access": "m"}),
        json!({"allow": true, "type": "b", "access": "m"}),
    ];
    rules.extend(open.map(|(major, minor): (i64, Option<i64>)| {
        json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"})
    }));
    rules.into()
}

fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the literal has the shape that oci-spec defines")
}

/// The part that is the same for every step of a security mode, parsed once.
fn template(mode: SecurityMode) -> Spec {
    static SANDBOX: LazyLock<Spec> = LazyLock::new(|| {
        let mut spec: Spec = parsed(
            json!({"ociVersion": "1.1.0", "mounts": mounts(true), "linux": {
                "maskedPaths": MASKED, "readonlyPaths": READ_ONLY,
            }}),
        );
        if let Some(linux) = spec.linux_mut() {
            linux.set_seccomp(Some(seccomp::default_profile()));
        }
        spec
    });
    static INSECURE: LazyLock<Spec> = LazyLock::new(|| {
        parsed(
            json!({"ociVersion": "1.1.0", "mounts": mounts(false), "linux": {
                "devices": host_devices(),
                "resources": {"devices": [{"allow": true, "access": "rwm"}]},
            }}),
        )
    });
    match mode {
        SecurityMode::Sandbox => SANDBOX.clone(),
        SecurityMode::Insecure => INSECURE.clone(),
    }
}

fn mounts(sandbox: bool) -> Vec<Mount> {
    let access = if sandbox { "ro" } else { "rw" };
    let table = json!([
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
         "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs",
         "options": ["nosuid", "noexec", "nodev", access]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": ["nosuid", "noexec", "nodev", "relatime", access]},
    ]);
    parsed(table)
}

fn resize_shm(spec: &mut Spec, size: u64) {
    for mount in spec.mounts_mut().iter_mut().flatten() {
        if mount.destination().as_os_str() == "/dev/shm" {
            let options = ["nosuid", "noexec", "nodev", "mode=1777"].map(str::to_owned);
            mount.set_options(Some(
                options
                    .into_iter()
                    .chain([format!("size={size}")])
                    .collect(),
            ));
        }
    }
}

fn environment(meta: &Meta, inputs: &SpecInputs<'_>) -> Vec<String> {
    let mut env = meta.env.clone();
    if let Some(proxy) = &meta.proxy_env {
        let pairs = [
            ("HTTP_PROXY", &proxy.http_proxy),
            ("HTTPS_PROXY", &proxy.https_proxy),
            ("FTP_PROXY", &proxy.ftp_proxy),
            ("NO_PROXY", &proxy.no_proxy),
            ("ALL_PROXY", &proxy.all_proxy),
        ];
        for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
            env.push(format!("{name}={value}"));
            env.push(format!("{}={value}", name.to_lowercase()));
        }
    }
    let has = |env: &[String], name: &str| {
        env.iter()
            .any(|v| v.split_once('=').is_some_and(|(key, _)| key == name))
    };
    if !has(&env, "PATH") {
        env.push(PATH.to_owned());
    }
    env.extend(inputs.secret_env.iter().cloned());
    if let Some(socket) = inputs
        .ssh_socket
        .as_ref()
        .filter(|_| !has(&env, "SSH_AUTH_SOCK"))
    {
        env.push(format!("SSH_AUTH_SOCK={socket}"));
    }
    env
}

fn capabilities(mode: SecurityMode) -> Value {
    match mode {
        SecurityMode::Sandbox => json!({
            "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
        }),
        SecurityMode::Insecure => {
            static OWN: LazyLock<Vec<&str>> = LazyLock::new(|| {
                // Where the daemon's own are not known, the kernel decides.
                let own = rustix::thread::capabilities(None);
                every_capability(own.map_or(CapabilitySet::all(), |own| own.permitted))
            });
            let all = &*OWN;
            json!({"bounding": all, "effective": all, "permitted": all, "inheritable": all, "ambient": all})
        }
    }
}

/// Names of all capabilities that can be handed on: nobody can give what it does not have, as in BuildKit.
fn every_capability(held: CapabilitySet) -> Vec<&'static str> {
    let all = CAPABILITIES.iter().chain(&ALL_CAPABILITIES).copied();
    let is_held = |name: &&str| {
        let flag = name.strip_prefix("CAP_").and_then(CapabilitySet::from_name);
        flag.is_some_and(|flag| held.contains(flag))
    };
    all.filter(is_held).collect()
}

fn rlimits(meta: &Meta) -> Vec<Value> {
    // -1 is unlimited: all bits set.
    let bits = i64::cast_unsigned;
    meta.ulimits
        .iter()
        .map(|limit| {
            let name = format!("RLIMIT_{}", limit.name.to_uppercase());
            json!({"type": name, "soft": bits(limit.soft), "hard": bits(limit.hard)})
        })
        .collect()
}

fn namespaces(network: NetMode, entered: Option<&Path>) -> Value {
    let mut kinds = vec![
        json!({"type": "pid"}),
        json!({"type": "ipc"}),
        json!({"type": "uts"}),
        json!({"type": "mount"}),
    ];
    if network == NetMode::None {
        kinds.push(json!({"type": "network"}));
    } else if let Some(path) = entered {
        kinds.push(json!({"type": "network", "path": path}));
    }
    kinds.into()
}

fn limits(resources: &LinuxResources) -> Value {
    let number = |value: i64| (value != 0).then_some(value);
    let count = |value: u64| (value != 0).then_some(value);
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    let mut memory = json!({});
    let mut cpu = json!({});
    let set = |to: &mut Value, key: &str, value: Option<Value>| {
        if let Some(value) = value {
            to[key] = value;
        }
    };
    set(
        &mut memory,
        "limit",
        number(resources.memory).map(Into::into),
    );
    set(
        &mut memory,
        "swap",
        number(resources.memory_swap).map(Into::into),
    );
    set(
        &mut cpu,
        "shares",
        count(resources.cpu_shares).map(Into::into),
    );
    set(
        &mut cpu,
        "period",
        count(resources.cpu_period).map(Into::into),
    );
    set(
        &mut cpu,
        "quota",
        number(resources.cpu_quota).map(Into::into),
    );
    set(
        &mut cpu,
        "cpus",
        text(&resources.cpuset_cpus).map(Into::into),
    );
    set(
        &mut cpu,
        "mems",
        text(&resources.cpuset_mems).map(Into::into),
    );
    json!({"memory": memory, "cpu": cpu})
}

/// Devices of the host that an insecure step sees beside the standard ones: loop devices and FUSE.
fn host_devices() -> Value {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let listed = std::fs::read_dir("/dev")
        .map(|dir| dir.flatten().collect())
        .unwrap_or_default();
    let entries: Vec<std::fs::DirEntry> = listed;
    let devices = entries.iter().filter_map(|entry| {
        let meta = std::fs::symlink_metadata(entry.path()).ok()?;
        let kind = meta.file_type();
        let letter = if kind.is_block_device() {
            "b"
        } else if kind.is_char_device() {
            "c"
        } else {
            return None;
        };
        let (major, minor) = device_numbers(meta.rdev());
        Some(
            json!({"path": entry.path(), "type": letter, "major": major, "minor": minor,
            "fileMode": meta.mode() & 0o7777, "uid": meta.uid(), "gid": meta.gid()}),
        )
    });
    devices.collect::<Vec<_>>().into()
}

/// Major and minor number of a Linux `dev_t`.
fn device_numbers(dev: u64) -> (u64, u64) {
    (
        ((dev >> 8) & 0xfff) | ((dev >> 32) & !0xfff),
        (dev & 0xff) | ((dev >> 12) & !0xff),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(env: &[&str]) -> ExecOp {
        ExecOp {
            meta: Meta {
                args: vec!["/bin/sh".into(), "-c".into(), "true".into()],
                env: env.iter().map(|&v| v.to_owned()).collect(),
                cwd: "/".into(),
                ..Meta::default()
            },
            ..ExecOp::default()
        }
    }

    #[test]
    fn a_sandboxed_step_gets_docker_s_capabilities_and_filter() {
        let spec = runtime_spec(&op(&[]), &SpecInputs::default());
        let process = spec.process().as_ref().unwrap();
        let capabilities = process.capabilities().as_ref().unwrap();
        assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 14);
        assert!(capabilities.inheritable().is_none());
        assert!(spec.linux().as_ref().unwrap().seccomp().is_some());
        assert_eq!(spec.hostname().as_deref(), Some(HOSTNAME));
    }

    #[test]
    fn path_is_added_only_where_the_image_has_none() {
        let env = |given: &[&str]| {
            let spec = runtime_spec(&op(given), &SpecInputs::default());
            spec.process().as_ref().unwrap().env().clone().unwrap()
        };
        assert_eq!(env(&["A=1"]), ["A=1", PATH]);
        assert_eq!(env(&["PATH=/x"]), ["PATH=/x"]);
    }

    #[test]
    fn an_insecure_step_keeps_everything() {
        let mut op = op(&[]);
        op.security = SecurityMode::Insecure;
        let spec = runtime_spec(&op, &SpecInputs::default());
        assert!(spec.linux().as_ref().unwrap().seccomp().is_none());
        let capabilities = spec
            .process()
            .as_ref()
            .unwrap()
            .capabilities()
            .clone()
            .unwrap();
        let held = rustix::thread::capabilities(None).unwrap().permitted;
        let ambient = capabilities.ambient().as_ref().unwrap().len();
        assert_eq!(ambient, every_capability(held).len());
    }

    #[test]
    fn only_capabilities_that_are_held_are_handed_on() {
        assert_eq!(every_capability(CapabilitySet::all()).len(), 41);
        let held = CapabilitySet::CHOWN | CapabilitySet::BPF;
        assert_eq!(every_capability(held), ["CAP_CHOWN", "CAP_BPF"]);
    }

    #[test]
    fn network_none_is_a_new_network_namespace() {
        let mut op = op(&[]);
        op.network = NetMode::None;
        let spec = runtime_spec(&op, &SpecInputs::default());
        let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        assert_eq!(namespaces.len(), 5);
    }

    #[test]
    fn a_network_of_its_own_is_entered_by_its_path() {
        let network = Some(Path::new("/net/1"));
        let inputs = SpecInputs {
            network,
            ..SpecInputs::default()
        };
        let spec = runtime_spec(&op(&[]), &inputs);
        let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        assert_eq!(namespaces[4].path().as_deref(), network);
    }
}
