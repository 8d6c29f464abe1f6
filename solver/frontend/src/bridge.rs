//! What a frontend may ask of the build that it runs in.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use shipway_backend::session::FileStat;
use shipway_model::metadata::SourceMeta;
use shipway_model::op::SourceOp;
use shipway_model::policy::Policy;
use shipway_model::progress::Warning;
use shipway_model::{CacheEntry, Definition, Digest, Failure, Platform};

use crate::{FrontendRequest, FrontendResult};

/// A lazy result: its name in the build, and the graph that makes it.
#[derive(Debug, Clone)]
pub struct Ref {
    /// Unique in the daemon.
    pub id: Arc<str>,
    /// What makes it.
    pub definition: Arc<Definition>,
}

/// How a definition is solved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SolveOptions {
    /// Run it now, instead of when somebody needs it.
    pub evaluate: bool,
    /// Caches to look for results in, from now on.
    pub cache_imports: Vec<CacheEntry>,
    /// Rules about sources, beside the build's own.
    pub policies: Vec<Policy>,
}

/// Where an image's configuration is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResolveMode {
    /// An image that containerd has is used; else the registry is asked.
    #[default]
    Default,
    /// The registry is asked.
    ForcePull,
    /// An image that containerd has is preferred.
    PreferLocal,
}

/// A wish to know an image's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolveRequest {
    /// Reference, any form.
    pub reference: String,
    /// Platform; `None` is the daemon's.
    pub platform: Option<Platform>,
    /// Where to look.
    pub mode: ResolveMode,
    /// Name of the progress vertex; a default where empty.
    pub log_name: String,
    /// `(session id, store)` where the image lies in a client's OCI layout.
    pub oci_layout: Option<(String, String)>,
    /// Rules about sources, beside the build's own.
    pub policies: Vec<Policy>,
}

/// An image's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedConfig {
    /// The reference, possibly rewritten by a policy, canonical.
    pub reference: String,
    /// Digest of what the reference names (an index where it is one).
    pub digest: Digest,
    /// The configuration's bytes.
    pub config: Bytes,
    /// A source of another kind that a policy puts in the image's place; then nothing else is known.
    pub replaced: Option<SourceOp>,
}

/// An entry of a result's directory.
pub type DirEntry = FileStat;

/// What a frontend may ask of its build.
#[async_trait]
pub trait Bridge: Send + Sync {
    /// A lazy result of a graph; `None` for the empty graph.
    async fn solve(
        &self,
        definition: Definition,
        options: SolveOptions,
    ) -> Result<Option<Ref>, Failure>;
    /// Has another frontend of this name solve a request, inside of this build.
    async fn frontend(
        self: Arc<Self>,
        name: &str,
        request: FrontendRequest,
    ) -> Result<FrontendResult, Failure>;
    /// Runs what a result needs.
    async fn evaluate(&self, result: &Ref) -> Result<(), Failure>;
    /// Reads a file of a result, or `range` (offset, length) of it.
    async fn read_file(
        &self,
        result: &Ref,
        path: &str,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, Failure>;
    /// Lists a directory of a result; `pattern` filters names as Go's `path.Match` does, empty for all.
    async fn read_dir(
        &self,
        result: &Ref,
        path: &str,
        pattern: &str,
    ) -> Result<Vec<DirEntry>, Failure>;
    /// What is known of one path of a result; symbolic links are not followed.
    async fn stat_file(&self, result: &Ref, path: &str) -> Result<DirEntry, Failure>;
    /// An image's configuration.
    async fn resolve_image(&self, request: ResolveRequest) -> Result<ResolvedConfig, Failure>;
    /// What is known of a git or http source; with git's objects where they are asked for.
    async fn resolve_source(
        &self,
        source: &SourceOp,
        log_name: &str,
        git_objects: bool,
    ) -> Result<SourceMeta, Failure>;
    /// Advises the user.
    fn warn(&self, warning: Warning);
    /// The client's session, to name in local sources.
    fn session(&self) -> &str;
}
