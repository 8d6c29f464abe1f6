//! The OCI specification of a test's step. It never decides what a test checks.

use std::collections::HashSet;

use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder,
    LinuxNamespaceType, Mount, MountBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
};

/// Docker's default set, in the three sets that it is granted in.
fn capabilities() -> LinuxCapabilities {
    use Capability as C;
    let granted: HashSet<C> = [
        C::Chown,
        C::DacOverride,
        C::Fowner,
        C::Fsetid,
        C::Kill,
        C::Setgid,
        C::Setuid,
        C::Setpcap,
        C::NetBindService,
        C::NetRaw,
        C::SysChroot,
        C::Mknod,
        C::AuditWrite,
        C::Setfcap,
    ]
    .into();
    let mut capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(granted.clone())
        .permitted(granted.clone())
        .effective(granted)
        .build()
        .unwrap();
    capabilities.set_inheritable(None).set_ambient(None);
    capabilities
}

/// A specification that runs a script in a shell.
pub(crate) fn shell_spec(script: &str) -> Spec {
    let args: Vec<String> = ["/bin/sh", "-c", script].map(str::to_owned).into();
    let process = ProcessBuilder::default()
        .args(args)
        .env(vec!["PATH=/usr/bin:/bin".to_owned()])
        .cwd("/")
        .capabilities(capabilities())
        .no_new_privileges(false)
        .rlimits(Vec::new())
        .build()
        .unwrap();
    let namespaces = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
    ];
    let namespaces =
        namespaces.map(|kind| LinuxNamespaceBuilder::default().typ(kind).build().unwrap());
    let linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .build()
        .unwrap();
    SpecBuilder::default()
        .version("1.1.0")
        .process(process)
        .root(
            RootBuilder::default()
                .path("rootfs")
                .readonly(false)
                .build()
                .unwrap(),
        )
        .hostname("buildkitsandbox")
        .linux(linux)
        .mounts(system_mounts())
        .build()
        .unwrap()
}

fn system_mounts() -> Vec<Mount> {
    let mount = |destination: &str, kind: &str, options: &str| {
        let options: Vec<String> = options.split(',').map(str::to_owned).collect();
        MountBuilder::default()
            .destination(destination)
            .typ(kind)
            .source(kind)
            .options(options)
            .build()
            .unwrap()
    };
    vec![
        mount("/proc", "proc", "nosuid,noexec,nodev"),
        mount("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount(
            "/dev/pts",
            "devpts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "nosuid,noexec,nodev,mode=1777,size=65536k",
        ),
        mount("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
        mount("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
        mount("/sys/fs/cgroup", "cgroup", "ro,nosuid,noexec,nodev"),
    ]
}
