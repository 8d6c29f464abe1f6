//! Makes an image's layer a directory: found where somebody has unpacked it already, or fetched and extracted, at most once
//! at a time per layer.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Weak};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use shipway_backend::{ByteStream, LayerId, MountSpec, Registry};
use shipway_layers::{LayerMeta, Layers, Need, Provider, StreamReader};
use shipway_model::{Descriptor, Digest, Failure, ImageRef};
use shipway_tree::{Composer, Expected, Limits, Stack, extract_layer};

/// A layer of an image.
pub(crate) struct ImageLayer {
    pub(crate) image: ImageRef,
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
    /// Chain ID of this layer on those below it; `None` where they are not known (a layer found again by its blob).
    pub(crate) chain_id: Option<Digest>,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) origin: String,
}

#[async_trait]
impl Provider for ImageLayer {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn diff_id(&self) -> Digest {
        self.diff_id
    }

    fn origin(&self) -> &str {
        &self.origin
    }

    async fn unpack(&self, layers: &Layers, need: &Need) -> Result<LayerId, Failure> {
        let turn = turn_of(self.diff_id);
        let _turn = turn.lock().await;
        if let Some(id) = self.found(layers)? {
            return Ok(id);
        }
        let id = match self.link_from_overlayfs(layers, need).await? {
            Some(id) => id,
            None => self.extract(layers, need).await?,
        };
        unpacked_file(layers, &self.diff_id).and_then(|file| {
            std::fs::write(&file, id.to_string()).map_err(|e| {
                Failure::from_error(&e)
                    .context(format!("recording an unpacked layer in {}", file.display()))
            })
        })?;
        Ok(id)
    }

    async fn available(&self, need: &Need) -> bool {
        let digest = &self.descriptor.digest;
        let asked = self
            .registry
            .has_blob(&self.image, digest, None, &need.access);
        asked.await.unwrap_or(false)
    }

    async fn fetch(&self, need: &Need) -> Result<ByteStream, Failure> {
        match need.namespace.blobs.open(&self.descriptor.digest, 0).await {
            Ok(stream) => Ok(stream),
            Err(error) if error.is_not_found() => Ok(self
                .registry
                .fetch(&self.image, &self.descriptor, &need.access)
                .await?),
            Err(error) => Err(error.into()),
        }
    }
}

impl ImageLayer {
    /// The layer as somebody unpacked it before: a client's pull into our snapshotter, or a build.
    fn found(&self, layers: &Layers) -> Result<Option<LayerId>, Failure> {
        if let Some(chain_id) = &self.chain_id
            && let Some(chain) = layers.upkeep().find_chain(chain_id)?
            && let Some(&id) = chain.last()
        {
            return Ok(Some(id));
        }
        unpacked(layers, &self.diff_id)
    }

    /// The layer as containerd's own overlayfs snapshotter has unpacked it in this namespace: its files are linked, so that
    /// nothing is fetched or written twice, and the snapshot may go afterwards.
    async fn link_from_overlayfs(
        &self,
        layers: &Layers,
        need: &Need,
    ) -> Result<Option<LayerId>, Failure> {
        let Some(chain_id) = self.chain_id else {
            return Ok(None);
        };
        let snapshots = &need.namespace.snapshots;
        let parent = chain_id.to_string();
        if !snapshots.exists(OVERLAYFS, &parent).await? {
            return Ok(None);
        }
        let key = format!("shipway-view-{}-{}", chain_id.hex(), need.lease.id());
        let viewed = snapshots.view(&need.lease, OVERLAYFS, &key, &parent);
        let mounts = match viewed.await {
            Ok(mounts) => mounts,
            // It may have gone meanwhile: fetching always works.
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let linked = match top_lower(&mounts) {
            Some(from) => self.link(layers, from).await.map(Some),
            None => Ok(None),
        };
        snapshots.remove(OVERLAYFS, &key).await?;
        linked
    }

    async fn link(&self, layers: &Layers, from: PathBuf) -> Result<LayerId, Failure> {
        let building = layers.begin()?;
        let meta = self.meta();
        let linked = tokio::task::spawn_blocking(move || {
            let source = shipway_tree::Layer::open(from);
            let filled = source.and_then(|from| shipway_tree::fill::fill(&from, building.fs()));
            filled.map_err(|e| Failure::from_error(&e).context("linking an unpacked layer"))?;
            Ok::<_, Failure>(building.finish_with(meta)?)
        });
        let layer = linked.await.map_err(|e| Failure::from_error(&e))??;
        Ok(layer.id().expect("a finished layer is a directory"))
    }

    /// What is known of the layer before anything is unpacked.
    fn meta(&self) -> LayerMeta {
        let known = LayerMeta::of_blob(&self.descriptor, self.diff_id);
        let description = format!("pulled layer {}", self.diff_id);
        LayerMeta {
            created: known.created.or_else(|| Some(Timestamp::now())),
            description: Some(known.description)
                .filter(|text| !text.is_empty())
                .unwrap_or(description),
            ..known
        }
    }

    async fn extract(&self, layers: &Layers, need: &Need) -> Result<LayerId, Failure> {
        let id = self.descriptor.digest.to_string();
        need.report
            .part(&id, "extracting", 0, self.descriptor.size, false);
        let building = layers.begin()?;
        let (reader, feed) = StreamReader::new(self.fetch(need).await?);
        let (descriptor, diff_id, meta) = (self.descriptor.clone(), self.diff_id, self.meta());
        let work = tokio::task::spawn_blocking(move || {
            extract_blob(reader, building.fs().to_owned(), &descriptor, &diff_id)?;
            Ok::<_, Failure>(building.finish_with(meta)?)
        });
        let (layer, ()) = tokio::join!(work, feed);
        let layer = layer.map_err(|e| Failure::from_error(&e))??;
        need.report.part(
            &id,
            "extracting",
            self.descriptor.size,
            self.descriptor.size,
            true,
        );
        Ok(layer.id().expect("a finished layer is a directory"))
    }
}

fn extract_blob(
    reader: StreamReader,
    fs: PathBuf,
    descriptor: &Descriptor,
    diff_id: &Digest,
) -> Result<(), Failure> {
    let expected = Expected {
        digest: Some(descriptor.digest),
        diff_id: Some(*diff_id),
    };
    let lower = Stack::default();
    Composer::open(fs, &lower)
        .and_then(|mut to| extract_layer(reader, &mut to, expected, Limits::default()))
        .map_err(|e| {
            Failure::from_error(&e).context(format!("extracting layer {}", descriptor.digest))
        })?;
    Ok(())
}

/// Name of containerd's own snapshotter.
const OVERLAYFS: &str = "overlayfs";

/// The directory of the topmost layer of a view: overlay's first lower directory, or the whole of a bind mount.
fn top_lower(mounts: &[MountSpec]) -> Option<PathBuf> {
    let [mount] = mounts else { return None };
    match mount.kind.as_str() {
        "overlay" => {
            let lower = mount
                .options
                .iter()
                .find_map(|o| o.strip_prefix("lowerdir="))?;
            lower.split(':').next().map(PathBuf::from)
        }
        "bind" | "rbind" => Some(PathBuf::from(&mount.source)),
        _ => None,
    }
}

/// The layer that an archive was unpacked to, where it still is.
pub fn unpacked(layers: &Layers, diff_id: &Digest) -> Result<Option<LayerId>, Failure> {
    let text = std::fs::read_to_string(unpacked_file(layers, diff_id)?);
    let id = text.ok().and_then(|text| text.parse().ok()).map(LayerId);
    Ok(id.filter(|&id| layers.store().path(id).is_ok()))
}

/// Every layer that an archive was unpacked to, whether it is still there or not.
pub fn all_unpacked(layers: &Layers) -> Result<Vec<LayerId>, Failure> {
    let dir = layers.upkeep().scratch_dir("unpacked")?;
    let listed = std::fs::read_dir(&dir);
    let listed = listed.map_err(|e| {
        Failure::from_error(&e).context(format!("listing unpacked layers in {}", dir.display()))
    })?;
    let texts = listed
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let ids = texts.filter_map(|text| text.parse().ok());
    Ok(ids.map(LayerId).collect())
}

/// The file that says which layer holds an archive.
fn unpacked_file(layers: &Layers, diff_id: &Digest) -> Result<PathBuf, Failure> {
    Ok(layers.upkeep().scratch_dir("unpacked")?.join(diff_id.hex()))
}

/// One lock per layer that is being unpacked, so that two images that share it unpack it once.
fn turn_of(diff_id: Digest) -> Arc<tokio::sync::Mutex<()>> {
    static TURNS: LazyLock<Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>> =
        LazyLock::new(Mutex::default);
    let mut turns = TURNS.lock();
    turns.retain(|_, turn| turn.strong_count() > 0);
    if let Some(turn) = turns.get(&diff_id).and_then(Weak::upgrade) {
        return turn;
    }
    let turn = Arc::new(tokio::sync::Mutex::new(()));
    turns.insert(diff_id, Arc::downgrade(&turn));
    turn
}
