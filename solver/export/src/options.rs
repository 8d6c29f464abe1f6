//! Options of exporters as clients send them: parsed once, bad values refused by name, unknown names ignored, since
//! clients send one exporter's options to another (protocol notes, section 2).

use std::collections::BTreeMap;

use shipway_layers::BlobOptions;
use shipway_model::descriptor::Compression;

/// The time that a result is dated to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Epoch {
    /// The one that the build says, if it says one.
    #[default]
    Build,
    /// None, whatever the build says.
    None,
    /// Seconds since 1970.
    At(i64),
}

impl Epoch {
    /// Seconds since 1970, where the build says `build`.
    #[must_use]
    pub fn or(self, build: Option<i64>) -> Option<i64> {
        match self {
            Self::Build => build,
            Self::None => None,
            Self::At(seconds) => Some(seconds),
        }
    }
}

/// Options of an exporter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own on the wire"
)]
pub struct Options {
    /// Names of the image.
    pub names: Vec<String>,
    /// Unpack it into the snapshotter.
    pub unpack: bool,
    /// Push it.
    pub push: bool,
    /// Push by digest only.
    pub push_by_digest: bool,
    /// Store the content and the image (image exporter).
    pub store: bool,
    /// Also store it as `name@digest`.
    pub name_canonical: bool,
    /// Name for an image without a name: `prefix@digest`.
    pub dangling_prefix: Option<String>,
    /// Registries may be spoken to without TLS.
    pub insecure: bool,
    /// OCI media types.
    pub oci_types: bool,
    /// Compression of layers.
    pub compression: Compression,
    /// Its effort.
    pub level: Option<u8>,
    /// Also compress anew what has another form.
    pub force_compression: bool,
    /// File times later than `SOURCE_DATE_EPOCH` become that.
    pub rewrite_timestamp: bool,
    /// Annotations of manifests: `annotation.KEY`, `annotation-manifest.KEY`.
    pub manifest_annotations: BTreeMap<String, String>,
    /// Annotations of descriptors in the index: `annotation-manifest-descriptor.KEY`.
    pub descriptor_annotations: BTreeMap<String, String>,
    /// Annotations of the index: `annotation-index.KEY`.
    pub index_annotations: BTreeMap<String, String>,
    /// An archive (`false`: a content store at the client).
    pub tar: bool,
    /// `SOURCE_DATE_EPOCH` of this exporter.
    pub epoch: Epoch,
    /// Directories per platform in local and tar exports; `None` where several platforms come out.
    pub platform_split: Option<bool>,
    /// Attestations that are for inside of images only are reason enough for an index.
    pub inline_attestations: bool,
    /// Attestations are an OCI artifact about their image.
    pub oci_artifact: bool,
    /// Begins the names of attestations' files.
    pub attestation_prefix: String,
}

/// Why an option is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOption {
    /// Not a truth value.
    #[error("non-bool value specified for {0}: {1:?}")]
    Bool(String, String),
    /// Not a number.
    #[error("non-integer value {1:?} specified for {0}")]
    Number(String, String),
    /// A compression that is not offered.
    #[error("unsupported layer compression type: {0}")]
    Compression(String),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            unpack: false,
            push: false,
            push_by_digest: false,
            store: true,
            name_canonical: false,
            dangling_prefix: None,
            insecure: false,
            oci_types: true,
            compression: Compression::Gzip,
            level: None,
            force_compression: false,
            rewrite_timestamp: false,
            manifest_annotations: BTreeMap::new(),
            descriptor_annotations: BTreeMap::new(),
            index_annotations: BTreeMap::new(),
            tar: true,
            epoch: Epoch::Build,
            platform_split: None,
            inline_attestations: false,
            oci_artifact: true,
            attestation_prefix: String::new(),
        }
    }
}

/// A truth value as Go's `strconv.ParseBool` reads it; empty is `if_empty`.
fn truth(key: &str, value: &str, if_empty: bool) -> Result<bool, InvalidOption> {
    match value {
        "" => Ok(if_empty),
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(InvalidOption::Bool(key.into(), value.into())),
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, InvalidOption> {
    value
        .parse()
        .map_err(|_| InvalidOption::Number(key.into(), value.into()))
}

impl Options {
    /// Reads the options. `docker`: the defaults of the docker exporter, which has no OCI types.
    pub fn parse(attrs: &BTreeMap<String, String>, docker: bool) -> Result<Self, InvalidOption> {
        let mut options = Self {
            oci_types: !docker,
            ..Self::default()
        };
        for (key, value) in attrs {
            options.set(key, value)?;
        }
        if docker && options.oci_types {
            // The archive carries OCI types where they were asked for by name.
            options.oci_types = attrs.contains_key("oci-mediatypes");
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), InvalidOption> {
        match key {
            "name" => {
                self.names = value
                    .split(',')
                    .filter(|n| !n.is_empty())
                    .map(Into::into)
                    .collect();
            }
            "unpack" => self.unpack = truth(key, value, true)?,
            "push" => self.push = truth(key, value, true)?,
            "push-by-digest" => self.push_by_digest = truth(key, value, true)?,
            "store" => self.store = truth(key, value, true)?,
            "name-canonical" => self.name_canonical = truth(key, value, true)?,
            "dangling-name-prefix" => self.dangling_prefix = Some(value.into()),
            "registry.insecure" => self.insecure = truth(key, value, true)?,
            "oci-mediatypes" => self.oci_types = truth(key, value, true)?,
            "compression" => self.compression = compression(value)?,
            "compression-level" => self.level = Some(number(key, value)?),
            "force-compression" => self.force_compression = truth(key, value, true)?,
            "rewrite-timestamp" => self.rewrite_timestamp = truth(key, value, true)?,
            "tar" => self.tar = truth(key, value, true)?,
            "attestation-inline" => self.inline_attestations = truth(key, value, true)?,
            "oci-artifact" => self.oci_artifact = truth(key, value, true)?,
            "attestation-prefix" => value.clone_into(&mut self.attestation_prefix),
            "source-date-epoch" if value.is_empty() => self.epoch = Epoch::None,
            "source-date-epoch" => self.epoch = Epoch::At(number(key, value)?),
            "platform-split" => self.platform_split = Some(truth(key, value, true)?),
            _ => self.annotation(key, value),
        }
        Ok(())
    }

    fn annotation(&mut self, key: &str, value: &str) {
        // A platform may stand in brackets: `annotation-manifest[linux/amd64].KEY`; it applies to that platform only.
        let Some((kind, name)) = key.split_once('.') else {
            return;
        };
        let to = match kind {
            "annotation" | "annotation-manifest" => &mut self.manifest_annotations,
            "annotation-manifest-descriptor" => &mut self.descriptor_annotations,
            "annotation-index" => &mut self.index_annotations,
            _ => return,
        };
        to.insert(name.into(), value.into());
    }

    /// How layers become blobs.
    #[must_use]
    pub fn blob_options(&self, epoch: Option<i64>) -> BlobOptions {
        let latest_time = if self.rewrite_timestamp {
            self.epoch.or(epoch)
        } else {
            None
        };
        BlobOptions {
            compression: self.compression,
            level: self.level,
            latest_time,
        }
    }
}

fn compression(value: &str) -> Result<Compression, InvalidOption> {
    match value {
        "uncompressed" => Ok(Compression::Uncompressed),
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        other => Err(InvalidOption::Compression(other.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(attrs: &[(&str, &str)]) -> Result<Options, InvalidOption> {
        let attrs = attrs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Options::parse(&attrs, false)
    }

    #[test]
    fn bad_values_are_refused_and_unknown_names_ignored() {
        let error = parse(&[("unpack", "maybe")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "non-bool value specified for unpack: \"maybe\""
        );
        assert!(parse(&[("compression", "estargz")]).is_err());
        assert_eq!(parse(&[("no-such-thing", "x")]), Ok(Options::default()));
    }

    #[test]
    fn an_empty_truth_value_is_true() {
        assert!(parse(&[("push", "")]).unwrap().push);
        assert_eq!(parse(&[("name", "a,b")]).unwrap().names, ["a", "b"]);
    }

    #[test]
    fn the_docker_exporter_has_docker_types_unless_told() {
        let none = BTreeMap::new();
        assert!(!Options::parse(&none, true).unwrap().oci_types);
        let asked = [("oci-mediatypes".to_owned(), "true".to_owned())].into();
        assert!(Options::parse(&asked, true).unwrap().oci_types);
    }
}
