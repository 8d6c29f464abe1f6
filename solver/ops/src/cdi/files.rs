//! Reads descriptions of devices: JSON and YAML files of some directories. Where two describe one device, the later
//! directory's counts. It decides nothing about who may have a device.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Device, Devices};

/// A description, as far as it concerns a step on Linux. What else it may say is kept to be refused by name.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    cdi_version: String,
    kind: String,
    annotations: BTreeMap<String, Scalar>,
    devices: Vec<Described>,
    container_edits: ContainerEdits,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Described {
    name: String,
    annotations: BTreeMap<String, Scalar>,
    container_edits: ContainerEdits,
}

/// What is added to a container.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContainerEdits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<Node>,
    pub(super) mounts: Vec<Mount>,
    pub(super) hooks: Vec<serde_json::Value>,
    pub(super) net_devices: Vec<serde_json::Value>,
    pub(super) intel_rdt: Option<serde_json::Value>,
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Node {
    pub(super) path: PathBuf,
    pub(super) host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) file_mode: Option<u32>,
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Mount {
    pub(super) host_path: PathBuf,
    pub(super) container_path: PathBuf,
    pub(super) options: Vec<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

/// A value that people write without quotes as well.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    Number(i64),
    Text(String),
}

impl From<Scalar> for String {
    fn from(text: Scalar) -> Self {
        match text {
            Scalar::Bool(value) => value.to_string(),
            Scalar::Number(value) => value.to_string(),
            Scalar::Text(value) => value,
        }
    }
}

pub(super) fn read(dirs: &[PathBuf]) -> Devices {
    let mut devices = Devices::default();
    for path in dirs.iter().flat_map(|dir| files_of(dir)) {
        match read_one(&path) {
            Ok(file) => add(&mut devices, file),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, error, "passing over a description of devices");
            }
        }
    }
    devices
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    // A directory that is not there describes nothing.
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let known = |path: &PathBuf| {
        let kind = path.extension().and_then(|kind| kind.to_str());
        matches!(kind, Some("json" | "yaml" | "yml"))
    };
    files.retain(known);
    files.sort();
    files
}

/// YAML is read as such; JSON is YAML too.
fn read_one(path: &Path) -> Result<File, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let file: File = serde_yaml_ng::from_str(&text).map_err(|e| e.to_string())?;
    if file.cdi_version.is_empty() || !file.kind.contains('/') {
        return Err("it has no cdiVersion or no kind VENDOR/CLASS".into());
    }
    Ok(file)
}

fn add(devices: &mut Devices, file: File) {
    let place = devices.shared.len();
    devices.shared.push(file.container_edits);
    for described in file.devices {
        let mut annotations = file.annotations.clone();
        annotations.extend(described.annotations);
        let annotations = annotations.into_iter().map(|(k, v)| (k, v.into()));
        let device = Device {
            annotations: annotations.collect(),
            file: place,
            edits: described.container_edits,
        };
        let name = format!("{}={}", file.kind, described.name);
        devices.by_name.insert(name, device);
    }
}
