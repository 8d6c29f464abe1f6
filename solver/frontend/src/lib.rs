//! Frontends: what turns a request in a human's format into LLB results, and what they may ask of the build. No network,
//! no containerd: a frontend reaches the world through its [`Bridge`] only.

pub mod bridge;
pub mod dockerfile;
pub mod gateway;
mod imports;
pub mod result;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use shipway_model::{Definition, Failure};

pub use bridge::{
    Bridge, DirEntry, Ref, ResolveMode, ResolveRequest, ResolvedConfig, SolveOptions,
};
pub use imports::cache_imports;
pub use result::{Attestation, FrontendResult, Refs};

/// What a frontend is asked.
#[derive(Debug, Clone, Default)]
pub struct FrontendRequest {
    /// Options by name, as the client sent them.
    pub options: BTreeMap<String, String>,
    /// Graphs handed in by name (`context:NAME=input:…`).
    pub inputs: BTreeMap<String, Definition>,
}

/// Turns a request into results.
#[async_trait]
pub trait Frontend: Send + Sync {
    /// Solves a request. The results are lazy: nothing has run for them when this returns.
    async fn solve(
        &self,
        bridge: Arc<dyn Bridge>,
        request: FrontendRequest,
    ) -> Result<FrontendResult, Failure>;
}
