//! A build request in the domain's terms.

use std::collections::BTreeMap;

use shipway_backend::Namespace;
use shipway_export::ExportRequest;
use shipway_frontend::FrontendRequest;
use shipway_history::TraceParent;
use shipway_model::policy::Policy;
use shipway_model::{CacheEntry, Definition};

/// What is to be built.
#[derive(Debug, Clone)]
pub enum Plan {
    /// A graph.
    Definition(Definition),
    /// Whatever a frontend makes of a request.
    Frontend {
        /// Name of the frontend.
        name: String,
        /// What it is asked.
        request: FrontendRequest,
    },
    /// Whatever the client gives back over the bridge.
    Gateway,
}

/// A build request.
#[derive(Clone)]
pub struct Request {
    /// Its id, chosen by the client.
    pub id: String,
    /// The client's session; empty for none.
    pub session: String,
    /// Where it belongs.
    pub namespace: Namespace,
    /// What is to be built.
    pub plan: Plan,
    /// Options of the frontend; some concern exporters as well.
    pub options: BTreeMap<String, String>,
    /// Graphs handed in by name.
    pub inputs: BTreeMap<String, Definition>,
    /// What is done with the result.
    pub exporters: Vec<ExportRequest>,
    /// Caches to look for results in, where the plan is a graph; frontends name theirs.
    pub cache_imports: Vec<CacheEntry>,
    /// Caches to leave behind.
    pub cache_exports: Vec<CacheEntry>,
    /// Rules about sources.
    pub source_policy: Policy,
    /// The session of a client that judges sources itself.
    pub policy_session: Option<String>,
    /// Entitlements asked for.
    pub entitlements: Vec<String>,
    /// Where it stands in its client's trace.
    pub trace: Option<TraceParent>,
    /// Not a user's build: left out of the history.
    pub internal: bool,
}

impl Request {
    /// `SOURCE_DATE_EPOCH`, where the build has one: seconds since 1970.
    #[must_use]
    pub fn epoch(&self) -> Option<i64> {
        self.options
            .get("build-arg:SOURCE_DATE_EPOCH")
            .and_then(|text| text.parse().ok())
    }
}
