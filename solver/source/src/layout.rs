//! The `oci-layout` source: an image out of a client's OCI layout. The client's store stands in for a registry, so that
//! everything else, laziness included, is as for images.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use shipway_backend::session::Files;
use shipway_backend::{BackendError, ByteStream, ErrorKind, Registry, RegistryAccess, Sessions};
use shipway_cache::key;
use shipway_engine::{CacheMap, OpContext, Operation, VertexInfo};
use shipway_layers::Snapshot;
use shipway_model::failure::FailureKind;
use shipway_model::op::Pin;
use shipway_model::{Descriptor, Digest, Failure, ImageRef, Platform};
use tokio::sync::OnceCell;

use crate::env::{SESSION_PATIENCE, unless_cancelled};
use crate::resolve::{Lookup, LookupEnv, METADATA_LIMIT, ResolvedImage, media_type};
use crate::{Env, image};

/// What a saved layer of a layout says that it is from.
const ORIGIN: &str = "oci-layout://";

/// A client's store of blobs. Nothing can be pushed to it this way.
struct LayoutStore {
    sessions: Arc<dyn Sessions>,
    /// Sessions to ask, in order.
    ids: Vec<Arc<str>>,
    store: String,
}

/// An image of a client's layout: session, empty for any of the build's, and store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutImage {
    reference: ImageRef,
    session: String,
    store: String,
}

impl LayoutImage {
    /// An image by its reference, which has a digest; the reference's name is the store's where none is given.
    pub fn new(reference: &str, session: &str, store: &str) -> Result<Self, Failure> {
        let invalid = |message: String| Failure::of_kind(FailureKind::InvalidArgument, message);
        let parsed: ImageRef = reference
            .parse()
            .map_err(|e: shipway_model::reference::InvalidReference| invalid(e.to_string()))?;
        if parsed.digest.is_none() {
            return Err(invalid(format!(
                "oci-layout reference {reference:?} has no digest"
            )));
        }
        let named = reference.split('@').next().unwrap_or_default();
        let store = if store.is_empty() { named } else { store };
        Ok(Self {
            reference: parsed,
            session: session.to_owned(),
            store: store.to_owned(),
        })
    }

    /// Reads its manifest and configuration, and says how its layers are fetched.
    pub async fn resolve(
        &self,
        env: &Env,
        sessions: &[Arc<str>],
        platform: &Platform,
    ) -> Result<(ResolvedImage, Arc<dyn Registry>), Failure> {
        // An id given in the definition is tried first; another session of the build may take its place.
        let own = Some(self.session.as_str())
            .filter(|id| !id.is_empty())
            .map(Arc::from);
        let ids = own.into_iter().chain(sessions.iter().cloned()).collect();
        let sessions = Arc::clone(&env.sessions);
        let registry: Arc<dyn Registry> = Arc::new(LayoutStore {
            sessions,
            ids,
            store: format!("oci:{}", self.store),
        });
        let resolver = env.resolver.over(Arc::clone(&registry));
        let access = RegistryAccess {
            auth: Vec::new(),
            insecure: false,
        };
        let lookup = LookupEnv {
            namespace: &env.namespace,
            lease: &env.lease.hold().await?,
            access: &access,
        };
        let image = resolver
            .resolve(&self.reference, platform, Lookup::Registry, &lookup)
            .await?;
        Ok((image, registry))
    }
}

/// A content store of a client, such as `local:<directory>`, as a registry that can only be read. It is asked of these
/// sessions, in order.
#[must_use]
pub fn client_store(
    sessions: Arc<dyn Sessions>,
    ids: Vec<Arc<str>>,
    store: &str,
) -> Arc<dyn Registry> {
    let store = store.to_owned();
    Arc::new(LayoutStore {
        sessions,
        ids,
        store,
    })
}

/// What the cache remembers of where a layer of a client's content store is from.
#[must_use]
pub fn origin_of(store: &str) -> String {
    format!("{ORIGIN}{store}")
}

impl LayoutStore {
    async fn files(&self, id: &str) -> Result<Arc<dyn Files>, BackendError> {
        Ok(self.sessions.get(id, SESSION_PATIENCE).await?.files())
    }

    async fn read(&self, digest: &Digest) -> Result<ByteStream, BackendError> {
        let mut last = no_session();
        for id in &self.ids {
            let asked = async { self.files(id).await?.read_blob(&self.store, digest).await };
            match asked.await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn size(&self, digest: &Digest) -> Result<u64, BackendError> {
        let mut last = no_session();
        for id in &self.ids {
            let asked = async { self.files(id).await?.blob_size(&self.store, digest).await };
            match asked.await {
                Ok(size) => return Ok(size),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn no_session() -> BackendError {
    BackendError::new(ErrorKind::NotFound, "no active sessions")
}

fn read_only<T>() -> Result<T, BackendError> {
    Err(BackendError::new(
        ErrorKind::Unsupported,
        "pushing to a client's OCI layout",
    ))
}

#[async_trait]
impl Registry for LayoutStore {
    async fn resolve(
        &self,
        image: &ImageRef,
        _access: &RegistryAccess,
    ) -> Result<Descriptor, BackendError> {
        let missing = || BackendError::new(ErrorKind::Other, format!("{image} has no digest"));
        let digest = image.digest.ok_or_else(missing)?;
        let corrupt = |what: &str| {
            BackendError::new(ErrorKind::Corrupt, format!("reading blob {digest}: {what}"))
        };
        let mut bytes = Vec::new();
        let mut stream = self.read(&digest).await?;
        while let Some(chunk) = stream.try_next().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > METADATA_LIMIT {
                return Err(corrupt("it is too large for a manifest"));
            }
        }
        if Digest::of(&bytes) != digest {
            return Err(corrupt("its bytes have another digest"));
        }
        Ok(Descriptor::of(&media_type(&bytes), &bytes))
    }

    async fn fetch(
        &self,
        _image: &ImageRef,
        descriptor: &Descriptor,
        _access: &RegistryAccess,
    ) -> Result<ByteStream, BackendError> {
        self.read(&descriptor.digest).await
    }

    async fn has_blob(
        &self,
        _image: &ImageRef,
        digest: &Digest,
        _mount_from: Option<&str>,
        _access: &RegistryAccess,
    ) -> Result<bool, BackendError> {
        match self.size(digest).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn push_blob(
        &self,
        _image: &ImageRef,
        _descriptor: &Descriptor,
        _data: ByteStream,
        _access: &RegistryAccess,
    ) -> Result<(), BackendError> {
        read_only()
    }

    async fn push_manifest(
        &self,
        _image: &ImageRef,
        _descriptor: &Descriptor,
        _bytes: Bytes,
        _access: &RegistryAccess,
    ) -> Result<(), BackendError> {
        read_only()
    }
}

/// True for a layer that came from a client's layout: without the client it cannot be fetched.
#[must_use]
pub fn is_layout(origin: &str) -> bool {
    origin.starts_with(ORIGIN)
}

/// An image of a client's layout as a source.
pub struct LayoutSource {
    info: VertexInfo,
    env: Arc<Env>,
    image: LayoutImage,
    platform: Platform,
    layer_limit: Option<usize>,
    resolved: OnceCell<(ResolvedImage, Arc<dyn Registry>)>,
}

impl LayoutSource {
    /// A source from its identifier's rest and its attributes.
    pub fn new(
        info: VertexInfo,
        env: Arc<Env>,
        reference: &str,
        attrs: &BTreeMap<String, String>,
        platform: Option<&Platform>,
    ) -> Result<Self, Failure> {
        let attr = |name: &str| attrs.get(name).map_or("", String::as_str);
        let image = LayoutImage::new(reference, attr("oci.session"), attr("oci.store"))?;
        let layer_limit = match attr("oci.layerlimit") {
            "" => None,
            text => match text.parse::<usize>() {
                Ok(limit) if limit > 0 => Some(limit),
                _ => {
                    let message = "invalid layer limit";
                    return Err(Failure::of_kind(FailureKind::InvalidArgument, message));
                }
            },
        };
        let platform = platform.unwrap_or(&env.platform).normalized();
        Ok(Self {
            info,
            env,
            image,
            platform,
            layer_limit,
            resolved: OnceCell::new(),
        })
    }
}

#[async_trait]
impl Operation<Snapshot> for LayoutSource {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, _ctx: &OpContext) -> Result<CacheMap<Snapshot>, Failure> {
        let digest = self
            .image
            .reference
            .digest
            .expect("an image of a layout has a digest");
        Ok(CacheMap::new(
            key::image(&digest, &self.platform, self.layer_limit),
            0,
        ))
    }

    async fn execute(
        &self,
        ctx: &OpContext,
        _inputs: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, Failure> {
        let sessions = ctx.sessions();
        let resolve = self
            .resolved
            .get_or_try_init(|| self.image.resolve(&self.env, &sessions, &self.platform));
        let (resolved, registry) = unless_cancelled(ctx, resolve).await?;
        let limit = self.layer_limit.unwrap_or(usize::MAX);
        let origin = format!("{ORIGIN}{}", self.image.reference);
        Ok(vec![image::layers_of(resolved, limit, registry, &origin)])
    }

    fn facts(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::new(Pin::Digest(self.image.reference.digest?)))
    }
}

#[cfg(test)]
mod tests {
    use shipway_backend::fake::{FakeSession, FakeSessions};

    use super::*;

    fn store(session: FakeSession, ids: &[&str]) -> LayoutStore {
        let sessions = FakeSessions::new();
        sessions.add(session);
        LayoutStore {
            sessions: Arc::new(sessions),
            ids: ids.iter().map(|id| Arc::from(*id)).collect(),
            store: "oci:base".into(),
        }
    }

    fn pinned(bytes: &[u8]) -> ImageRef {
        format!("base@{}", Digest::of(bytes)).parse().unwrap()
    }

    #[tokio::test]
    async fn the_first_session_that_has_a_blob_answers() {
        let manifest: &[u8] = br#"{"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
        let session = FakeSession::new("s");
        session.put_blob("oci:base", manifest);
        let store = store(session, &["gone", "s"]);
        let access = RegistryAccess {
            auth: Vec::new(),
            insecure: false,
        };
        let found = store.resolve(&pinned(manifest), &access).await.unwrap();
        assert!(found.is_manifest() && found.size == manifest.len() as u64);
        let missing = store.resolve(&pinned(b"x"), &access).await.unwrap_err();
        assert!(missing.is_not_found(), "{missing:?}");
    }

    #[test]
    fn an_image_of_a_layout_has_a_digest() {
        let digest = Digest::of("x");
        let image = LayoutImage::new(&format!("base@{digest}"), "", "").unwrap();
        assert_eq!(image.store, "base");
        assert!(LayoutImage::new("base:tag", "", "").is_err());
        assert!(is_layout("oci-layout://x") && !is_layout("docker.io/library/x"));
    }
}
