//! The `local` source: a directory of the client, mirrored in layers. Its key is never the same twice; what is built from
//! it is found by content.

mod beside;
mod mirror;
mod sink;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use shipway_backend::session::{Session, SyncRequest, Transferred};
use shipway_engine::{CacheMap, OpContext, Operation, VertexInfo};
use shipway_layers::{Report, Snapshot};
use shipway_model::failure::FailureKind;
use shipway_model::{Digest, Failure};

use crate::Env;
use crate::env::{SESSION_PATIENCE, VertexReport};

use mirror::Landing;
pub use mirror::Mirrors;

/// A client's directory as a source.
pub struct LocalSource {
    info: VertexInfo,
    env: Arc<Env>,
    mirrors: Arc<Mirrors>,
    session: Option<String>,
    request: SyncRequest,
    key_hint: String,
}

impl LocalSource {
    /// A source from its identifier's rest and its attributes.
    pub fn new(
        info: VertexInfo,
        env: Arc<Env>,
        mirrors: Arc<Mirrors>,
        name: &str,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Self, Failure> {
        let list = |key: &str| -> Result<Vec<String>, Failure> {
            let Some(text) = attrs.get(key).filter(|text| !text.is_empty()) else {
                return Ok(Vec::new());
            };
            serde_json::from_str(text).map_err(|e| {
                let message = format!("attribute {key} is no list of strings: {e}");
                Failure::of_kind(FailureKind::InvalidArgument, message)
            })
        };
        let metadata_only = attrs
            .get("local.metadatatransfer")
            .is_some_and(|v| v == "true");
        if metadata_only {
            return Err(Failure::of_kind(
                FailureKind::Unimplemented,
                "local.metadatatransfer is not supported",
            ));
        }
        Ok(Self {
            info,
            env,
            mirrors,
            session: attrs
                .get("local.session")
                .filter(|id| !id.is_empty())
                .cloned(),
            request: SyncRequest {
                name: name.to_owned(),
                include: list("local.includepattern")?,
                exclude: list("local.excludepatterns")?,
                follow: list("local.followpaths")?,
                beside: Vec::new(),
            },
            key_hint: attrs
                .get("local.sharedkeyhint")
                .cloned()
                .unwrap_or_default(),
        })
    }

    async fn client(&self, ctx: &OpContext) -> Result<Arc<dyn Session>, Failure> {
        // An id given in the definition is tried first; another session of the build may take its place.
        if let Some(id) = &self.session
            && let Ok(session) = self.env.sessions.get(id, SESSION_PATIENCE).await
        {
            return Ok(session);
        }
        let mut clients = self.env.clients(&ctx.sessions()).await?;
        Ok(clients.swap_remove(0))
    }

    async fn sync(&self, ctx: &OpContext) -> Result<Snapshot, Failure> {
        let session = self.client(ctx).await?;
        let key = format!(
            "{}:{}:{}",
            self.request.name,
            self.key_hint,
            session.shared_key()
        );
        let report = Arc::new(VertexReport(ctx.progress_handle()));
        let id = format!("transferring {}:", self.request.name);
        let bytes = Arc::new(AtomicU64::new(0));
        report.part(&id, "transferring", 0, 0, false);
        let progress = {
            let (report, id, bytes) = (Arc::clone(&report), id.clone(), Arc::clone(&bytes));
            let told: Transferred = Arc::new(move |done: u64| {
                bytes.store(done, Ordering::Relaxed);
                report.part(&id, "transferring", done, 0, false);
            });
            told
        };
        let attempts = async {
            let landed = self
                .receive(&*session, &key, true, progress.clone())
                .await?;
            match landed {
                Landing::Unsure => self.receive(&*session, &key, false, progress).await,
                sure @ Landing::As(_) => Ok(sure),
            }
        };
        let landed = tokio::select! {
            landed = attempts => landed?,
            () = ctx.cancelled().cancelled() => return Err(Failure::cancelled()),
        };
        report.part(&id, "transferring", bytes.load(Ordering::Relaxed), 0, true);
        match landed {
            Landing::As(snapshot) => Ok(snapshot),
            Landing::Unsure => {
                let name = &self.request.name;
                Err(Failure::new(format!("the transfer of {name} did not end")))
            }
        }
    }

    /// One transfer; `beside` allows several calls.
    async fn receive(
        &self,
        session: &dyn Session,
        key: &str,
        beside: bool,
        progress: Transferred,
    ) -> Result<Landing, Failure> {
        let (layers, name) = (&self.env.layers, &self.request.name);
        let (mut sink, outcome) = self.mirrors.sink(layers, name, key);
        let mut request = self.request.clone();
        if beside {
            request.beside = sink.list_beside(&request);
        }
        let files = session.files();
        drop(files.receive(request, Box::new(sink), progress).await?);
        let landed = outcome.lock().take();
        Ok(landed.unwrap_or(Landing::Unsure))
    }
}

#[async_trait]
impl Operation<Snapshot> for LocalSource {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, _ctx: &OpContext) -> Result<CacheMap<Snapshot>, Failure> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = &self.request.name;
        let key = Digest::of(format!("local:{name}:{number}:{}", std::process::id()));
        Ok(CacheMap {
            volatile: true,
            ..CacheMap::new(key, 0)
        })
    }

    async fn execute(
        &self,
        ctx: &OpContext,
        _inputs: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, Failure> {
        Ok(vec![self.sync(ctx).await?])
    }
}
