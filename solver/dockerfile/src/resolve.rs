//! What lowering must ask the outside: image configurations, files of sources, the client's inputs. Law: answers do not
//! change during one build; calls may run at once.

use async_trait::async_trait;
use futures::lock::Mutex;
use shipway_llb::build::{LayoutStore, ResolveMode};
use shipway_model::{Definition, Digest, Failure, Platform};
use std::collections::HashMap;
use std::sync::Arc;

/// A wish for an image's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// Canonical reference.
    pub reference: String,
    /// Platform to choose of an index; `None` for the daemon's.
    pub platform: Option<Platform>,
    /// How the name becomes a digest.
    pub resolve_mode: ResolveMode,
    /// Name of the progress vertex.
    pub log_name: String,
    /// Set where the image lies in an OCI layout of a client: session and store.
    pub layout: Option<(String, String)>,
}

/// An image's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// Canonical reference, as asked for or as a policy rewrote it; without the digest below.
    pub reference: String,
    /// Digest of what the name stands for.
    pub digest: Option<Digest>,
    /// The configuration, JSON.
    pub config: Vec<u8>,
    /// Identifier of a source of another kind that a policy puts in the image's place; then nothing else is known.
    pub replaced: Option<String>,
}

/// Answers what a build cannot know by itself.
#[async_trait]
pub trait MetaResolver: Send + Sync {
    /// The configuration of an image.
    async fn image_config(&self, request: ImageRequest) -> Result<ResolvedImage, Failure>;

    /// A file of the result of `definition`; `None` where it has none of that name.
    async fn read_file(
        &self,
        definition: &Definition,
        path: &str,
    ) -> Result<Option<Vec<u8>>, Failure>;

    /// A definition that the client sent along under that name.
    async fn input(&self, name: &str) -> Result<Option<Definition>, Failure>;

    /// Seconds since 1970 of a source's own age: a commit's, or a file's on a server. `None` where it has none.
    async fn source_epoch(
        &self,
        source: &Definition,
        log_name: &str,
    ) -> Result<Option<i64>, Failure>;
}

type Answer = Result<ResolvedImage, Failure>;
type Slot = Arc<Mutex<Option<Answer>>>;

/// Asks for each image once, however many stages and platforms need it at once.
pub(crate) struct Cached<'a> {
    inner: &'a dyn MetaResolver,
    slots: Mutex<HashMap<(String, String), Slot>>,
}

impl<'a> Cached<'a> {
    pub(crate) fn new(inner: &'a dyn MetaResolver) -> Self {
        Self {
            inner,
            slots: Mutex::default(),
        }
    }

    pub(crate) fn inner(&self) -> &'a dyn MetaResolver {
        self.inner
    }

    pub(crate) async fn image_config(&self, request: ImageRequest) -> Answer {
        let details = (&request.platform, request.resolve_mode, &request.layout);
        let key = (
            request.reference.clone(),
            format!("{details:?}{}", request.log_name),
        );
        let slot = Arc::clone(self.slots.lock().await.entry(key).or_default());
        let mut slot = slot.lock().await;
        if let Some(answer) = &*slot {
            return answer.clone();
        }
        let answer = self.inner.image_config(request).await;
        *slot = Some(answer.clone());
        answer
    }
}

/// Where an OCI layout is found, as a source names it.
pub(crate) fn layout_store(layout: &(String, String)) -> LayoutStore {
    let (session, store) = layout.clone();
    LayoutStore {
        session,
        store,
        layer_limit: None,
    }
}
