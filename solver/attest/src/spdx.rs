//! SPDX documents of scanners: each file is told which layer of the image it is from, as scanners see a tree only.

use bytes::Bytes;
use serde_json::{Value, json};

/// The document with the layers of its files; the same where it is none that can be read. `layer` finds the digest of the
/// layer that a path, absolute, was added in. A file that has a comment keeps it: it is free text.
pub fn supplement(
    document: &Bytes,
    tool: &str,
    mut layer: impl FnMut(&str) -> Option<String>,
) -> Bytes {
    let Ok(mut json) = serde_json::from_slice::<Value>(document) else {
        return document.clone();
    };
    let version = json["spdxVersion"].as_str().unwrap_or_default();
    if !version.starts_with("SPDX-2.") {
        return document.clone();
    }
    tell(&mut json["files"], &mut layer);
    if let Some(packages) = json["packages"].as_array_mut() {
        for package in packages {
            if package.get("files").is_some() {
                tell(&mut package["files"], &mut layer);
            }
        }
    }
    if json["files"].is_null()
        && let Some(fields) = json.as_object_mut()
    {
        fields.shift_remove("files");
    }
    let creators = &mut json["creationInfo"]["creators"];
    let tool = json!(format!("Tool: {tool}"));
    match creators.as_array_mut() {
        Some(creators) => creators.push(tool),
        None => *creators = json!([tool]),
    }
    serde_json::to_vec(&json).map_or_else(|_| document.clone(), Bytes::from)
}

fn tell(files: &mut Value, layer: &mut impl FnMut(&str) -> Option<String>) {
    let Some(files) = files.as_array_mut() else {
        return;
    };
    for file in files {
        let commented = file["comment"]
            .as_str()
            .is_some_and(|text| !text.is_empty());
        let Some(name) = file["fileName"].as_str().filter(|_| !commented) else {
            continue;
        };
        let path = format!("/{}", name.trim_start_matches("./").trim_start_matches('/'));
        if let Some(digest) = layer(&path) {
            file["comment"] = json!(format!("layerID: {digest}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_their_layers() {
        let document = json!({
            "spdxVersion": "SPDX-2.3",
            "files": [
                {"fileName": "/a"},
                {"fileName": "b", "comment": "mine"},
                {"fileName": "c"},
            ],
        });
        let layer = |path: &str| (path != "/c").then(|| "sha256:1".to_owned());
        let told = supplement(&document.to_string().into(), "t", layer);
        let told: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told["files"][0]["comment"], "layerID: sha256:1");
        assert_eq!(told["files"][1]["comment"], "mine");
        assert_eq!(told["files"][2]["comment"], Value::Null);
        assert_eq!(told["creationInfo"]["creators"][0], "Tool: t");
    }

    #[test]
    fn other_documents_stay_as_they_are() {
        for text in ["nonsense", r#"{"name":"x"}"#] {
            let document = Bytes::from(text);
            assert_eq!(supplement(&document, "t", |_| None), document);
        }
    }
}
