//! What is remembered of a layer beside its directory: one small JSON file and one content index per layer, which may be
//! lost at any time and are then made again. Layout: `<dir>/<layer id>.json`, `<dir>/<layer id>.index`.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shipway_backend::LayerId;
use shipway_model::{Descriptor, Digest};

use crate::BlobOptions;

/// What is known of a layer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LayerMeta {
    /// Digest of its uncompressed archive, once known.
    #[serde(default)]
    pub diff_id: Option<Digest>,
    /// Blobs that hold it.
    #[serde(default)]
    pub blobs: Vec<BlobRecord>,
    /// When it was made.
    #[serde(default)]
    pub created: Option<Timestamp>,
    /// Name of the vertex that made it.
    #[serde(default)]
    pub description: String,
}

/// Annotation of a blob with the time when its layer was made, RFC 3339 (BuildKit's caches).
pub const CREATED_AT: &str = "buildkit/createdat";
/// Annotation of a blob with what made its layer.
pub const DESCRIPTION: &str = "buildkit/description";

impl LayerMeta {
    /// What is known of a layer that comes as a blob of somebody else's.
    #[must_use]
    pub fn of_blob(blob: &Descriptor, diff_id: Digest) -> Self {
        let annotation = |key: &str| blob.annotations.get(key);
        let record = BlobRecord {
            options: None,
            descriptor: blob.clone(),
            diff_id,
        };
        Self {
            diff_id: Some(diff_id),
            blobs: vec![record],
            created: annotation(CREATED_AT).and_then(|text| text.parse().ok()),
            description: annotation(DESCRIPTION).cloned().unwrap_or_default(),
        }
    }
}

/// One blob of a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlobRecord {
    /// How it was made; `None` for one that came from elsewhere.
    pub options: Option<BlobOptions>,
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the archive in it.
    pub diff_id: Digest,
}

/// The directory of these files.
#[derive(Debug, Clone)]
pub(crate) struct MetaDir(PathBuf);

impl MetaDir {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// What is remembered; nothing where the file is missing or damaged.
    pub(crate) fn read(&self, id: LayerId) -> LayerMeta {
        let text = std::fs::read(self.file(id, "json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(crate) fn write(&self, id: LayerId, meta: &LayerMeta) -> io::Result<()> {
        self.replace(
            id,
            "json",
            &serde_json::to_vec(meta).map_err(io::Error::other)?,
        )
    }

    pub(crate) fn read_index(&self, id: LayerId) -> Option<Vec<u8>> {
        std::fs::read(self.file(id, "index")).ok()
    }

    pub(crate) fn write_index(&self, id: LayerId, bytes: &[u8]) -> io::Result<()> {
        self.replace(id, "index", bytes)
    }

    /// Removes the files of layers that `lives` does not know.
    pub(crate) fn sweep(&self, lives: impl Fn(LayerId) -> bool) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.0)? {
            let path = entry?.path();
            let id = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok().map(LayerId));
            if !id.is_some_and(&lives) {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn file(&self, id: LayerId, kind: &str) -> PathBuf {
        self.0.join(format!("{id}.{kind}"))
    }

    fn replace(&self, id: LayerId, kind: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(id, kind);
        let fresh = fresh_name(&file);
        std::fs::write(&fresh, bytes)?;
        std::fs::rename(&fresh, &file)
    }
}

/// A name beside `file` that no other writer uses.
fn fresh_name(file: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    file.with_extension(format!("new{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let files = MetaDir::new(dir.path().to_owned());
        let meta = LayerMeta {
            description: "x".into(),
            ..LayerMeta::default()
        };
        files.write(LayerId(1), &meta).unwrap();
        assert_eq!(files.read(LayerId(1)), meta);
        std::fs::write(dir.path().join("1.json"), b"{").unwrap();
        assert_eq!(files.read(LayerId(1)), LayerMeta::default());
    }

    #[test]
    fn sweeping_keeps_the_living() {
        let dir = tempfile::tempdir().unwrap();
        let files = MetaDir::new(dir.path().to_owned());
        for id in [1, 2] {
            files.write_index(LayerId(id), b"i").unwrap();
        }
        files.sweep(|id| id == LayerId(2)).unwrap();
        assert_eq!(files.read_index(LayerId(1)), None);
        assert!(files.read_index(LayerId(2)).is_some());
    }
}
