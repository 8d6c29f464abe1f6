//! Writes a cache: makes the blobs that the mode asks for, says in a configuration which keys lead to them, and hands both
//! to a registry or to the client. It decides which results are exported; keys come from the engine.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use shipway_backend::{BlobSlot, LayerId};
use shipway_cache::ResultId;
use shipway_cache::export::Exported;
use shipway_layers::{BlobRecord, CREATED_AT, DESCRIPTION, Layer, Layers, Need, Snapshot};
use shipway_model::descriptor::{DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST};
use shipway_model::image::{Index, Manifest};
use shipway_model::{Descriptor, Digest, Failure};

use crate::chains::{self, Entry};
use crate::config::{CONFIG_TYPE, Config};
use crate::import::UNCOMPRESSED;
use crate::options::{CacheExport, Mode};
use crate::sink::Sink;

/// Layers that are archived, or blobs that are written, at a time.
const AT_ONCE: usize = 4;

/// Key of the response under which the manifest's descriptor stands, as JSON.
const MANIFEST_KEY: &str = "cache.manifest";

/// Opens a recorded result; `None` where it is gone.
pub type OpenResult<'a> = &'a (dyn Fn(&ResultId) -> Option<Snapshot> + Send + Sync);

/// What an export needs.
pub struct Exporting<'a> {
    /// What is exported and how.
    pub export: &'a CacheExport,
    /// Keys of each platform's result.
    pub keys: Vec<Vec<Exported>>,
    /// Opens their results.
    pub open: OpenResult<'a>,
    /// Layers of this machine.
    pub layers: &'a Layers,
    /// On whose behalf blobs are made; its lease holds them.
    pub need: &'a Need,
}

/// The blobs of a result's layers.
struct Blobs {
    by_digest: HashMap<Digest, (BlobRecord, Layer)>,
    by_layer: HashMap<LayerName, BlobRecord>,
}

/// A result that is exported.
struct Chosen {
    snapshot: Snapshot,
    /// Names of its layers, taken before any of them is unpacked and gets another.
    names: Vec<Option<LayerName>>,
    created_at: Timestamp,
    /// Its blobs are to be made.
    make: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum LayerName {
    Stored(LayerId),
    Lazy(Digest),
}

fn name(layer: &Layer) -> Option<LayerName> {
    let lazy = || layer.provider().map(|p| p.descriptor().digest);
    layer
        .id()
        .map(LayerName::Stored)
        .or_else(|| lazy().map(LayerName::Lazy))
}

impl Exporting<'_> {
    /// Exports; gives the response's keys. Nothing is written where no result has a layer.
    pub async fn run(self, sink: &Sink) -> Result<BTreeMap<String, String>, Failure> {
        let report = &*self.need.report;
        let preparing = "preparing build cache for export";
        report.part(preparing, "", 0, 0, false);
        let (entries, blobs) = self.entries().await?;
        let config = chains::assemble(&entries);
        report.part(preparing, "", 0, 0, true);
        if config.layers.is_empty() {
            report.part("skipping cache export for empty result", "", 0, 0, true);
            return Ok(BTreeMap::new());
        }
        let sending = "sending cache export";
        report.part(sending, "", 0, 0, false);
        let written = self.write(&config, &blobs, sink).await?;
        report.part(sending, "", 0, 0, true);
        let json = serde_json::to_string(&written);
        let json = json.map_err(|e| Failure::from_error(&e).context("writing a descriptor"))?;
        Ok(BTreeMap::from([(MANIFEST_KEY.to_owned(), json)]))
    }

    /// The records for an image's configuration, whose layers' blobs are these; `None` where no result is in the image.
    pub async fn inline(&self, image: &[BlobRecord]) -> Result<Option<Bytes>, Failure> {
        let (mut entries, blobs) = self.entries().await?;
        // A layer may have blobs of several forms: what counts is what is in them.
        let by_content =
            |blob: &Digest| blobs.by_digest.get(blob).map(|(record, _)| record.diff_id);
        for entry in &mut entries {
            let Some((layers, _)) = &mut entry.result else {
                continue;
            };
            for layer in layers {
                *layer = by_content(layer).unwrap_or(*layer);
            }
        }
        let image: Vec<Digest> = image.iter().map(|record| record.diff_id).collect();
        let config = chains::assemble_inline(&entries, &image);
        let any = config.records.iter().any(|r| !r.results.is_empty());
        Ok(any.then(|| config.encode_inline().into()))
    }

    async fn entries(&self) -> Result<(Vec<Entry>, Blobs), Failure> {
        let mut entries = Vec::new();
        let mut results: Vec<Option<Chosen>> = Vec::new();
        for keys in &self.keys {
            let offset = entries.len();
            let opened = self.choose(keys);
            for (exported, opened) in keys.iter().zip(opened) {
                entries.push(entry(exported, offset));
                results.push(opened);
            }
        }
        let blobs = self.make(&results).await?;
        for (at, opened) in results.into_iter().enumerate() {
            let Some(chosen) = opened else {
                continue;
            };
            let found = |name: &Option<LayerName>| blobs.by_layer.get(name.as_ref()?);
            let names = chosen.names.iter();
            let names = names.map(|name| Some(found(name)?.descriptor.digest));
            let names: Option<Vec<Digest>> = names.collect();
            entries[at].result = names.map(|names| (names, chosen.created_at));
        }
        Ok((entries, blobs))
    }

    /// The newest result of every key that is no source's, and whether its blobs are to be made.
    fn choose(&self, keys: &[Exported]) -> Vec<Option<Chosen>> {
        let mut covered = vec![false; keys.len()];
        let mut chosen: Vec<Option<Chosen>> = Vec::with_capacity(keys.len());
        chosen.resize_with(keys.len(), || None);
        for (at, exported) in keys.iter().enumerate().rev() {
            let make = self.export.mode == Mode::Max || !covered[at];
            let records = exported.records.iter();
            let mut records = records.filter(|_| !exported.inputs.is_empty());
            chosen[at] = records.find_map(|record| {
                let snapshot = (self.open)(&record.result).filter(|s| !s.is_empty())?;
                Some(Chosen {
                    names: snapshot.layers().iter().map(name).collect(),
                    snapshot,
                    created_at: record.created_at,
                    make,
                })
            });
            if covered[at] || chosen[at].is_some() {
                let links = exported.inputs.iter().flatten();
                for link in links.filter(|link| link.from < at) {
                    covered[link.from] = true;
                }
            }
        }
        chosen
    }

    /// Makes the blobs that are to be made, and finds those of other layers that are there.
    async fn make(&self, results: &[Option<Chosen>]) -> Result<Blobs, Failure> {
        let mut wanted: Vec<(LayerName, Snapshot, usize, bool)> = Vec::new();
        let mut places: HashMap<LayerName, usize> = HashMap::new();
        for chosen in results.iter().flatten() {
            for (depth, name) in chosen.names.iter().enumerate() {
                let Some(name) = name else { continue };
                let fresh = wanted.len();
                let at = *places.entry(name.clone()).or_insert(fresh);
                if at == fresh {
                    wanted.push((name.clone(), chosen.snapshot.clone(), depth, false));
                }
                wanted[at].3 |= chosen.make;
            }
        }
        let mut each: Vec<BoxFuture<'_, Result<_, Failure>>> = Vec::new();
        for (name, snapshot, depth, make) in wanted {
            each.push(Box::pin(async move {
                let record = self.blob(&snapshot, depth, make).await?;
                Ok(record.map(|record| (name, record, snapshot.layers()[depth].clone())))
            }));
        }
        let made = futures::stream::iter(each).buffered(AT_ONCE);
        let made: Vec<Option<(LayerName, BlobRecord, Layer)>> = made.try_collect().await?;
        let mut blobs = Blobs {
            by_digest: HashMap::new(),
            by_layer: HashMap::new(),
        };
        for (name, record, layer) in made.into_iter().flatten() {
            let digest = record.descriptor.digest;
            blobs.by_digest.insert(digest, (record.clone(), layer));
            blobs.by_layer.insert(name, record);
        }
        Ok(blobs)
    }

    async fn blob(
        &self,
        snapshot: &Snapshot,
        depth: usize,
        make: bool,
    ) -> Result<Option<BlobRecord>, Failure> {
        let (layer, below) = (&snapshot.layers()[depth], &snapshot.layers()[..depth]);
        let (options, force) = (&self.export.blobs, self.export.force_compression);
        let known = self.layers.known_blob(layer, options, force);
        if let (None, Some(known)) = (layer.id(), &known) {
            // Fetched only if it has to be written. One that is nowhere any more has no result to export.
            let there = self.hold(known).await? || self.available(layer).await;
            return Ok(there.then(|| known.clone()));
        }
        if make {
            let made = self.layers.blob(layer, below, options, force, self.need);
            return made.await.map(Some);
        }
        let Some(known) = known else { return Ok(None) };
        Ok(self.hold(&known).await?.then_some(known))
    }

    /// True where the blob is stored here; the lease holds it from now on.
    async fn hold(&self, record: &BlobRecord) -> Result<bool, Failure> {
        let blob = &record.descriptor;
        let blobs = &self.need.namespace.blobs;
        if blobs.info(&blob.digest).await?.is_none() {
            return Ok(false);
        }
        let name = format!("shipway-{}", blob.digest.hex());
        let expected = Some((blob.digest, blob.size));
        let slot = blobs.write(&self.need.lease, &name, expected, BTreeMap::new());
        Ok(matches!(slot.await?, BlobSlot::Present))
    }

    /// True where a layer that was never fetched can be.
    async fn available(&self, layer: &Layer) -> bool {
        match layer.provider() {
            Some(provider) => provider.available(self.need).await,
            None => false,
        }
    }

    async fn write(
        &self,
        config: &Config,
        blobs: &Blobs,
        sink: &Sink,
    ) -> Result<Descriptor, Failure> {
        let report = &*self.need.report;
        let mut layers: Vec<Descriptor> = Vec::new();
        let mut each: Vec<BoxFuture<'_, Result<(), Failure>>> = Vec::new();
        for layer in &config.layers {
            let (record, layer) = blobs
                .by_digest
                .get(&layer.blob)
                .expect("a configuration names blobs that were found");
            if layers.iter().any(|d| d.digest == record.descriptor.digest) {
                continue;
            }
            layers.push(self.described(record, layer));
            each.push(Box::pin(async move {
                let part = format!("writing layer {}", record.descriptor.digest);
                report.part(&part, "", 0, 0, false);
                let written = sink.layer(&record.descriptor, layer, self.need).await;
                report.part(&part, "", 0, 0, true);
                written.map_err(|e| e.context("error writing layer blob"))
            }));
        }
        let all = futures::stream::iter(each).buffer_unordered(AT_ONCE);
        all.try_collect::<()>().await?;
        let bytes = Bytes::from(config.encode());
        let descriptor = Descriptor::of(CONFIG_TYPE, &bytes);
        let part = format!("writing config {}", descriptor.digest);
        report.part(&part, "", 0, 0, false);
        sink.small(&descriptor, bytes)
            .await
            .map_err(|e| e.context("error writing config blob"))?;
        report.part(&part, "", 0, 0, true);
        let (manifest, bytes) = self.manifest(layers, descriptor)?;
        let kind = if self.export.image_manifest {
            "image manifest"
        } else {
            "manifest"
        };
        let part = format!("writing cache {kind} {}", manifest.digest);
        report.part(&part, "", 0, 0, false);
        sink.manifest(&manifest, bytes)
            .await
            .map_err(|e| e.context("error writing manifest blob"))?;
        report.part(&part, "", 0, 0, true);
        Ok(manifest)
    }

    /// A layer as the manifest lists it.
    fn described(&self, record: &BlobRecord, layer: &Layer) -> Descriptor {
        let blob = &record.descriptor;
        let media_type = match blob.compression() {
            Some(compression) => compression.layer_media_type(self.export.oci_types),
            None => blob.media_type.clone(),
        };
        let mut descriptor = Descriptor::new(&media_type, blob.digest, blob.size);
        let meta = layer.meta();
        let mut annotate = |key: &str, value: String| {
            descriptor.annotations.insert(key.to_owned(), value);
        };
        annotate(UNCOMPRESSED, record.diff_id.to_string());
        if let Some(created) = meta.created {
            annotate(CREATED_AT, created.to_string());
        }
        if !meta.description.is_empty() {
            annotate(DESCRIPTION, meta.description);
        }
        descriptor
    }

    fn manifest(
        &self,
        layers: Vec<Descriptor>,
        config: Descriptor,
    ) -> Result<(Descriptor, Bytes), Failure> {
        let (media_type, json) = if self.export.image_manifest {
            let manifest = Manifest {
                schema_version: 2,
                media_type: OCI_MANIFEST.into(),
                artifact_type: None,
                config,
                layers,
                subject: None,
                annotations: BTreeMap::new(),
            };
            (OCI_MANIFEST, serde_json::to_vec(&manifest))
        } else {
            let media_type = if self.export.oci_types {
                OCI_INDEX
            } else {
                DOCKER_INDEX
            };
            let index = Index {
                schema_version: 2,
                media_type: media_type.into(),
                manifests: layers.into_iter().chain([config]).collect(),
                annotations: BTreeMap::new(),
            };
            (media_type, serde_json::to_vec(&index))
        };
        let json = json.map_err(|e| Failure::from_error(&e).context("writing a manifest"))?;
        Ok((Descriptor::of(media_type, &json), json.into()))
    }
}

fn entry(exported: &Exported, offset: usize) -> Entry {
    let mut inputs = exported.inputs.clone();
    for link in inputs.iter_mut().flatten() {
        link.from += offset;
    }
    Entry {
        digest: exported.digest,
        inputs,
        result: None,
    }
}
