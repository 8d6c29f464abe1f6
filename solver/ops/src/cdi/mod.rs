//! Devices by their CDI names: which of those that a step asks for exist, and whether the build may have them. It changes
//! no specification; `edits` says what a device adds to one.
//!
//! Container Device Interface 0.8 (`tags.cncf.io/container-device-interface`), and BuildKit v0.33's rules about grants.

mod edits;
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use shipway_model::Failure;
use shipway_model::failure::FailureKind;
use shipway_model::op::CdiDevice;

pub(crate) use edits::{DeviceNode, Edits, HostMount};
use files::ContainerEdits;

/// Annotation of a device that every build may have.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";
/// Annotation of a device with a name that it shares with others.
const CLASS: &str = "org.mobyproject.buildkit.device.class";

/// Where devices are described; `None` where no device may be named at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CdiDirs(pub Option<Vec<PathBuf>>);

/// Devices that a build was granted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeviceGrants {
    /// Those that every build may have.
    #[default]
    None,
    /// These names besides; a name may be an alias of another.
    Named(BTreeMap<String, Option<String>>),
    /// Every one.
    All,
}

impl DeviceGrants {
    /// Adds what an entitlement says: `device` for all, `device=NAME[,alias=OTHER]` for one.
    pub fn add(&mut self, text: &str) -> Result<(), Failure> {
        let invalid = |message: String| Failure::of_kind(FailureKind::InvalidArgument, message);
        let Some(config) = text.strip_prefix("device=").filter(|c| !c.is_empty()) else {
            *self = Self::All;
            return Ok(());
        };
        let mut fields = config.split(',');
        let name = fields.next().unwrap_or_default().to_owned();
        let mut alias = None;
        for field in fields {
            match field.split_once('=') {
                Some(("alias", value)) => alias = Some(value.to_owned()),
                Some((key, _)) => {
                    return Err(invalid(format!("unknown device config key {key:?}")));
                }
                None => return Err(invalid(format!("invalid device config {field:?}"))),
            }
        }
        let (name, target) = match alias {
            Some(alias) => (alias, Some(name)),
            None => (name, None),
        };
        match self {
            Self::All => {}
            Self::None => *self = Self::Named(BTreeMap::from([(name, target)])),
            Self::Named(named) => {
                named.insert(name, target);
            }
        }
        Ok(())
    }

    fn named(&self) -> Option<&BTreeMap<String, Option<String>>> {
        match self {
            Self::Named(named) => Some(named),
            Self::None | Self::All => None,
        }
    }
}

/// A device that is described.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Device {
    annotations: BTreeMap<String, String>,
    /// File that describes it: what all its devices share is added once.
    file: usize,
    edits: ContainerEdits,
}

/// The devices that are described now, by qualified name.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    by_name: BTreeMap<String, Device>,
    shared: Vec<ContainerEdits>,
}

/// A device as a worker lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDevice {
    /// Qualified name.
    pub name: String,
    /// Every build may have it.
    pub auto_allow: bool,
    /// Annotations of it and of its file.
    pub annotations: BTreeMap<String, String>,
}

impl Device {
    fn auto_allowed(&self) -> bool {
        let value = self.annotations.get(AUTO_ALLOW).map(String::as_str);
        matches!(value, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
    }
}

impl Devices {
    /// Reads the descriptions. One that cannot be read is passed over, as other users of CDI do.
    #[must_use]
    pub fn read(dirs: &CdiDirs) -> Self {
        files::read(dirs.0.as_deref().unwrap_or_default())
    }

    /// All of them.
    pub fn list(&self) -> impl Iterator<Item = ListedDevice> {
        self.by_name.iter().map(|(name, device)| ListedDevice {
            name: name.clone(),
            auto_allow: device.auto_allowed(),
            annotations: device.annotations.clone(),
        })
    }

    /// The devices that a step gets, by qualified name. One that is not there or not granted is an error, unless it may be
    /// absent.
    pub(crate) fn granted(
        &self,
        wanted: &[CdiDevice],
        grants: &DeviceGrants,
    ) -> Result<Vec<CdiDevice>, Failure> {
        let mut found = BTreeSet::new();
        let mut given = BTreeSet::new();
        for device in wanted {
            let alias = grants.named().and_then(|named| named.get(&device.name));
            match alias {
                Some(Some(target)) => {
                    let target = CdiDevice {
                        name: target.clone(),
                        ..device.clone()
                    };
                    given.extend(self.find(&target)?);
                }
                Some(None) => given.extend(self.find(device)?),
                None => found.extend(self.find(device)?),
            }
        }
        let granted = grants.named().into_iter().flatten();
        for (name, _) in granted.filter(|(_, alias)| alias.is_none()) {
            let name = name.clone();
            let optional = true;
            given.extend(
                self.find(&CdiDevice { name, optional })?
                    .into_iter()
                    .filter(|n| found.contains(n)),
            );
        }
        let allowed = |name: &String| {
            *grants == DeviceGrants::All
                || given.contains(name)
                || self.by_name.get(name).is_some_and(Device::auto_allowed)
        };
        let forbidden: Vec<&str> = found
            .iter()
            .filter(|name| !allowed(name))
            .map(String::as_str)
            .collect();
        if !forbidden.is_empty() {
            let (devices, are) = match forbidden.len() {
                1 => ("device", "is"),
                _ => ("devices", "are"),
            };
            let message = format!(
                "{devices} {} {are} requested by the build but not allowed",
                forbidden.join(", ")
            );
            return Err(Failure::of_kind(FailureKind::PermissionDenied, message));
        }
        found.extend(given);
        let each = found.into_iter().map(|name| CdiDevice {
            name,
            optional: false,
        });
        Ok(each.collect())
    }

    /// What these devices add to a step. Each must be there.
    pub(crate) fn edits(&self, devices: &[CdiDevice]) -> Result<Edits, Failure> {
        let mut edits = Edits::default();
        let mut files = BTreeSet::new();
        for device in devices {
            let found = self.by_name.get(&device.name);
            let found = found.ok_or_else(|| not_registered(&device.name))?;
            edits.add(&device.name, &found.edits)?;
            if files.insert(found.file) {
                edits.add(&device.name, &self.shared[found.file])?;
            }
        }
        Ok(edits)
    }

    /// Qualified names of what a name stands for: a device, the first of a kind, all of a kind (`*`), or a class.
    fn find(&self, wanted: &CdiDevice) -> Result<Vec<String>, Failure> {
        let (kind, name) = wanted.name.split_once('=').unwrap_or((&wanted.name, ""));
        let mut found: Vec<String> = Vec::new();
        if kind.contains('/') {
            let prefix = format!("{kind}=");
            let of_kind = self.by_name.keys().filter(|n| n.starts_with(&prefix));
            match name {
                "" => found.extend(of_kind.take(1).cloned()),
                "*" => found.extend(of_kind.cloned()),
                _ => found.extend(of_kind.filter(|n| **n == wanted.name).cloned()),
            }
        }
        if found.is_empty() {
            let of_class = self.by_name.iter().filter(|(_, device)| {
                device
                    .annotations
                    .get(CLASS)
                    .is_some_and(|c| *c == wanted.name)
            });
            found.extend(of_class.map(|(name, _)| name.clone()));
        }
        if found.is_empty() && !wanted.optional {
            return Err(not_registered(&wanted.name));
        }
        Ok(found)
    }
}

fn not_registered(name: &str) -> Failure {
    let message = format!("required device {name:?} is not registered");
    Failure::of_kind(FailureKind::NotFound, message)
}

/// The devices that a step gets where no device may be named: none, or an error where it needs one.
pub(crate) fn without_devices(wanted: &[CdiDevice], step: &str) -> Result<Vec<CdiDevice>, Failure> {
    match wanted.iter().find(|device| !device.optional) {
        None => Ok(Vec::new()),
        Some(device) => Err(Failure::new(format!(
            "CDI device {:?} is required by step {step:?}, but CDI device support is disabled",
            device.name
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
cdiVersion: "0.6.0"
kind: "vendor1.com/device"
annotations:
  org.mobyproject.buildkit.device.class: class1
containerEdits:
  env: [SHARED=1]
devices:
- name: foo
  containerEdits:
    env: [FOO=injected]
  annotations:
    org.mobyproject.buildkit.device.autoallow: true
- name: bar
  containerEdits:
    deviceNodes: [{path: /dev/bar, type: c, major: 1, minor: 3}]
    mounts: [{hostPath: /lib, containerPath: /host-lib, options: [ro, nosuid]}]
"#;

    fn devices() -> Devices {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), FILE).unwrap();
        std::fs::write(dir.path().join("b.json"), b"{").unwrap();
        Devices::read(&CdiDirs(Some(vec![dir.path().to_owned()])))
    }

    fn wanted(name: &str, optional: bool) -> CdiDevice {
        CdiDevice {
            name: name.into(),
            optional,
        }
    }

    fn names(of: &[CdiDevice], grants: &DeviceGrants) -> Result<Vec<String>, String> {
        let granted = devices().granted(of, grants);
        let granted = granted.map_err(|e| e.message.to_string())?;
        Ok(granted.into_iter().map(|device| device.name).collect())
    }

    #[test]
    fn a_device_is_found_by_name_kind_and_class() {
        let all = ["vendor1.com/device=bar", "vendor1.com/device=foo"];
        let found = |name: &str| names(&[wanted(name, false)], &DeviceGrants::All).unwrap();
        assert_eq!(found("vendor1.com/device=foo"), [all[1]]);
        assert_eq!(found("vendor1.com/device"), [all[0]]);
        assert_eq!(found("vendor1.com/device=*"), all);
        assert_eq!(found("class1"), all);
        let missing = names(&[wanted("v.com/x=y", false)], &DeviceGrants::All);
        let text = "required device \"v.com/x=y\" is not registered";
        assert_eq!(missing.unwrap_err(), text);
        let optional = names(&[wanted("v.com/x=y", true)], &DeviceGrants::None);
        assert!(optional.unwrap().is_empty());
    }

    #[test]
    fn a_device_must_be_granted_unless_everybody_may_have_it() {
        let foo = [wanted("vendor1.com/device=foo", false)];
        assert!(names(&foo, &DeviceGrants::None).is_ok());
        let bar = [wanted("vendor1.com/device=bar", false)];
        let text = "device vendor1.com/device=bar is requested by the build but not allowed";
        assert_eq!(names(&bar, &DeviceGrants::None).unwrap_err(), text);
        let mut grants = DeviceGrants::None;
        grants.add("device=vendor1.com/device=bar").unwrap();
        assert!(names(&bar, &grants).is_ok());
        let mut alias = DeviceGrants::None;
        alias
            .add("device=vendor1.com/device=bar,alias=mine")
            .unwrap();
        let found = names(&[wanted("mine", false)], &alias).unwrap();
        assert_eq!(found, ["vendor1.com/device=bar"]);
        assert!(alias.add("device=a,b=c").is_err());
        alias.add("device").unwrap();
        assert_eq!(alias, DeviceGrants::All);
    }

    #[test]
    fn edits_are_those_of_the_device_and_once_those_of_its_file() {
        let both = ["foo", "bar"].map(|name| wanted(&format!("vendor1.com/device={name}"), false));
        let edits = devices().edits(&both).unwrap();
        assert_eq!(edits.env, ["FOO=injected", "SHARED=1"]);
        assert_eq!(edits.nodes[0].path.as_os_str(), "/dev/bar");
        assert_eq!((edits.nodes[0].major, edits.nodes[0].minor), (1, 3));
        assert!(edits.mounts[0].read_only);
    }
}
