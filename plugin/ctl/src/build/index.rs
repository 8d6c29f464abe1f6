//! `index.json` of an OCI layout: finds and records manifests by name. Never touches blobs.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde_json::{Map, Value, json};

use crate::error::Error;

/// Annotation that names an image in full.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// Annotation that holds a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Under which name a manifest is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// An image's full name; its tag is recorded too.
    Full(String),
    /// A bare tag.
    Tag(String),
}

/// The index of one layout.
#[derive(Debug)]
pub(super) struct Index {
    dir: PathBuf,
}

impl Index {
    pub(super) fn open(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("index.json")
    }

    fn read(&self) -> Result<Map<String, Value>, Error> {
        let path = self.path();
        let text = std::fs::read(&path).map_err(Error::file("reading", &path))?;
        match serde_json::from_slice(&text) {
            Ok(Value::Object(index)) => Ok(index),
            Ok(_) => Err(Error::Answer(format!(
                "{} is no JSON object",
                path.display()
            ))),
            Err(error) => Err(Error::Answer(format!("{}: {error}", path.display()))),
        }
    }

    /// The digest recorded under a full name or, failing that, a tag.
    pub(super) fn find(&self, name: &str) -> Result<Option<String>, Error> {
        let index = self.read()?;
        let manifests = index.get("manifests").and_then(Value::as_array);
        let with = |key: &str| {
            let found = manifests?
                .iter()
                .find(|m| m["annotations"][key].as_str() == Some(name))?;
            Some(found["digest"].as_str()?.to_owned())
        };
        Ok(with(IMAGE_NAME).or_else(|| with(REF_NAME)))
    }

    /// Records a manifest under each name, in place of what had it.
    pub(super) fn put(&self, descriptor: &Value, names: &[Name]) -> Result<(), Error> {
        let lock_path = self.dir.join("index.json.lock");
        let lock = File::create(&lock_path).map_err(Error::file("creating", &lock_path))?;
        let locked = rustix::fs::flock(&lock, FlockOperation::LockExclusive);
        locked.map_err(|errno| Error::file("locking", &lock_path)(errno.into()))?;
        let layout = self.dir.join("oci-layout");
        std::fs::write(&layout, r#"{"imageLayoutVersion":"1.0.0"}"#)
            .map_err(Error::file("writing", &layout))?;
        let mut index = if self.path().exists() {
            self.read()?
        } else {
            Map::new()
        };
        insert(&mut index, descriptor, names);
        let part = self.dir.join(".index.json.part");
        let text = Value::Object(index).to_string();
        std::fs::write(&part, text).map_err(Error::file("writing", &part))?;
        std::fs::rename(&part, self.path()).map_err(Error::file("writing", self.path()))?;
        std::fs::remove_file(&lock_path).map_err(Error::file("removing", &lock_path))
    }
}

fn insert(index: &mut Map<String, Value>, descriptor: &Value, names: &[Name]) {
    index.entry("schemaVersion").or_insert(json!(2));
    index
        .entry("mediaType")
        .or_insert(json!("application/vnd.oci.image.index.v1+json"));
    let manifests = index.entry("manifests").or_insert_with(|| json!([]));
    let Some(manifests) = manifests.as_array_mut() else {
        return;
    };
    for name in names {
        let (full, tag) = match name {
            Name::Full(full) => (Some(full.as_str()), tag_of(full)),
            Name::Tag(tag) => (None, Some(tag.as_str())),
        };
        manifests.retain(|manifest| match full {
            Some(full) => manifest["annotations"][IMAGE_NAME].as_str() != Some(full),
            None => manifest["annotations"][REF_NAME].as_str() != tag,
        });
        let mut manifest = descriptor.clone();
        let mut annotate = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                manifest["annotations"][key] = json!(value);
            }
        };
        annotate(IMAGE_NAME, full);
        annotate(REF_NAME, tag);
        manifests.push(manifest);
    }
}

fn tag_of(name: &str) -> Option<&str> {
    let last = name.rsplit('/').next()?;
    Some(last.split_once(':').map_or("latest", |(_, tag)| tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_points_at_its_latest_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path());
        assert!(index.find("latest").is_err());
        index
            .put(
                &json!({"digest": "sha256:a"}),
                &[Name::Tag("latest".into())],
            )
            .unwrap();
        index
            .put(
                &json!({"digest": "sha256:b"}),
                &[Name::Tag("latest".into())],
            )
            .unwrap();
        assert_eq!(index.find("latest").unwrap().as_deref(), Some("sha256:b"));
        index
            .put(
                &json!({"digest": "sha256:c"}),
                &[Name::Full("r/x:1".into())],
            )
            .unwrap();
        assert_eq!(index.find("r/x:1").unwrap().as_deref(), Some("sha256:c"));
        assert_eq!(index.find("1").unwrap().as_deref(), Some("sha256:c"));
        assert_eq!(index.find("2").unwrap(), None);
    }
}
