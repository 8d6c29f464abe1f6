//! OCI descriptors and the media types of images, OCI's and Docker's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Platform};

/// Media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an uncompressed OCI layer; `+gzip` or `+zstd` is appended for compressed ones.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Media type of a Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of a Docker image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of a Docker image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Media type of an uncompressed Docker layer; `.gzip` or `.zstd` is appended for compressed ones.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Media type of an in-toto statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";

/// What names a blob: OCI image specification, "Content Descriptors".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Type of the blob.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the blob's bytes.
    pub digest: Digest,
    /// Length of the blob, in bytes.
    pub size: u64,
    /// Places to fetch a foreign layer from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The blob itself, base64, where it is embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Platform of the manifest that this names, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Type of an artifact's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// How a layer blob is compressed, as its media type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// A plain tar.
    Uncompressed,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Descriptor {
    /// A bare descriptor of bytes at hand.
    #[must_use]
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// A descriptor without the optional parts.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }

    /// True for an OCI index or a Docker manifest list.
    #[must_use]
    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_INDEX)
    }

    /// True for an image manifest.
    #[must_use]
    pub fn is_manifest(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// How this layer is compressed; `None` where the media type is not a layer's.
    #[must_use]
    pub fn compression(&self) -> Option<Compression> {
        let plain = self
            .media_type
            .strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar")
            .or_else(|| self.media_type.strip_prefix(OCI_LAYER))
            .or_else(|| self.media_type.strip_prefix(DOCKER_LAYER))
            .or_else(|| {
                self.media_type
                    .strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar")
            })?;
        match plain {
            "" => Some(Compression::Uncompressed),
            "+gzip" | ".gzip" => Some(Compression::Gzip),
            "+zstd" | ".zstd" => Some(Compression::Zstd),
            _ => None,
        }
    }
}

impl Compression {
    /// The layer media type for this compression, OCI's or Docker's.
    #[must_use]
    pub fn layer_media_type(self, oci: bool) -> String {
        let (base, mark) = if oci {
            (OCI_LAYER, '+')
        } else {
            (DOCKER_LAYER, '.')
        };
        match self {
            Self::Uncompressed => base.into(),
            Self::Gzip => format!("{base}{mark}gzip"),
            Self::Zstd => format!("{base}{mark}zstd"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_media_type_reads_back_its_compression() {
        for compression in [
            Compression::Uncompressed,
            Compression::Gzip,
            Compression::Zstd,
        ] {
            for oci in [true, false] {
                let media_type = compression.layer_media_type(oci);
                let descriptor = Descriptor::of(&media_type, b"");
                assert_eq!(descriptor.compression(), Some(compression), "{media_type}");
            }
        }
        assert_eq!(Descriptor::of(OCI_CONFIG, b"").compression(), None);
    }
}
