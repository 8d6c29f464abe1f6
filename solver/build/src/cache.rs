//! Caches that a build brings along and leaves behind. It decides when they are read and written; what is in them is
//! `shipway_remotecache`'s business. A cache that cannot be read is passed over, as BuildKit does: its vertex tells why.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use shipway_backend::RegistryAccess;
use shipway_cache::ResultId;
use shipway_cache::export::Exported;
use shipway_export::{ExportEnv, Exportable, Exporter};
use shipway_frontend::{FrontendResult, Refs};
use shipway_layers::{Layer, Report, Snapshot};
use shipway_model::failure::FailureKind;
use shipway_model::progress::Sink as ProgressSink;
use shipway_model::{CacheEntry, Descriptor, Digest, Failure, ImageRef};
use shipway_remotecache::{
    CacheExport, CacheImport, ExportTo, Exporting, ImportedCache, InvalidCache, Mode, OpenLayer,
    Place, Sink, insecure,
};
use shipway_source::image::cached_layer;
use shipway_source::layout::{client_store, origin_of};
use tokio::sync::OnceCell;

use crate::job::Build;
use crate::results::StoredResults;
use crate::vertex::PseudoVertex;

/// The caches of one build.
pub(crate) struct Caches {
    exports: Vec<CacheExport>,
    imports: Mutex<BTreeMap<String, Arc<Import>>>,
}

/// A cache to bring along; `None` inside where it could not be read.
struct Import {
    from: CacheImport,
    read: OnceCell<Option<Arc<ImportedCache>>>,
}

fn refused(error: &InvalidCache) -> Failure {
    let kind = match error {
        InvalidCache::Unsupported { .. } => FailureKind::Unimplemented,
        InvalidCache::Unknown { .. } | InvalidCache::Option { .. } | InvalidCache::Duplicate(_) => {
            FailureKind::InvalidArgument
        }
    };
    Failure::of_kind(kind, error.to_string())
}

impl Caches {
    /// Checks the exports asked for, before anything runs.
    pub(crate) fn new(exports: &[CacheEntry]) -> Result<Self, Failure> {
        Ok(Self {
            exports: CacheExport::parse_all(exports).map_err(|e| refused(&e))?,
            imports: Mutex::default(),
        })
    }

    fn imports(&self) -> Vec<Arc<Import>> {
        self.imports.lock().values().cloned().collect()
    }

    fn inline(&self) -> Option<&CacheExport> {
        self.exports.iter().find(|e| e.to == ExportTo::Inline)
    }
}

impl Build {
    /// Notes caches to look for results in. They are read when the first result is wanted after this.
    pub(crate) fn import_caches(&self, entries: &[CacheEntry]) -> Result<(), Failure> {
        for entry in entries {
            let from = CacheImport::parse(entry).map_err(|e| refused(&e))?;
            let read = OnceCell::new();
            let mut imports = self.caches.imports.lock();
            let slot = imports.entry(from.name());
            slot.or_insert_with(|| Arc::new(Import { from, read }));
        }
        Ok(())
    }

    /// Reads the caches that were asked for so far, each once.
    pub(crate) async fn imported(&self) {
        let imports = self.caches.imports();
        let mut each: Vec<BoxFuture<'_, ()>> = Vec::new();
        for import in &imports {
            each.push(Box::pin(async move {
                import.read.get_or_init(|| self.read(&import.from)).await;
            }));
        }
        join_all(each).await;
    }

    async fn read(&self, from: &CacheImport) -> Option<Arc<ImportedCache>> {
        let name = format!("importing cache manifest from {}", from.name());
        let sink = Arc::clone(&self.progress) as Arc<dyn ProgressSink>;
        let vertex = PseudoVertex::start(Digest::of(&name), &name, sink);
        let read = self.read_cache(from, &*vertex).await;
        vertex.end(&read);
        match read {
            Ok(cache) => {
                let cache = Arc::new(cache);
                self.job().ok()?.import(Arc::clone(&cache) as _);
                Some(cache)
            }
            Err(error) => {
                tracing::debug!(build = self.id(), %error, "{name}");
                None
            }
        }
    }

    async fn read_cache(
        &self,
        from: &CacheImport,
        report: &dyn Report,
    ) -> Result<ImportedCache, Failure> {
        let env = &self.ops.env;
        let sessions = [self.session.as_str().into()];
        let (place, origin) = match from {
            CacheImport::Registry {
                image, insecure, ..
            } => {
                let registry = Arc::clone(&self.parts.registry);
                let registry = if *insecure {
                    self::insecure(registry)
                } else {
                    registry
                };
                let place = Place {
                    registry,
                    image: image.clone(),
                    access: env.access(&sessions).await,
                };
                (place, image.to_string())
            }
            CacheImport::Local { src, digest } => {
                let store = format!("local:{src}");
                let ids = sessions.to_vec();
                let place = Place {
                    registry: client_store(Arc::clone(&env.sessions), ids, &store),
                    image: manifest_of_client(*digest),
                    access: RegistryAccess {
                        auth: Vec::new(),
                        insecure: false,
                    },
                };
                (place, origin_of(&store))
            }
        };
        let (registry, image) = (Arc::clone(&place.registry), place.image.clone());
        let open: OpenLayer = Arc::new(
            move |blob: &Descriptor, diff_id: Digest, chain_id: Digest| -> Layer {
                cached_layer(&registry, &image, &origin, blob, (diff_id, chain_id))
            },
        );
        Ok(ImportedCache::read(&place, &from.name(), open, report).await?)
    }

    /// Adds the caches that go into images' configurations to what an exporter of images is about to export.
    pub(crate) async fn add_inline_caches(
        &self,
        exporter: &Exporter,
        result: &FrontendResult,
        what: &mut Exportable,
        env: &ExportEnv,
    ) -> Result<(), Failure> {
        let Some(inline) = self.caches.inline() else {
            return Ok(());
        };
        let Some((options, force)) = exporter.blob_options(what.epoch) else {
            return Ok(());
        };
        let export = CacheExport {
            mode: Mode::Min,
            blobs: options,
            force_compression: force,
            ..inline.clone()
        };
        let preparing = "preparing layers for inline cache";
        env.need.report.part(preparing, "", 0, 0, false);
        self.job()?.recorded().await;
        let keys = self.keys(result).await?;
        for (platform, keys) in what.results.iter_mut().zip(keys) {
            let mut records = Vec::new();
            let layers = platform.snapshot.layers();
            for (at, layer) in layers.iter().enumerate() {
                let blob = env
                    .layers
                    .blob(layer, &layers[..at], &options, force, &env.need);
                records.push(blob.await?);
            }
            let open = |result: &ResultId| self.open_result(result);
            let exporting = Exporting {
                export: &export,
                keys: vec![keys],
                open: &open,
                layers: &env.layers,
                need: &env.need,
            };
            platform.cache = exporting.inline(&records).await?;
        }
        env.need.report.part(preparing, "", 0, 0, true);
        Ok(())
    }

    /// Leaves the caches behind that were asked for; gives the response's keys.
    pub(crate) async fn export_caches(
        &self,
        result: &FrontendResult,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let mut response = BTreeMap::new();
        let exports = self.caches.exports.iter();
        for export in exports.filter(|export| export.to != ExportTo::Inline) {
            let digest = Digest::of(format!("{} {} {export:?}", self.id(), export.name()));
            let sink = Arc::clone(&self.progress) as Arc<dyn ProgressSink>;
            let vertex = PseudoVertex::start(digest, export.name(), sink);
            let report = Arc::clone(&vertex) as Arc<dyn Report>;
            let exported = self.export_cache(export, result, report).await;
            vertex.end(&exported);
            match exported {
                Ok(keys) => response.extend(keys),
                Err(error) if export.ignore_error && !error.is_cancelled() => {
                    tracing::warn!(build = self.id(), %error, "{}", export.name());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(response)
    }

    async fn export_cache(
        &self,
        export: &CacheExport,
        result: &FrontendResult,
        report: Arc<dyn Report>,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let env = self.export_env(report).await?;
        let sink = match &export.to {
            ExportTo::Registry { image, insecure } => Sink::Registry {
                registry: Arc::clone(&env.registry),
                image: image.clone(),
                access: RegistryAccess {
                    insecure: *insecure,
                    ..env.need.access.clone()
                },
            },
            ExportTo::Local(dest) => {
                let client = env.session.as_ref().ok_or_else(|| {
                    Failure::new("local cache exporter/importer requires session")
                })?;
                Sink::Client {
                    files: client.files(),
                    store: format!("local:{dest}"),
                }
            }
            ExportTo::Inline => return Ok(BTreeMap::new()),
        };
        self.job()?.recorded().await;
        let open = |result: &ResultId| self.open_result(result);
        let exporting = Exporting {
            export,
            keys: self.keys(result).await?,
            open: &open,
            layers: &env.layers,
            need: &env.need,
        };
        exporting.run(&sink).await
    }

    /// The keys behind each result, in the order of the results.
    async fn keys(&self, result: &FrontendResult) -> Result<Vec<Vec<Exported>>, Failure> {
        let refs = match &result.refs {
            Refs::Single(single) => vec![single.as_ref()],
            Refs::Map(map) => map.iter().map(|(_, of)| of.as_ref()).collect(),
        };
        let job = self.job()?;
        let mut keys = Vec::with_capacity(refs.len());
        for of in refs {
            let state = of.and_then(|of| self.ref_state(&of.id));
            keys.push(match state {
                Some(state) => job.export(&state.graph, state.target, true).await,
                None => Vec::new(),
            });
        }
        Ok(keys)
    }

    /// The value of a result that the key store or an imported cache recorded.
    fn open_result(&self, result: &ResultId) -> Option<Snapshot> {
        let imports = self.caches.imports();
        let imported = imports
            .iter()
            .filter_map(|import| import.read.get()?.as_ref())
            .find_map(|cache| cache.open(result));
        if imported.is_some() {
            return imported;
        }
        let stored =
            StoredResults::new(self.parts.layers.clone(), Arc::clone(&self.parts.registry));
        stored
            .result(result)
            .inspect_err(|error| tracing::warn!(%result, %error, "opening a result for a cache"))
            .ok()
            .flatten()
    }
}

/// Names a manifest in a content store, which knows digests only.
fn manifest_of_client(digest: Digest) -> ImageRef {
    ImageRef {
        host: "client".into(),
        path: "cache".into(),
        tag: None,
        digest: Some(digest),
    }
}
