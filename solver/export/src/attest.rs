//! Attestations of a result as an exporter needs them: bundles taken apart, SBOMs told the layers of files, all of them in-toto
//! statements; and the manifest that holds them beside an image. What they say is decided in `attest`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use shipway_attest::statement::{Kind, SPDX};
use shipway_attest::{Head, purl, spdx};
use shipway_layers::Snapshot;
use shipway_model::descriptor::{IN_TOTO, OCI_CONFIG, OCI_MANIFEST};
use shipway_model::{Descriptor, Digest, Failure, ImageRef, Platform};
use shipway_tree::{Kind as FileKind, Last, Stack};

use crate::image::pretty;
use crate::{ExportEnv, Options, PlatformResult};

/// Largest attestation, in bytes.
const LIMIT: u64 = 80 << 20;
/// Type of a manifest that holds attestations.
const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// Media type of `{}`.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Name of this builder among the tools of an SBOM.
const TOOL: &str = concat!("shipway-", env!("CARGO_PKG_VERSION"));

/// An attestation of a result.
#[derive(Clone)]
pub struct Attestation {
    /// What it is.
    pub head: Head,
    /// Its content.
    pub content: AttestationContent,
}

/// Where an attestation's content is.
#[derive(Clone)]
pub enum AttestationContent {
    /// A file, or for a bundle a directory, of a result.
    Files(Snapshot),
    /// Made when it is exported, after the layers.
    Made(Arc<dyn MakeContent>),
}

/// Makes an attestation's content once the layers of a result are blobs.
#[async_trait]
pub trait MakeContent: Send + Sync {
    /// The predicate.
    async fn make(&self, env: &ExportEnv) -> Result<Bytes, Failure>;
}

impl fmt::Debug for Attestation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attestation").field(&self.head).finish()
    }
}

/// An attestation with its content at hand.
type Whole = (Head, Bytes);

/// Whole attestations of a result, SBOMs of the result itself first.
pub(crate) async fn unbundled(
    attestations: &[Attestation],
    env: &ExportEnv,
) -> Result<Vec<Whole>, Failure> {
    let mut all = Vec::new();
    for attestation in attestations {
        let head = &attestation.head;
        match &attestation.content {
            AttestationContent::Made(content) => {
                head.check(true)?;
                if head.kind == Kind::Bundle {
                    return Err(Failure::new("attestation bundle cannot have callback"));
                }
                all.push((head.clone(), content.make(env).await?));
            }
            AttestationContent::Files(snapshot) => {
                head.check(false)?;
                all.extend(from_files(head, snapshot, env).await?);
            }
        }
    }
    // Stable: others keep their order.
    all.sort_by_key(|(head, _)| !head.is_core_sbom());
    Ok(all)
}

async fn from_files(
    head: &Head,
    snapshot: &Snapshot,
    env: &ExportEnv,
) -> Result<Vec<Whole>, Failure> {
    let paths = snapshot.materialise(&env.layers, &env.need).await?;
    let (path, bundle) = (head.path.clone(), head.kind == Kind::Bundle);
    let files = tokio::task::spawn_blocking(move || {
        let tree = Stack::open(paths)?;
        if bundle {
            return list(&tree, &path);
        }
        Ok(vec![(String::new(), read(&tree, Path::new(&path))?)])
    });
    let files = files.await.map_err(|e| Failure::from_error(&e))?;
    let files = files.map_err(|e: shipway_tree::Error| {
        Failure::from_error(&e).context("cannot read in-toto attestation")
    })?;
    let whole = files.into_iter().map(|(name, content)| {
        if bundle {
            head.unbundle(&name, &content)
        } else {
            Ok((head.clone(), content))
        }
    });
    whole.collect()
}

/// The files of a directory.
fn list(tree: &Stack, path: &str) -> Result<Vec<(String, Bytes)>, shipway_tree::Error> {
    let (_, entry) = tree.find(Path::new(path), Last::Follow)?;
    let Some(dir) = entry.dir else {
        let path = Path::new("/").join(path);
        return Err(shipway_tree::Error::Refused {
            op: "read",
            path,
            why: "it is no directory",
        });
    };
    let mut files = Vec::new();
    for item in tree.list(&dir)? {
        let content = read(tree, &dir.rel.join(&item.name))?;
        files.push((item.name.to_string_lossy().into_owned(), content));
    }
    Ok(files)
}

fn read(tree: &Stack, path: &Path) -> Result<Bytes, shipway_tree::Error> {
    let (rel, entry) = tree.find(path, Last::Follow)?;
    let refused = |why| shipway_tree::Error::Refused {
        op: "read",
        path: Path::new("/").join(path),
        why,
    };
    if entry.stat.kind != FileKind::File {
        return Err(refused("it is no regular file"));
    }
    let file = tree.layers()[entry.layer].open_file(&rel)?;
    let mut bytes = Vec::new();
    file.take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| shipway_tree::Error::io("read", Path::new("/").join(path), e))?;
    if bytes.len() as u64 > LIMIT {
        return Err(refused("it exceeds 80 MiB"));
    }
    Ok(bytes.into())
}

/// The same with SBOMs of the result told which of its layers, lowest first, each file is from.
pub(crate) async fn supplemented(
    all: Vec<Whole>,
    snapshot: &Snapshot,
    layers: &[Descriptor],
    env: &ExportEnv,
) -> Result<Vec<Whole>, Failure> {
    let scanned = |(head, _): &Whole| head.is_core_sbom() && head.predicate_type == SPDX;
    if !all.iter().any(scanned) || snapshot.layers().len() != layers.len() {
        return Ok(all);
    }
    let paths = snapshot.materialise(&env.layers, &env.need).await?;
    let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    let told = tokio::task::spawn_blocking(move || {
        let tree = Stack::open(paths)?;
        let of = |path: &str| {
            // A path that leads nowhere is no file of the result's: its scanner knows better than we.
            let (_, entry) = tree.find(Path::new(path), Last::Keep).ok()?;
            digests.get(entry.layer).map(ToString::to_string)
        };
        let told = all.into_iter().map(|(head, content)| {
            let content = if scanned(&(head.clone(), Bytes::new())) {
                spdx::supplement(&content, TOOL, &of)
            } else {
                content
            };
            (head, content)
        });
        Ok::<Vec<Whole>, shipway_tree::Error>(told.collect())
    });
    let told = told.await.map_err(|e| Failure::from_error(&e))?;
    told.map_err(|e| Failure::from_error(&e).context("looking for the layers of files"))
}

/// The statements about a result, in order.
pub(crate) fn statements(
    all: &[Whole],
    about: &[(String, Digest)],
) -> Result<Vec<(Head, Value)>, Failure> {
    let statement = |(head, content): &Whole| Ok((head.clone(), head.statement(content, about)?));
    all.iter().map(statement).collect()
}

/// Attestations of an image, made.
pub(crate) struct MadeAttestations {
    pub(crate) manifest: (Descriptor, Bytes),
    pub(crate) config: (Descriptor, Bytes),
    pub(crate) statements: Vec<(Descriptor, Bytes)>,
}

impl MadeAttestations {
    /// Everything but the manifest.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &(Descriptor, Bytes)> {
        std::iter::once(&self.config).chain(&self.statements)
    }
}

/// The attestations of an image, in a manifest that refers to it.
pub(crate) async fn make(
    options: &Options,
    attestations: &[Attestation],
    result: &PlatformResult,
    image: (&Descriptor, &[Descriptor]),
    env: &ExportEnv,
) -> Result<MadeAttestations, Failure> {
    let (image, layers) = image;
    let all = unbundled(attestations, env).await?;
    let all = supplemented(all, &result.snapshot, layers, env).await?;
    let about = names(options, &result.platform)
        .into_iter()
        .map(|name| (name, image.digest))
        .collect::<Vec<_>>();
    let mut made = Vec::new();
    for (head, statement) in statements(&all, &about)? {
        let bytes: Bytes = serde_json::to_vec(&statement)
            .map_err(|e| Failure::from_error(&e).context("writing an attestation"))?
            .into();
        let mut descriptor = Descriptor::of(IN_TOTO, &bytes);
        let key = "in-toto.io/predicate-type".to_owned();
        descriptor.annotations.insert(key, head.predicate_type);
        made.push((descriptor, bytes));
    }
    manifest(options, image, made)
}

/// Names of the image for its subjects.
fn names(options: &Options, platform: &Platform) -> Vec<String> {
    let references = options
        .names
        .iter()
        .filter_map(|n| n.parse::<ImageRef>().ok());
    references
        .map(|reference| purl::image("docker", &reference, Some(platform)))
        .collect()
}

fn manifest(
    options: &Options,
    image: &Descriptor,
    statements: Vec<(Descriptor, Bytes)>,
) -> Result<MadeAttestations, Failure> {
    let layers: Vec<&Descriptor> = statements
        .iter()
        .map(|(descriptor, _)| descriptor)
        .collect();
    let mut json = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST});
    let config = if options.oci_artifact {
        json["artifactType"] = json!(ARTIFACT);
        let bytes = Bytes::from_static(b"{}");
        let mut descriptor = Descriptor::of(EMPTY, &bytes);
        descriptor.data = Some("e30=".to_owned());
        (descriptor, bytes)
    } else {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
        let config = json!({
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let bytes = Bytes::from(config.to_string());
        (Descriptor::of(OCI_CONFIG, &bytes), bytes)
    };
    json["config"] = json!(config.0);
    json["layers"] = json!(layers);
    if options.oci_artifact {
        json["subject"] = json!({
            "mediaType": image.media_type,
            "digest": image.digest,
            "size": image.size,
        });
    }
    let bytes = pretty(&json)?;
    let mut descriptor = Descriptor::of(OCI_MANIFEST, &bytes);
    descriptor.platform = Some(Platform::new("unknown", "unknown", ""));
    descriptor.annotations = BTreeMap::from([
        (
            "vnd.docker.reference.type".to_owned(),
            "attestation-manifest".to_owned(),
        ),
        (
            "vnd.docker.reference.digest".to_owned(),
            image.digest.to_string(),
        ),
    ]);
    Ok(MadeAttestations {
        manifest: (descriptor, bytes),
        config,
        statements,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(options: &Options) -> Value {
        let image = Descriptor::of(OCI_MANIFEST, b"image");
        let statement = Bytes::from_static(b"{}");
        let statements = vec![(Descriptor::of(IN_TOTO, &statement), statement)];
        let made = manifest(options, &image, statements).unwrap();
        let reference = &made.manifest.0.annotations["vnd.docker.reference.digest"];
        assert_eq!(*reference, image.digest.to_string());
        serde_json::from_slice(&made.manifest.1).unwrap()
    }

    #[test]
    fn attestations_are_an_artifact_about_the_image() {
        let manifest = made(&Options::default());
        assert_eq!(manifest["artifactType"], ARTIFACT);
        assert_eq!(manifest["config"]["data"], "e30=");
        assert_eq!(manifest["subject"]["mediaType"], OCI_MANIFEST);
        assert_eq!(manifest["layers"][0]["mediaType"], IN_TOTO);
    }

    #[test]
    fn without_artifacts_they_are_an_image_of_statements() {
        let options = Options {
            oci_artifact: false,
            ..Options::default()
        };
        let manifest = made(&options);
        assert_eq!(manifest["config"]["mediaType"], OCI_CONFIG);
        assert_eq!(manifest["subject"], Value::Null);
    }
}
