//! The whole description of a process for the launcher: runtime specification, root, mounts, hosts and resolver files. It
//! starts nothing.

use shipway_backend::NetworkUse;
use shipway_model::Failure;
use shipway_model::definition::LinuxResources;
use shipway_model::op::{ExecOp, NetMode, SecretEnv};
use shipway_step::{MountAttribute, MountSource, MountStubs, StepMount, StepSpec};

use super::caller::Caller;
use super::net_files;
use super::plan::{Plan, secret_value};
use super::scratch::StepFiles;
use super::spec::{HOSTNAME, SpecInputs, add_devices, runtime_spec};
use crate::cdi::{Devices, HostMount};
use crate::graph::OpsEnv;

/// What a process takes from elsewhere than its op.
pub(super) struct Around<'a> {
    /// Secrets that become variables: `NAME=value`.
    pub(super) secret_env: Vec<String>,
    /// A terminal instead of pipes.
    pub(super) terminal: bool,
    /// Unique name in the build's task.
    pub(super) id: &'a str,
    /// Limits.
    pub(super) resources: Option<&'a LinuxResources>,
}

/// `NAME=value` of secrets that become variables.
pub(super) async fn secret_env(
    ops: &OpsEnv,
    caller: &Caller,
    secrets: &[SecretEnv],
) -> Result<Vec<String>, Failure> {
    let mut variables = Vec::new();
    for secret in secrets {
        let value = secret_value(ops, caller, &secret.id, secret.optional).await?;
        let value = String::from_utf8(value.unwrap_or_default()).map_err(|e| {
            Failure::from_error(&e).context(format!("secret {} as a variable", secret.id))
        })?;
        variables.push(format!("{}={value}", secret.name));
    }
    Ok(variables)
}

/// A directory or file of the host that comes with a device.
fn host_mount(mount: &HostMount) -> StepMount {
    let attributes = [
        (mount.read_only, MountAttribute::ReadOnly),
        (mount.no_suid, MountAttribute::NoSuid),
        (mount.no_dev, MountAttribute::NoDev),
        (mount.no_exec, MountAttribute::NoExec),
    ];
    let attributes = attributes.into_iter().filter(|(set, _)| *set);
    StepMount::new(mount.to.clone(), MountSource::path(mount.from.clone()))
        .with(attributes.map(|(_, attribute)| attribute))
}

/// Describes the first process of a container: what it mounts and how it runs.
pub(super) fn specification(
    ops: &OpsEnv,
    op: &ExecOp,
    plan: &Plan,
    around: Around<'_>,
    files: &StepFiles,
) -> Result<StepSpec, Failure> {
    let inputs = SpecInputs {
        secret_env: around.secret_env,
        ssh_socket: plan.ssh_socket.clone(),
        shm_size: plan.shm_size,
        resources: around.resources,
        terminal: around.terminal,
        readonly_root: plan.readonly_root,
        network: plan.network.as_deref().map(NetworkUse::path),
        id: around.id,
    };
    let mut mounts = net_mounts(ops, op, plan, files)?;
    mounts.extend(plan.mounts.iter().cloned());
    let mut spec = runtime_spec(op, &inputs);
    if !op.cdi_devices.is_empty() {
        let edits = Devices::read(&ops.cdi).edits(&op.cdi_devices)?;
        add_devices(&mut spec, &edits);
        mounts.extend(edits.mounts.iter().map(host_mount));
    }
    let stubs = if op.meta.remove_mount_stubs_recursive {
        MountStubs::RemoveWithParents
    } else {
        MountStubs::Remove
    };
    Ok(StepSpec {
        spec,
        root: plan.root.clone(),
        mounts,
        user: Some(op.meta.user.clone()),
        create_cwd: true,
        stubs,
        result: None,
    })
}

/// Hosts and resolver files, where the op does not mount its own.
fn net_mounts(
    ops: &OpsEnv,
    op: &ExecOp,
    plan: &Plan,
    files: &StepFiles,
) -> Result<Vec<StepMount>, Failure> {
    let hostname = if op.meta.hostname.is_empty() {
        HOSTNAME
    } else {
        &op.meta.hostname
    };
    let hosts = net_files::hosts(hostname, &op.meta.extra_hosts);
    let host_resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let host_network = op.network != NetMode::None && plan.network.is_none();
    let resolver = net_files::resolv_conf(&host_resolver, host_network, &ops.dns);
    let given = |path: &str| {
        let mut mounts = plan.mounts.iter();
        mounts.any(|m| m.destination.as_os_str() == path)
    };
    let mut mounts = Vec::new();
    for (path, name, text) in [
        ("/etc/hosts", "hosts", hosts),
        ("/etc/resolv.conf", "resolv.conf", resolver),
    ] {
        if !given(path) {
            let file = files.file(name, text.as_bytes(), 0o644)?;
            let mount = StepMount::new(path, MountSource::path(file));
            mounts.push(mount.with([MountAttribute::ReadOnly]));
        }
    }
    Ok(mounts)
}
