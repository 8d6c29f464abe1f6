//! The record of one build, as it is stored: plain data. Large parts are descriptors of blobs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shipway_model::{Descriptor, Digest};

use crate::Steps;

/// What is remembered of a build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The build's id, chosen by its client.
    pub id: String,
    /// containerd namespace that it belongs to; its blobs lie in [`Record::blobs_namespace`].
    pub namespace: String,
    /// Frontend; empty where the client was its own.
    pub frontend: String,
    /// Options of the frontend, as sent.
    pub options: BTreeMap<String, String>,
    /// Exporters asked for.
    pub exporters: Vec<ExporterRecord>,
    /// When it began.
    pub created: Timestamp,
    /// When it ended; `None` while it runs.
    pub completed: Option<Timestamp>,
    /// Why it failed: code of gRPC and message.
    pub error: Option<Outcome>,
    /// Its failure with all details.
    pub external_error: Option<Descriptor>,
    /// Its progress, for replay.
    pub logs: Option<Descriptor>,
    /// Its trace.
    pub trace: Option<Descriptor>,
    /// What exporters and frontend told.
    pub response: BTreeMap<String, String>,
    /// What came of it, where it is one result.
    pub result: Option<ResultRecord>,
    /// What came of it per platform.
    pub results: BTreeMap<String, ResultRecord>,
    /// Counts the changes of a completed record.
    pub generation: i32,
    /// Never forgotten by itself.
    pub pinned: bool,
    /// Its steps.
    pub steps: Steps,
}

/// An exporter and its options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in the request")]
pub struct ExporterRecord {
    pub kind: String,
    pub attrs: BTreeMap<String, String>,
}

/// How a build failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Status code of gRPC.
    pub code: i32,
    /// Message.
    pub message: String,
}

/// What came of a build for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResultRecord {
    /// In-toto statements' predicates.
    pub attestations: Vec<Descriptor>,
    /// What each exporter stored, by its place in the request.
    pub exported: BTreeMap<i64, Descriptor>,
}

impl Record {
    /// A record of a build that begins.
    #[must_use]
    pub fn begun(id: &str, namespace: &str, at: Timestamp) -> Self {
        Self {
            id: id.to_owned(),
            namespace: namespace.to_owned(),
            frontend: String::new(),
            options: BTreeMap::new(),
            exporters: Vec::new(),
            created: at,
            completed: None,
            error: None,
            external_error: None,
            logs: None,
            trace: None,
            response: BTreeMap::new(),
            result: None,
            results: BTreeMap::new(),
            generation: 0,
            pinned: false,
            steps: Steps::default(),
        }
    }

    /// Namespace of its blobs: nothing there is seen among images, and nothing there is shared with a build.
    #[must_use]
    pub fn blobs_namespace(&self) -> String {
        blobs_namespace(&self.namespace)
    }

    /// Every blob that it names.
    pub(crate) fn blobs(&self) -> Vec<Digest> {
        let own = [&self.logs, &self.trace, &self.external_error];
        let own = own.into_iter().flatten();
        let results = self.result.iter().chain(self.results.values());
        let named = results.flat_map(|r| r.attestations.iter().chain(r.exported.values()));
        own.chain(named)
            .map(|descriptor| descriptor.digest)
            .collect()
    }
}

/// Namespace of the blobs of a namespace's history.
#[must_use]
pub(crate) fn blobs_namespace(namespace: &str) -> String {
    format!("{namespace}_history")
}
