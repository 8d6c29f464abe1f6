//! Options of cache exports and imports as clients send them: parsed once, before anything runs. A kind of cache that is
//! not offered is refused by name; unknown options are ignored, as BuildKit does.

use std::collections::BTreeMap;

use shipway_layers::BlobOptions;
use shipway_model::descriptor::Compression;
use shipway_model::{CacheEntry, Digest, ImageRef};

type Attrs = BTreeMap<String, String>;

/// How much of a build is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The result's layers, and what has blobs anyway.
    #[default]
    Min,
    /// Every step.
    Max,
}

/// Where a cache goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportTo {
    /// A reference of a registry.
    Registry {
        /// The reference.
        image: ImageRef,
        /// Plain HTTP and unverified TLS are fine.
        insecure: bool,
    },
    /// A directory of the client, named as the client named it.
    Local(String),
    /// The configuration of the exported image.
    Inline,
}

/// A checked cache export.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own on the wire"
)]
pub struct CacheExport {
    /// Where to.
    pub to: ExportTo,
    /// How much.
    pub mode: Mode,
    /// OCI media types.
    pub oci_types: bool,
    /// An image manifest instead of an index.
    pub image_manifest: bool,
    /// How layers are compressed.
    pub blobs: BlobOptions,
    /// Also compress anew what has another form.
    pub force_compression: bool,
    /// A failure does not fail the build.
    pub ignore_error: bool,
}

/// Where a cache comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheImport {
    /// A reference of a registry: a cache, or an image with one in its configuration.
    Registry {
        /// The reference.
        image: ImageRef,
        /// The reference as it was written, to show.
        text: String,
        /// Plain HTTP and unverified TLS are fine.
        insecure: bool,
    },
    /// A directory of the client.
    Local {
        /// The directory, named as the client named it.
        src: String,
        /// Its manifest.
        digest: Digest,
    },
}

/// Why a cache export or import is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCache {
    /// BuildKit has it, we do not.
    #[error("cache {what} of type {kind:?} is not supported")]
    Unsupported {
        /// `export` or `import`.
        what: &'static str,
        /// The type.
        kind: String,
    },
    /// Nobody has it.
    #[error("unknown cache {what}er: {kind:?}")]
    Unknown {
        /// `export` or `import`.
        what: &'static str,
        /// The type.
        kind: String,
    },
    /// An option is missing or wrong.
    #[error("failed to configure {kind} cache {what}er: {reason}")]
    Option {
        /// `export` or `import`.
        what: &'static str,
        /// The type.
        kind: String,
        /// What is wrong.
        reason: String,
    },
    /// One cache is exported twice.
    #[error("duplicate cache exports [{0}]")]
    Duplicate(String),
}

/// Types of caches that BuildKit has beside ours.
const OTHERS: [&str; 3] = ["gha", "s3", "azblob"];

fn other(what: &'static str, kind: &str) -> InvalidCache {
    let known = OTHERS.contains(&kind) || (what == "import" && kind == "inline");
    let kind = kind.to_owned();
    if known {
        InvalidCache::Unsupported { what, kind }
    } else {
        InvalidCache::Unknown { what, kind }
    }
}

impl CacheExport {
    /// Checks an export.
    pub fn parse(entry: &CacheEntry) -> Result<Self, InvalidCache> {
        let CacheEntry { kind, attrs } = entry;
        let fail = |reason: String| InvalidCache::Option {
            what: "export",
            kind: kind.clone(),
            reason,
        };
        let to = match kind.as_str() {
            "registry" => ExportTo::Registry {
                image: image(attrs).map_err(fail)?,
                insecure: truth(attrs, "registry.insecure", false).map_err(fail)?,
            },
            "local" => {
                let dest = attrs.get("dest").filter(|dest| !dest.is_empty());
                let missing = || fail("local cache exporter requires dest".into());
                ExportTo::Local(dest.ok_or_else(missing)?.clone())
            }
            "inline" => ExportTo::Inline,
            kind => return Err(other("export", kind)),
        };
        let oci_types = truth(attrs, "oci-mediatypes", true).map_err(fail)?;
        let image_manifest = truth(attrs, "image-manifest", oci_types).map_err(fail)?;
        if image_manifest && !oci_types {
            return Err(fail(
                "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format"
                    .into(),
            ));
        }
        let forced = attrs.get("force-compression").map(String::as_str) == Some("");
        Ok(Self {
            to,
            // As BuildKit, which takes any other word for `min`.
            mode: match attrs.get("mode").map(String::as_str) {
                Some("max") => Mode::Max,
                _ => Mode::Min,
            },
            oci_types,
            image_manifest,
            blobs: BlobOptions {
                compression: compression(attrs).map_err(fail)?,
                level: level(attrs).map_err(fail)?,
                latest_time: None,
            },
            force_compression: forced || truth(attrs, "force-compression", false).map_err(fail)?,
            // As BuildKit, which passes over what is no truth value.
            ignore_error: truth(attrs, "ignore-error", false).unwrap_or(false),
        })
    }

    /// Checks all exports of a build.
    pub fn parse_all(entries: &[CacheEntry]) -> Result<Vec<Self>, InvalidCache> {
        let mut seen: Vec<&CacheEntry> = Vec::new();
        let mut exports = Vec::new();
        for entry in entries {
            let inline = |of: &&CacheEntry| of.kind == "inline";
            if inline(&entry) && seen.iter().any(inline) {
                // As BuildKit: an image has one cache.
                continue;
            }
            if seen.contains(&entry) {
                return Err(InvalidCache::Duplicate(entry.kind.clone()));
            }
            seen.push(entry);
            exports.push(Self::parse(entry)?);
        }
        Ok(exports)
    }

    /// Text to show.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.to {
            ExportTo::Registry { .. } => "exporting cache to registry",
            ExportTo::Local(_) => "exporting cache to client directory",
            ExportTo::Inline => "exporting inline cache",
        }
    }
}

impl CacheImport {
    /// Checks an import.
    pub fn parse(entry: &CacheEntry) -> Result<Self, InvalidCache> {
        let CacheEntry { kind, attrs } = entry;
        let fail = |reason: String| InvalidCache::Option {
            what: "import",
            kind: kind.clone(),
            reason,
        };
        match kind.as_str() {
            "registry" => Ok(Self::Registry {
                image: image(attrs).map_err(fail)?,
                text: attrs.get("ref").cloned().unwrap_or_default(),
                insecure: truth(attrs, "registry.insecure", false).map_err(fail)?,
            }),
            "local" => {
                let given = |key: &str, missing: &str| {
                    let value = attrs.get(key).filter(|value| !value.is_empty());
                    value.ok_or_else(|| fail(missing.to_owned()))
                };
                let digest = given("digest", "local cache importer requires explicit digest")?;
                let digest = digest
                    .parse()
                    .map_err(|e: shipway_model::digest::InvalidDigest| fail(e.to_string()))?;
                let src = given("src", "local cache importer requires src")?.clone();
                Ok(Self::Local { src, digest })
            }
            kind => Err(other("import", kind)),
        }
    }

    /// What names it among a build's imports.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Registry { text, .. } => text.clone(),
            Self::Local { src, digest } => format!("local:{src}@{digest}"),
        }
    }
}

fn image(attrs: &Attrs) -> Result<ImageRef, String> {
    match attrs.get("ref").map(String::as_str) {
        None | Some("") => Err("missing ref".into()),
        Some(text) => text
            .parse()
            .map_err(|e: shipway_model::reference::InvalidReference| e.to_string()),
    }
}

/// A truth value as Go's `strconv.ParseBool` reads it.
fn truth(attrs: &Attrs, key: &str, default: bool) -> Result<bool, String> {
    match attrs.get(key).map(String::as_str) {
        None => Ok(default),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(format!("failed to parse {key}: invalid value {other:?}")),
    }
}

fn compression(attrs: &Attrs) -> Result<Compression, String> {
    match attrs.get("compression").map(String::as_str) {
        None | Some("gzip") => Ok(Compression::Gzip),
        Some("uncompressed") => Ok(Compression::Uncompressed),
        Some("zstd") => Ok(Compression::Zstd),
        Some(other) => Err(format!("unsupported layer compression type: {other}")),
    }
}

fn level(attrs: &Attrs) -> Result<Option<u8>, String> {
    let level = attrs.get("compression-level").map(|text| {
        text.parse()
            .map_err(|_| format!("non-integer value {text} specified for compression-level"))
    });
    level.transpose()
}
