//! The `local` source: a directory of the client, mirrored in layers. Its key is never the same twice; what is built from
//! it is found by content.

mod mirror;
mod sink;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use shipway_backend::session::{Session, SyncRequest};
use shipway_engine::{CacheMap, OpContext, Operation, VertexInfo};
use shipway_layers::{Report, Snapshot};
use shipway_model::failure::FailureKind;
use shipway_model::{Digest, Failure};

use crate::Env;
use crate::env::{SESSION_PATIENCE, VertexReport};

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
        let (sink, outcome) = self
            .mirrors
            .sink(&self.env.layers, &self.request.name, &key);
        let report = Arc::new(VertexReport(ctx.progress_handle()));
        let id = format!("transferring {}:", self.request.name);
        let bytes = Arc::new(AtomicU64::new(0));
        report.part(&id, "transferring", 0, 0, false);
        let progress = {
            let (report, id, bytes) = (Arc::clone(&report), id.clone(), Arc::clone(&bytes));
            Arc::new(move |done: u64| {
                bytes.store(done, Ordering::Relaxed);
                report.part(&id, "transferring", done, 0, false);
            })
        };
        let files = session.files();
        let received = files.receive(self.request.clone(), Box::new(sink), progress);
        tokio::select! {
            sink = received => drop(sink?),
            () = ctx.cancelled().cancelled() => return Err(Failure::cancelled()),
        }
        report.part(&id, "transferring", bytes.load(Ordering::Relaxed), 0, true);
        let synced = outcome.lock().take();
        synced.ok_or_else(|| {
            Failure::new(format!("the transfer of {} did not end", self.request.name))
        })
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
