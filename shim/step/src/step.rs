//! Decides what a step consists of and which descriptions of one are refused. It never starts one.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::STEP_TYPE_URL;
use crate::error::InvalidStep;
use crate::layers::LayerStack;

/// A build step: one process with everything that isolates it.
///
/// From `spec` these parts are used: `process` (arguments, environment, cwd, terminal, numeric user, capabilities,
/// rlimits, `noNewPrivileges`, `oomScoreAdj`), `hostname`, `mounts` (mounted first, in order: proc, /dev, sysfs …),
/// `root.readonly`, and of `linux` the namespaces, devices, masked and read-only paths, sysctl, seccomp and `resources`. A step
/// with `resources` or a `cgroupsPath` gets a cgroup of its own; one without shares its build's and starts faster.
/// Pid, mount, ipc and uts namespaces are always new; the network is the host's unless `linux.namespaces` names a network
/// namespace: by `path` it is entered, without one it is new, with its loopback device up.
///
/// Builders of `oci-spec` fill in what was not given: a read-only root, no new privileges, a limit of 1024 files, a host
/// name. Set these parts yourself. Empty resources, as they leave them, are no limits.
///
/// Every path of the host must be visible in containerd's mount namespace when the build's task is created, or be on a
/// mount that propagates (a later mount on a private parent does not): mount what secrets live on before any build.
/// Never put a secret's content in here: bind a file that only root can read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSpec {
    /// The OCI runtime specification; `root.path` is ignored in favour of `root`.
    pub spec: Spec,
    /// The root filesystem.
    pub root: LayerStack,
    /// Mounts made after those of `spec`, in this order: hosts, resolv.conf, and what the user asked for. Missing
    /// mount points are created, and treated by `stubs` afterwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<StepMount>,
    /// The user as the Dockerfile has it (`nobody`, `1000:users`, `:12`), looked up in the root's own `/etc/passwd`
    /// and `/etc/group`. When given, `spec.process.user`'s uid, gid and additional gids are ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Create a missing working directory, mode 0755, owned by the step's user.
    #[serde(default)]
    pub create_cwd: bool,
    /// What happens to mount points that had to be created.
    #[serde(default)]
    pub stubs: MountStubs,
    /// The file or pipe (on the host) that gets the step's [`StepOutcome`](crate::StepOutcome).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<PathBuf>,
}

/// One mount of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepMount {
    /// Where, as an absolute path in the root; links are followed inside the root.
    pub destination: PathBuf,
    /// What.
    pub source: MountSource,
    /// How.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub attributes: BTreeSet<MountAttribute>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MountSource {
    /// A directory, file or socket of the host.
    Path {
        /// Its path on the host.
        path: PathBuf,
        /// The part of it to mount; links are followed inside `path` only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subpath: Option<PathBuf>,
    },
    /// A tree of layers: another step's result.
    Layers {
        /// The layers.
        layers: LayerStack,
        /// The part of the tree to mount; links are followed inside the tree only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subpath: Option<PathBuf>,
    },
    /// An empty tmpfs.
    Tmpfs {
        /// Its limit in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
        /// The permissions of its root.
        mode: u32,
    },
}

/// A restriction of one mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountAttribute {
    /// No writes.
    ReadOnly,
    /// No set-user-id.
    NoSuid,
    /// No device files.
    NoDev,
    /// No execution.
    NoExec,
}

/// What happens to the mount points that were missing from the root, when the step has ended. Only those that are
/// still empty are removed, and the parent's modification time is put back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountStubs {
    /// The mount point itself is removed.
    #[default]
    Remove,
    /// So are its parents that were missing too.
    RemoveWithParents,
    /// They stay.
    Keep,
}

impl StepSpec {
    /// Reads and checks the `Any` of an exec request.
    pub fn from_any(type_url: &str, value: &[u8]) -> Result<Self, InvalidStep> {
        if type_url != STEP_TYPE_URL {
            let found = type_url.to_owned();
            return Err(InvalidStep::TypeUrl {
                expected: STEP_TYPE_URL,
                found,
            });
        }
        Self::try_from(value)
    }

    /// The value for an `Any` with [`STEP_TYPE_URL`].
    pub fn to_any_value(&self) -> Result<Vec<u8>, InvalidStep> {
        Ok(serde_json::to_vec(self)?)
    }

    fn check(&self) -> Result<(), InvalidStep> {
        let process = self.spec.process().as_ref().ok_or(InvalidStep::NoProcess)?;
        let args = process.args().as_deref().unwrap_or_default();
        if args.is_empty() {
            return Err(InvalidStep::NoArguments);
        }
        if args.iter().any(|arg| arg.contains('\0')) {
            return Err(InvalidStep::Nul("an argument"));
        }
        if process
            .env()
            .iter()
            .flatten()
            .any(|variable| variable.contains('\0'))
        {
            return Err(InvalidStep::Nul("an environment variable"));
        }
        absolute("working directory", process.cwd())?;
        self.root.check("the root")?;
        self.result
            .iter()
            .try_for_each(|path| absolute("result file", path))?;
        self.mounts.iter().try_for_each(StepMount::check)
    }
}

impl TryFrom<&[u8]> for StepSpec {
    type Error = InvalidStep;

    /// Reads and checks the JSON of a step.
    fn try_from(json: &[u8]) -> Result<Self, InvalidStep> {
        let step: Self = serde_json::from_slice(json)?;
        step.check()?;
        Ok(step)
    }
}

impl StepMount {
    /// A mount with no restriction.
    pub fn new(destination: impl Into<PathBuf>, source: MountSource) -> Self {
        Self {
            destination: destination.into(),
            source,
            attributes: BTreeSet::new(),
        }
    }

    /// The same mount, restricted further.
    #[must_use]
    pub fn with(mut self, attributes: impl IntoIterator<Item = MountAttribute>) -> Self {
        self.attributes.extend(attributes);
        self
    }

    fn check(&self) -> Result<(), InvalidStep> {
        absolute("mount point", &self.destination)?;
        if self
            .destination
            .components()
            .any(|part| part == Component::ParentDir)
        {
            let path = self.destination.clone();
            return Err(InvalidStep::Climbs {
                what: "mount point",
                path,
            });
        }
        if self.destination.starts_with("/proc") {
            return Err(InvalidStep::InsideProc(self.destination.clone()));
        }
        match &self.source {
            MountSource::Path { path, .. } => absolute("mount source", path),
            MountSource::Layers { layers, .. } => layers.check("a mount"),
            MountSource::Tmpfs { .. } => Ok(()),
        }
    }
}

impl MountSource {
    /// The whole of a path on the host.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self::Path {
            path: path.into(),
            subpath: None,
        }
    }
}

pub(crate) fn absolute(what: &'static str, path: &Path) -> Result<(), InvalidStep> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(InvalidStep::NotAbsolute {
        what,
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{ProcessBuilder, SpecBuilder};

    use super::*;

    fn step() -> StepSpec {
        let process = ProcessBuilder::default()
            .args(vec!["/bin/true".to_owned()])
            .cwd("/")
            .build()
            .unwrap();
        StepSpec {
            spec: SpecBuilder::default().process(process).build().unwrap(),
            root: LayerStack::writable(["/l/2", "/l/1"], "/u", "/w"),
            mounts: vec![
                StepMount::new("/etc/hosts", MountSource::path("/h"))
                    .with([MountAttribute::ReadOnly]),
                StepMount::new(
                    "/t",
                    MountSource::Tmpfs {
                        size: Some(4096),
                        mode: 0o1777,
                    },
                ),
                StepMount::new(
                    "/m",
                    MountSource::Layers {
                        layers: LayerStack::read_only(["/l/3"]),
                        subpath: Some("o".into()),
                    },
                ),
            ],
            user: Some("nobody".to_owned()),
            create_cwd: true,
            stubs: MountStubs::RemoveWithParents,
            result: Some("/r".into()),
        }
    }

    #[test]
    fn a_step_survives_its_any() {
        let value = step().to_any_value().unwrap();
        assert_eq!(StepSpec::from_any(STEP_TYPE_URL, &value).unwrap(), step());
    }

    #[test]
    fn an_any_of_another_type_is_refused() {
        let value = step().to_any_value().unwrap();
        let error = StepSpec::from_any("types.containerd.io/x", &value).unwrap_err();
        assert!(matches!(error, InvalidStep::TypeUrl { .. }));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let mut json: serde_json::Value = serde_json::to_value(step()).unwrap();
        json["colour"] = "red".into();
        let error = StepSpec::try_from(json.to_string().as_bytes()).unwrap_err();
        assert!(matches!(error, InvalidStep::Json(_)));
    }

    #[test]
    fn each_senseless_step_is_refused_by_name() {
        type Change = fn(&mut StepSpec);
        let cases: [(Change, &str); 7] = [
            (
                |s| _ = s.spec.set_process(None),
                "a step's specification has no process",
            ),
            (
                |s| s.root = LayerStack::default(),
                "the root has no directory to mount",
            ),
            (
                |s| s.root.lower[1] = "l".into(),
                "the root \"l\" is not an absolute path",
            ),
            (
                |s| s.mounts[0].destination = "/proc/x".into(),
                "mount \"/proc/x\" is inside /proc",
            ),
            (
                |s| s.mounts[0].destination = "/a/../b".into(),
                "mount point \"/a/../b\" contains \"..\"",
            ),
            (
                |s| s.mounts[0].destination = "a".into(),
                "mount point \"a\" is not an absolute path",
            ),
            (
                |s| s.mounts[0].source = MountSource::path("h"),
                "mount source \"h\" is not an absolute path",
            ),
        ];
        for (change, message) in cases {
            let mut step = step();
            change(&mut step);
            let value = step.to_any_value().unwrap();
            assert_eq!(
                StepSpec::try_from(value.as_slice())
                    .unwrap_err()
                    .to_string(),
                message
            );
        }
    }

    #[test]
    fn a_step_without_arguments_is_refused() {
        let mut step = step();
        let process = ProcessBuilder::default()
            .args(Vec::<String>::new())
            .cwd("/")
            .build()
            .unwrap();
        step.spec.set_process(Some(process));
        let value = step.to_any_value().unwrap();
        assert!(matches!(
            StepSpec::try_from(value.as_slice()),
            Err(InvalidStep::NoArguments)
        ));
    }
}
