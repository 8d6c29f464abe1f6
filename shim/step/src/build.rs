//! Decides how a build's container is described to containerd. It never talks to containerd.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxResources,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

/// The annotation (value `true`) of the OCI specification that makes a container a build.
pub const BUILD_ANNOTATION: &str = "shipway.dev/build";

/// The annotation with the path of the socket on which the shim is to serve the build's daemon.
const SOCKET_ANNOTATION: &str = "shipway.dev/daemon-socket";
/// That socket's name in the build's directory.
pub const DAEMON_SOCKET: &str = "shim.sock";

/// What the daemon chooses about a build's container.
#[derive(Debug, Clone, Default)]
pub struct BuildContainer {
    /// The cgroup of the whole build, absolute below the cgroup mount (`/shipway/<build>`). Steps are in it too.
    pub cgroup: PathBuf,
    /// Limits of the whole build.
    pub resources: Option<LinuxResources>,
    /// Where the shim serves the daemon itself, besides containerd; the directory is there and lets nobody else in.
    pub socket: Option<PathBuf>,
}

impl BuildContainer {
    /// The whole OCI specification to create the container with. Its process is what an ordinary `ctr tasks exec`
    /// starts from; its root is the bundle's own empty `rootfs`, so the task is created without root mounts.
    pub fn into_spec(self) -> Result<Spec, OciSpecError> {
        let mut annotations = HashMap::from([(BUILD_ANNOTATION.to_owned(), "true".to_owned())]);
        if let Some(socket) = self.socket {
            let socket = socket.display().to_string();
            annotations.insert(SOCKET_ANNOTATION.to_owned(), socket);
        }
        let process = ProcessBuilder::default()
            .args(vec!["shipway-launcher".to_owned()])
            .env(vec![
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ])
            .cwd("/")
            .user(UserBuilder::default().uid(0u32).gid(0u32).build()?)
            .capabilities(default_capabilities()?)
            .no_new_privileges(false)
            .rlimits(Vec::new())
            .build()?;
        let linux = LinuxBuilder::default().cgroups_path(self.cgroup);
        let linux = match self.resources {
            Some(resources) => linux.resources(resources).build()?,
            None => linux.build()?,
        };
        let mut spec = SpecBuilder::default()
            .version("1.1.0")
            .process(process)
            .root(
                RootBuilder::default()
                    .path("rootfs")
                    .readonly(false)
                    .build()?,
            )
            .linux(linux)
            .mounts(Vec::new())
            .annotations(annotations)
            .build()?;
        // The builder has made one up.
        spec.set_hostname(None);
        Ok(spec)
    }
}

/// What container runtimes grant by default; an exec into the build that asks for nothing else gets these.
fn default_capabilities() -> Result<LinuxCapabilities, OciSpecError> {
    use Capability as C;
    let granted = HashSet::from([
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
    ]);
    let mut capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(granted.clone())
        .permitted(granted.clone())
        .effective(granted)
        .build()?;
    capabilities.set_inheritable(None).set_ambient(None);
    Ok(capabilities)
}

/// Whether a container with this specification is a build.
#[must_use]
pub fn is_build(spec: &Spec) -> bool {
    spec.annotations()
        .as_ref()
        .and_then(|annotations| annotations.get(BUILD_ANNOTATION))
        .is_some_and(|value| value == "true")
}

/// Where the shim of a build is to serve the daemon.
#[must_use]
pub fn daemon_socket(spec: &Spec) -> Option<&Path> {
    let annotations = spec.annotations().as_ref()?;
    annotations.get(SOCKET_ANNOTATION).map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_containers_spec_says_so_and_survives_json() {
        let build = BuildContainer {
            cgroup: "/shipway/b1".into(),
            resources: None,
            socket: Some("/run/b1/shim.sock".into()),
        };
        let spec = build.into_spec().unwrap();
        let json = serde_json::to_vec(&spec).unwrap();
        let read: Spec = serde_json::from_slice(&json).unwrap();
        assert!(is_build(&read));
        assert_eq!(daemon_socket(&read), Some(Path::new("/run/b1/shim.sock")));
        assert_eq!(
            read.linux()
                .as_ref()
                .unwrap()
                .cgroups_path()
                .as_ref()
                .unwrap(),
            &PathBuf::from("/shipway/b1")
        );
    }

    #[test]
    fn a_container_without_the_annotation_is_no_build() {
        assert!(!is_build(&Spec::default()));
    }
}
