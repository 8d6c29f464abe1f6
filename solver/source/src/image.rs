//! The `docker-image` source: keyed by the digest that the reference resolves to; its result is the image's layers, each
//! fetched only when somebody needs its files.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use shipway_backend::Registry;
use shipway_cache::key;
use shipway_engine::{CacheMap, OpContext, Operation, VertexInfo};
use shipway_layers::{Layer, Snapshot};
use shipway_model::failure::FailureKind;
use shipway_model::image::chain_ids;
use shipway_model::op::Pin;
use shipway_model::{Descriptor, Digest, Failure, ImageRef, Platform};
use tokio::sync::OnceCell;

use crate::Env;
use crate::resolve::{Lookup, LookupEnv, ResolvedImage};
use crate::unpack::ImageLayer;

pub use crate::unpack::{all_unpacked, unpacked};

/// An image as a source.
pub struct ImageSource {
    info: VertexInfo,
    env: Arc<Env>,
    reference: ImageRef,
    platform: Platform,
    lookup: Lookup,
    layer_limit: Option<usize>,
    resolved: OnceCell<ResolvedImage>,
}

impl ImageSource {
    /// A source from its identifier's rest and its attributes.
    pub fn new(
        info: VertexInfo,
        env: Arc<Env>,
        reference: &str,
        attrs: &BTreeMap<String, String>,
        platform: Option<&Platform>,
    ) -> Result<Self, Failure> {
        let invalid = |message: String| Failure::of_kind(FailureKind::InvalidArgument, message);
        let reference = reference
            .parse()
            .map_err(|e: shipway_model::reference::InvalidReference| invalid(e.to_string()))?;
        let lookup = match attrs.get("image.resolvemode").map(String::as_str) {
            None | Some("" | "default" | "local") => Lookup::LocalFirst,
            Some("pull") => Lookup::Registry,
            Some(other) => return Err(invalid(format!("invalid resolvemode: {other:?}"))),
        };
        let layer_limit = match attrs
            .get("image.layerlimit")
            .map(|text| text.parse::<usize>())
        {
            None => None,
            Some(Ok(limit)) if limit > 0 => Some(limit),
            Some(_) => return Err(invalid("invalid layer limit".into())),
        };
        let platform = platform.unwrap_or(&env.platform).normalized();
        let resolved = OnceCell::new();
        Ok(Self {
            info,
            env,
            reference,
            platform,
            lookup,
            layer_limit,
            resolved,
        })
    }

    async fn resolved(&self, ctx: &OpContext) -> Result<&ResolvedImage, Failure> {
        self.resolved
            .get_or_try_init(|| async {
                let access = self.env.access(&ctx.sessions()).await;
                let env = LookupEnv {
                    namespace: &self.env.namespace,
                    lease: &self.env.lease.hold().await?,
                    access: &access,
                };
                let resolver = &self.env.resolver;
                resolver
                    .resolve(&self.reference, &self.platform, self.lookup, &env)
                    .await
            })
            .await
    }
}

#[async_trait]
impl Operation<Snapshot> for ImageSource {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, ctx: &OpContext) -> Result<CacheMap<Snapshot>, Failure> {
        // A pinned reference is keyed without asking anybody.
        let digest = match self.reference.digest {
            Some(digest) => digest,
            None => self.resolved(ctx).await?.target.digest,
        };
        let key = key::image(&digest, &self.platform, self.layer_limit);
        Ok(CacheMap::new(key, 0))
    }

    async fn execute(
        &self,
        ctx: &OpContext,
        _inputs: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, Failure> {
        let image = self.resolved(ctx).await?;
        let limit = self.layer_limit.unwrap_or(usize::MAX);
        Ok(vec![snapshot(&self.env, image, limit)])
    }

    fn facts(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        let digest = self.reference.digest;
        let digest = digest.or_else(|| self.resolved.get().map(|image| image.target.digest))?;
        Some(Arc::new(Pin::Digest(digest)))
    }
}

/// An image's layers, lazy, at most `limit` of them from the lowest.
#[must_use]
pub fn snapshot(env: &Env, image: &ResolvedImage, limit: usize) -> Snapshot {
    let pinned = image.reference.clone().with_digest(image.target.digest);
    layers_of(image, limit, env.resolver.registry(), &pinned.to_string())
}

/// The same from any registry; `origin` is what the cache remembers of where they are from.
pub(crate) fn layers_of(
    image: &ResolvedImage,
    limit: usize,
    registry: &Arc<dyn Registry>,
    origin: &str,
) -> Snapshot {
    let pinned = image.reference.clone().with_digest(image.target.digest);
    let each = image
        .manifest
        .layers
        .iter()
        .zip(&image.diff_ids)
        .zip(chain_ids(&image.diff_ids));
    let layers: Vec<Layer> = each
        .take(limit)
        .map(|((descriptor, diff_id), chain_id)| {
            Layer::lazy(Arc::new(ImageLayer {
                image: pinned.clone(),
                descriptor: descriptor.clone(),
                diff_id: *diff_id,
                chain_id: Some(chain_id),
                registry: Arc::clone(registry),
                origin: origin.to_owned(),
            }))
        })
        .collect();
    Snapshot::new(layers)
}

/// A layer of an imported cache, which is fetched from `registry` under the name `image` when it is needed. `origin` is
/// what the cache remembers of where it is from.
#[must_use]
pub fn cached_layer(
    registry: &Arc<dyn Registry>,
    image: &ImageRef,
    origin: &str,
    blob: &Descriptor,
    ids: (Digest, Digest),
) -> Layer {
    let (diff_id, chain_id) = ids;
    Layer::lazy(Arc::new(ImageLayer {
        image: image.clone(),
        descriptor: blob.clone(),
        diff_id,
        chain_id: Some(chain_id),
        registry: Arc::clone(registry),
        origin: origin.to_owned(),
    }))
}

/// A layer of an image as the cache recorded it.
pub fn saved_layer(
    registry: &Arc<dyn shipway_backend::Registry>,
    blob: Descriptor,
    diff_id: Digest,
    image: &str,
) -> Result<Layer, Failure> {
    let reference = image
        .parse()
        .map_err(|e| Failure::from_error(&e as &shipway_model::reference::InvalidReference))?;
    Ok(Layer::lazy(Arc::new(ImageLayer {
        image: reference,
        descriptor: blob,
        diff_id,
        chain_id: None,
        registry: Arc::clone(registry),
        origin: image.to_owned(),
    })))
}
