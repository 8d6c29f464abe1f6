//! What a finished build leaves on this side: the metadata file, and the indexes of layouts that got blobs.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::cache::Caches;
use super::index::{Index, Name};
use crate::error::Error;

type Response = BTreeMap<String, String>;

/// Writes the exporters' answers as JSON; values that hold an encoded object are unfolded.
pub(crate) fn write_metadata(path: &Path, response: &Response) -> Result<(), Error> {
    let unfolded: Map<_, _> = response
        .iter()
        .map(|(key, value)| (key.clone(), unfold(value)))
        .collect();
    let text = serde_json::to_string_pretty(&unfolded).expect("JSON values have a JSON form");
    write_whole(path, text.as_bytes())
}

/// Writes a file beside its name and renames it, so that nobody reads half of it.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}.part"));
    std::fs::write(&part, content).map_err(Error::file("writing", &part))?;
    std::fs::rename(&part, path).map_err(Error::file("writing", path))
}

fn unfold(value: &str) -> Value {
    let decoded = STANDARD.decode(value).ok();
    match decoded.and_then(|text| serde_json::from_slice(&text).ok()) {
        Some(Value::Object(object)) if !object.is_empty() => Value::Object(object),
        _ => Value::String(value.to_owned()),
    }
}

/// Records the manifests that arrived in local layouts.
pub(super) fn update_indexes(caches: &Caches, response: &Response) -> Result<(), Error> {
    let unreadable =
        |error: serde_json::Error| Error::Answer(format!("exporter response: {error}"));
    if let Some(text) = response
        .get("cache.manifest")
        .filter(|text| !text.is_empty())
    {
        let descriptor: Value = serde_json::from_str(text).map_err(unreadable)?;
        for (dir, tag) in &caches.cache_indexes {
            Index::open(dir).put(&descriptor, &[Name::Tag(tag.clone())])?;
        }
    }
    let Some(encoded) = response.get("containerimage.descriptor") else {
        return Ok(());
    };
    if caches.image_indexes.is_empty() {
        return Ok(());
    }
    let text = STANDARD
        .decode(encoded)
        .map_err(|error| Error::Answer(format!("exporter response: {error}")))?;
    let descriptor: Value = serde_json::from_slice(&text).map_err(unreadable)?;
    let names = match response.get("image.name") {
        Some(names) => names
            .split(',')
            .map(|name| Name::Full(name.to_owned()))
            .collect(),
        None => vec![Name::Tag("latest".to_owned())],
    };
    caches
        .image_indexes
        .iter()
        .try_for_each(|dir| Index::open(dir).put(&descriptor, &names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_objects_are_unfolded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metadata.json");
        let descriptor = STANDARD.encode(r#"{"size":3}"#);
        let response = [("a", "sha256:x"), ("d", descriptor.as_str()), ("n", "MQ==")];
        let response = response.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        write_metadata(&path, &response).unwrap();
        let read: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            read,
            serde_json::json!({"a": "sha256:x", "d": {"size": 3}, "n": "MQ=="})
        );
    }
}
