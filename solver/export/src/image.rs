//! The image exporter, and the making of manifests that the archive exporters share: blobs of all layers, configuration,
//! manifest, index; stored with the labels that keep them, landed, named, pushed.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use shipway_backend::{BlobInfo, BlobSlot, Image, Lease, Namespace};
use shipway_layers::{BlobOptions, BlobRecord};
use shipway_model::descriptor::{
    DOCKER_CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST,
};
use shipway_model::image::{Index, chain_ids};
use shipway_model::{Descriptor, Digest, Failure, ImageRef};

use crate::attest::{self, MadeAttestations};
use crate::config::{self, LayerFacts};
use crate::{ExportEnv, Exportable, Exported, Options, PlatformResult, land, push};

/// Layers that are archived at a time: each uses all cores where it is large.
const AT_ONCE: usize = 4;
/// Blobs that are looked for at a time.
const LOOKS_AT_ONCE: usize = 16;

/// An image of one platform, made.
pub(crate) struct MadeImage {
    pub(crate) manifest: (Descriptor, Bytes),
    pub(crate) config: (Descriptor, Bytes),
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) chain: Vec<Digest>,
    /// All its blobs are in the namespace and held by the lease.
    stored: bool,
}

impl MadeImage {
    /// Labels by which the manifest keeps the rest.
    fn references(&self) -> BTreeMap<String, String> {
        references(std::iter::once(&self.config.0).chain(&self.layers))
    }
}

/// The images of all platforms, and the index over them where there is one.
pub(crate) struct Made {
    pub(crate) images: Vec<MadeImage>,
    /// What is said of them.
    pub(crate) attestations: Vec<MadeAttestations>,
    pub(crate) index: Option<(Descriptor, Bytes)>,
}

impl Made {
    /// What a name will name.
    pub(crate) fn target(&self) -> &Descriptor {
        match (&self.index, self.images.first()) {
            (Some((index, _)), _) => index,
            (None, Some(image)) => &image.manifest.0,
            (None, None) => unreachable!("an export of no platform has an index"),
        }
    }

    /// The response that every image-like exporter gives.
    pub(crate) fn response(&self) -> BTreeMap<String, String> {
        let target = self.target();
        let json = serde_json::to_vec(target).expect("a descriptor is JSON");
        let mut response = BTreeMap::from([
            (
                "containerimage.digest".to_owned(),
                target.digest.to_string(),
            ),
            (
                "containerimage.descriptor".to_owned(),
                STANDARD.encode(json),
            ),
        ]);
        if self.index.is_none()
            && let Some(image) = self.images.first()
        {
            let digest = image.config.0.digest.to_string();
            response.insert("containerimage.config.digest".to_owned(), digest);
        }
        response
    }
}

/// Makes everything that an image consists of; nothing is stored yet but the layers' blobs.
pub(crate) async fn make(
    options: &Options,
    what: &Exportable,
    env: &ExportEnv,
) -> Result<Made, Failure> {
    let mut images = Vec::new();
    for result in &what.results {
        images.push(make_one(options, what, result, env).await?);
    }
    let needs_index = what.multi_platform
        || images.len() != 1
        || !options.index_annotations.is_empty()
        || needs_attestations(options, what);
    let mut attestations = Vec::new();
    for (image, result) in images.iter().zip(&what.results).filter(|_| needs_index) {
        let of = what.attestations_of(result);
        if of.is_empty() {
            continue;
        }
        if !options.oci_types {
            return Err(Failure::new(
                "cannot export attestations with \"oci-mediatypes=false\"",
            ));
        }
        let about = (&image.manifest.0, &image.layers[..]);
        attestations.push(attest::make(options, of, result, about, env).await?);
    }
    let index = if needs_index {
        Some(index(options, &images, &attestations)?)
    } else {
        None
    };
    Ok(Made {
        images,
        attestations,
        index,
    })
}

/// True where an attestation is reason enough for an index.
fn needs_attestations(options: &Options, what: &Exportable) -> bool {
    let mut all = what
        .results
        .iter()
        .flat_map(|result| what.attestations_of(result));
    all.any(|attestation| options.inline_attestations || !attestation.head.is_inline_only())
}

async fn make_one(
    options: &Options,
    what: &Exportable,
    result: &PlatformResult,
    env: &ExportEnv,
) -> Result<MadeImage, Failure> {
    let epoch = options.epoch.or(what.epoch);
    let how = options.blob_options(epoch);
    env.report().part("exporting layers", "", 0, 0, false);
    let known = result.snapshot.layers().iter();
    let known = known.map(|layer| {
        env.layers
            .known_blob(layer, &how, options.force_compression)
    });
    let mut stored = None;
    if let Some(records) = known.collect::<Option<Vec<_>>>() {
        let image = image_of(options, epoch, result, &records)?;
        stored = is_stored(&image, env).await?.then_some(image);
    }
    let image = match stored {
        Some(image) => MadeImage {
            stored: true,
            ..image
        },
        None => image_of(
            options,
            epoch,
            result,
            &blobs(&how, options, result, env).await?,
        )?,
    };
    env.report().part("exporting layers", "", 0, 0, true);
    Ok(image)
}

/// Whether an image is stored as it is, and holds it then: its manifest keeps the rest, so that one record is written and
/// not one for each layer. It is looked whether they are there, since content may also be removed by hand.
async fn is_stored(image: &MadeImage, env: &ExportEnv) -> Result<bool, Failure> {
    let blobs = &env.namespace().blobs;
    let (manifest, _) = &image.manifest;
    let references = image.references();
    let keeps_all =
        |info: Option<BlobInfo>| info.is_some_and(|info| has_labels(&info.labels, &references));
    if !keeps_all(blobs.info(&manifest.digest).await?) {
        return Ok(false);
    }
    let expected = Some((manifest.digest, manifest.size));
    let name = blob_name(manifest);
    let slot = blobs.write(&env.need.lease, &name, expected, references.clone());
    if !matches!(slot.await?, BlobSlot::Present) || !keeps_all(blobs.info(&manifest.digest).await?)
    {
        return Ok(false);
    }
    let parts = std::iter::once(&image.config.0).chain(&image.layers);
    let there: Vec<BoxFuture<'_, Result<bool, Failure>>> = parts
        .map(|part| -> BoxFuture<'_, _> {
            Box::pin(async { Ok(blobs.info(&part.digest).await?.is_some()) })
        })
        .collect();
    let all = futures::stream::iter(there).buffer_unordered(LOOKS_AT_ONCE);
    all.try_all(std::future::ready).await
}

fn has_labels(have: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| have.get(key) == Some(value))
}

/// The image of a result whose layers have these blobs.
fn image_of(
    options: &Options,
    epoch: Option<i64>,
    result: &PlatformResult,
    records: &[BlobRecord],
) -> Result<MadeImage, Failure> {
    let facts: Vec<LayerFacts> = result
        .snapshot
        .layers()
        .iter()
        .zip(records)
        .map(|(layer, record)| {
            let meta = layer.meta();
            LayerFacts {
                diff_id: record.diff_id,
                created: meta.created,
                description: meta.description,
            }
        })
        .collect();
    let given = config::Given {
        config: result.config.as_deref(),
        cache: result.cache.as_deref(),
    };
    let config = config::finish(given, &result.platform, &facts, epoch)?;
    let config_type = if options.oci_types {
        OCI_CONFIG
    } else {
        DOCKER_CONFIG
    };
    let config_descriptor = Descriptor::of(config_type, &config);
    let layers: Vec<Descriptor> = records
        .iter()
        .map(|r| layer_descriptor(options, r))
        .collect();
    let manifest = manifest(options, &config_descriptor, &layers)?;
    let manifest_type = if options.oci_types {
        OCI_MANIFEST
    } else {
        DOCKER_MANIFEST
    };
    let mut descriptor = Descriptor::of(manifest_type, &manifest);
    descriptor.platform = Some(result.platform.clone());
    descriptor
        .annotations
        .clone_from(&options.descriptor_annotations);
    let diff_ids: Vec<Digest> = facts.iter().map(|layer| layer.diff_id).collect();
    Ok(MadeImage {
        manifest: (descriptor, manifest),
        config: (config_descriptor, config.into()),
        layers,
        chain: chain_ids(&diff_ids),
        stored: false,
    })
}

/// The blobs of a result's layers, stored and held.
async fn blobs(
    how: &BlobOptions,
    options: &Options,
    result: &PlatformResult,
    env: &ExportEnv,
) -> Result<Vec<BlobRecord>, Failure> {
    let layers = result.snapshot.layers();
    // Boxed one by one: closures over borrowed layers make the whole export's future not provably `Send`.
    let mut each: Vec<BoxFuture<'_, Result<BlobRecord, Failure>>> = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        let below = &layers[..at];
        let force = options.force_compression;
        each.push(Box::pin(async move {
            env.layers.blob(layer, below, how, force, &env.need).await
        }));
    }
    futures::stream::iter(each)
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

/// A layer's descriptor as a manifest has it: the blob's own form, OCI's or Docker's name for it, no internal annotations.
fn layer_descriptor(options: &Options, record: &BlobRecord) -> Descriptor {
    let blob = &record.descriptor;
    let media_type = match blob.compression() {
        Some(compression) => compression.layer_media_type(options.oci_types),
        None => blob.media_type.clone(),
    };
    let mut descriptor = Descriptor {
        urls: blob.urls.clone(),
        ..Descriptor::new(&media_type, blob.digest, blob.size)
    };
    let latest = record.options.and_then(|made| made.latest_time);
    if let Some(latest) = latest.filter(|_| options.oci_types) {
        let key = "buildkit/rewritten-timestamp".to_owned();
        descriptor.annotations.insert(key, latest.to_string());
    }
    descriptor
}

fn manifest(
    options: &Options,
    config: &Descriptor,
    layers: &[Descriptor],
) -> Result<Bytes, Failure> {
    let media_type = if options.oci_types {
        OCI_MANIFEST
    } else {
        DOCKER_MANIFEST
    };
    let layers = if layers.is_empty() {
        None
    } else {
        Some(layers)
    };
    let mut manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config,
        "layers": layers,
    });
    if options.oci_types && !options.manifest_annotations.is_empty() {
        manifest["annotations"] = serde_json::json!(options.manifest_annotations);
    }
    pretty(&manifest)
}

fn index(
    options: &Options,
    images: &[MadeImage],
    attestations: &[MadeAttestations],
) -> Result<(Descriptor, Bytes), Failure> {
    let media_type = if options.oci_types {
        OCI_INDEX
    } else {
        DOCKER_INDEX
    };
    let index = Index {
        schema_version: 2,
        media_type: media_type.into(),
        manifests: images
            .iter()
            .map(|image| image.manifest.0.clone())
            .chain(attestations.iter().map(|made| made.manifest.0.clone()))
            .collect(),
        annotations: options.index_annotations.clone(),
    };
    let bytes = pretty(&index)?;
    Ok((Descriptor::of(media_type, &bytes), bytes))
}

pub(crate) fn pretty(value: &impl serde::Serialize) -> Result<Bytes, Failure> {
    let bytes = serde_json::to_vec_pretty(value);
    Ok(bytes
        .map_err(|e| Failure::from_error(&e).context("writing a manifest"))?
        .into())
}

/// Exports to containerd's image store, and to registries.
pub(crate) async fn export(
    options: &Options,
    what: &Exportable,
    env: &ExportEnv,
) -> Result<Exported, Failure> {
    let made = make(options, what, env).await?;
    let unpacked = if options.unpack && options.store {
        landed(what, &made, env).await?
    } else {
        Vec::new()
    };
    for (place, image) in made.images.iter().enumerate() {
        store_image(image, unpacked.contains(&place), env).await?;
    }
    if let Some((descriptor, bytes)) = &made.index {
        for attestations in &made.attestations {
            store_attestations(attestations, env).await?;
        }
        let images = made.images.iter().map(|image| &image.manifest.0);
        let attestations = made.attestations.iter().map(|made| &made.manifest.0);
        let labels = references(images.chain(attestations));
        store(env.namespace(), &env.need.lease, descriptor, bytes, labels).await?;
    }
    let names = names(options, made.target());
    if options.store {
        for name in &names {
            let part = format!("naming to {name}");
            env.report().part(&part, "", 0, 0, false);
            let target = made.target().clone();
            // What a store's record names carries no platform: it is what a pull of it would have made.
            let target = Descriptor {
                platform: None,
                annotations: BTreeMap::new(),
                ..target
            };
            let image = Image {
                name: name.clone(),
                target,
                labels: BTreeMap::new(),
            };
            env.namespace().images.put(image).await?;
            env.report().part(&part, "", 0, 0, true);
        }
    }
    if options.push {
        if options.names.is_empty() {
            return Err(Failure::new("tag is needed when pushing to registry"));
        }
        for name in &options.names {
            push::push(options, name, &made, env).await?;
        }
    }
    let mut response = made.response();
    if !names.is_empty() {
        response.insert("image.name".into(), names.join(","));
    }
    Ok(Exported {
        response,
        stored: options.store.then(|| made.target().clone()),
    })
}

/// Places of the images that were unpacked: those for this machine's platform.
async fn landed(what: &Exportable, made: &Made, env: &ExportEnv) -> Result<Vec<usize>, Failure> {
    let mut places = Vec::new();
    for (place, (result, image)) in what.results.iter().zip(&made.images).enumerate() {
        if !result.platform.runs_on(&env.host) {
            continue;
        }
        let part = format!("unpacking to {}", env.snapshotter);
        env.report().part(&part, "", 0, 0, false);
        land::land(&result.snapshot, &image.chain, env).await?;
        env.report().part(&part, "", 0, 0, true);
        places.push(place);
    }
    Ok(places)
}

async fn store_image(image: &MadeImage, unpacked: bool, env: &ExportEnv) -> Result<(), Failure> {
    let mut labels = BTreeMap::new();
    if let Some(top) = image.chain.last().filter(|_| unpacked) {
        let key = format!("containerd.io/gc.ref.snapshot.{}", env.snapshotter);
        labels.insert(key, top.to_string());
    }
    let (lease, namespace) = (&env.need.lease, env.namespace());
    let (config, bytes) = &image.config;
    let part = format!("exporting config {}", config.digest);
    if image.stored {
        label(namespace, config, labels).await?;
    } else {
        store(namespace, lease, config, bytes, labels).await?;
    }
    env.report().part(&part, "", 0, 0, true);
    let (manifest, bytes) = &image.manifest;
    let part = format!("exporting manifest {}", manifest.digest);
    if !image.stored {
        store(namespace, lease, manifest, bytes, image.references()).await?;
    }
    env.report().part(&part, "", 0, 0, true);
    Ok(())
}

async fn store_attestations(made: &MadeAttestations, env: &ExportEnv) -> Result<(), Failure> {
    let (lease, namespace) = (&env.need.lease, env.namespace());
    for (descriptor, bytes) in made.blobs() {
        store(namespace, lease, descriptor, bytes, BTreeMap::new()).await?;
    }
    let labels = references(made.blobs().map(|(descriptor, _)| descriptor));
    let (manifest, bytes) = &made.manifest;
    let part = format!("exporting attestation manifest {}", manifest.digest);
    store(namespace, lease, manifest, bytes, labels).await?;
    env.report().part(&part, "", 0, 0, true);
    Ok(())
}

/// Labels by which containerd's collector keeps what a blob names.
fn references<'a>(children: impl Iterator<Item = &'a Descriptor>) -> BTreeMap<String, String> {
    let label = |(at, child): (usize, &Descriptor)| {
        (
            format!("containerd.io/gc.ref.content.{at}"),
            child.digest.to_string(),
        )
    };
    children.enumerate().map(label).collect()
}

/// Stores a small blob with labels.
pub(crate) async fn store(
    namespace: &Namespace,
    lease: &Lease,
    descriptor: &Descriptor,
    bytes: &Bytes,
    labels: BTreeMap<String, String>,
) -> Result<(), Failure> {
    let name = blob_name(descriptor);
    let expected = Some((descriptor.digest, descriptor.size));
    match namespace
        .blobs
        .write(lease, &name, expected, labels.clone())
        .await?
    {
        BlobSlot::Write(mut writer) => {
            writer.append(bytes.clone()).await?;
            writer.commit(descriptor.digest, descriptor.size).await?;
        }
        BlobSlot::Present => label(namespace, descriptor, labels).await?,
    }
    Ok(())
}

/// Makes sure that a stored blob has labels.
async fn label(
    namespace: &Namespace,
    descriptor: &Descriptor,
    labels: BTreeMap<String, String>,
) -> Result<(), Failure> {
    let digest = &descriptor.digest;
    if labels.is_empty() {
        return Ok(());
    }
    let info = namespace.blobs.info(digest).await?;
    if !info.is_some_and(|info| has_labels(&info.labels, &labels)) {
        namespace.blobs.label(digest, labels).await?;
    }
    Ok(())
}

/// Name under which a blob of a known digest is written.
fn blob_name(descriptor: &Descriptor) -> String {
    format!("shipway-{}", descriptor.digest.hex())
}

/// Names that the image gets, as they are stored.
fn names(options: &Options, target: &Descriptor) -> Vec<String> {
    let mut names = Vec::new();
    for name in &options.names {
        names.push(name.clone());
        if options.name_canonical {
            let bare = name
                .parse::<ImageRef>()
                .map_or_else(|_| name.clone(), |r| r.name());
            names.push(format!("{bare}@{}", target.digest));
        }
    }
    if names.is_empty()
        && let Some(prefix) = &options.dangling_prefix
    {
        names.push(format!("{prefix}@{}", target.digest));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nameless_image_takes_the_dangling_prefix() {
        let target = Descriptor::of(OCI_MANIFEST, b"m");
        let options = Options {
            dangling_prefix: Some("<none>".into()),
            ..Options::default()
        };
        assert_eq!(
            names(&options, &target),
            [format!("<none>@{}", target.digest)]
        );
        let named = Options {
            names: vec!["a".into()],
            ..options
        };
        assert_eq!(names(&named, &target), ["a"]);
    }

    #[test]
    fn a_manifest_of_no_layers_has_null_ones() {
        let config = Descriptor::of(OCI_CONFIG, b"c");
        let bytes = manifest(&Options::default(), &config, &[]).unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.contains("\n  \"layers\": null"), "{text}");
    }
}
