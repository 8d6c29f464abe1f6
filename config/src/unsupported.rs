//! Known keys that can't be honoured are refused by name, but only where they ask for something: a file that merely
//! spells out BuildKit's defaults is accepted.

use crate::{ConfigError, schema};

/// Whether the file asks for something, under which key, and why that can't be had.
type Refusal = (bool, &'static str, &'static str);

/// The first key in `file` that asks for what Shipway doesn't do.
pub(crate) fn check(file: &schema::File) -> Result<(), ConfigError> {
    let refusals = daemon_refusals(file)
        .into_iter()
        .chain(worker_refusals(&file.worker.containerd));
    for (asked, key, reason) in refusals {
        if asked {
            return Err(ConfigError::Unsupported {
                key: key.to_owned(),
                reason,
            });
        }
    }
    check_oci(file)?;
    check_registries(file)
}

fn daemon_refusals(file: &schema::File) -> [Refusal; 6] {
    let actions = "the GitHub Actions cache is not supported";
    let windows = !file.grpc.security_descriptor.is_empty();
    [
        (
            file.proxy_network,
            "proxyNetwork",
            "steps can't be confined to a proxy",
        ),
        (
            !file.grpc.debug_address.is_empty(),
            "grpc.debugAddress",
            "there are no Go profiles to serve",
        ),
        (
            windows,
            "grpc.securityDescriptor",
            "it concerns Windows only",
        ),
        (
            !file.cdi.auto_allowed.is_empty(),
            "cdi.autoAllowed",
            "each build must ask for its devices",
        ),
        (!file.cache.is_empty(), "cache", actions),
        (!file.ghacache.is_empty(), "ghacache", actions),
    ]
}

fn worker_refusals(worker: &schema::Containerd) -> [Refusal; 7] {
    let (profile, parent) = (&worker.apparmor_profile, &worker.default_cgroup_parent);
    let (path, options) = (&worker.runtime.path, &worker.runtime.options);
    [
        (
            worker.enabled == Some(false),
            "worker.containerd.enabled",
            "it is the only worker there is",
        ),
        (
            worker.rootless,
            "worker.containerd.rootless",
            "the daemon runs as root",
        ),
        (
            worker.selinux,
            "worker.containerd.selinux",
            "SELinux labels are not applied",
        ),
        (
            !profile.is_empty(),
            "worker.containerd.apparmor-profile",
            "profiles are not applied",
        ),
        (
            !parent.is_empty(),
            "worker.containerd.defaultCgroupParent",
            "steps run in their build's cgroup",
        ),
        (
            !path.is_empty(),
            "worker.containerd.runtime.path",
            "name the runtime instead",
        ),
        (
            !options.is_empty(),
            "worker.containerd.runtime.options",
            "runtimes run with their defaults",
        ),
    ]
}

/// BuildKit's other worker may be mentioned as long as it is switched off.
fn check_oci(file: &schema::File) -> Result<(), ConfigError> {
    let switched_off =
        |oci: &toml::Table| oci.get("enabled").and_then(toml::Value::as_bool) == Some(false);
    match &file.worker.oci {
        Some(oci) if !switched_off(oci) => Err(ConfigError::Unsupported {
            key: "worker.oci".to_owned(),
            reason: "only the containerd worker exists; set enabled = false or remove the section",
        }),
        _ => Ok(()),
    }
}

fn check_registries(file: &schema::File) -> Result<(), ConfigError> {
    for (host, registry) in &file.registry {
        if !registry.tlsconfigdir.is_empty() {
            return Err(ConfigError::Unsupported {
                key: format!("registry.{host:?}.tlsconfigdir"),
                reason: "name the files with ca and keypair",
            });
        }
        if registry.keypair.len() > 1 {
            return Err(ConfigError::Unsupported {
                key: format!("registry.{host:?}.keypair"),
                reason: "a host is shown one certificate",
            });
        }
    }
    Ok(())
}
