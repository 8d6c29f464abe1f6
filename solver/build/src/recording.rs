//! One build's way into the history: what is known when it begins, and what it has become when it ends. A record that
//! cannot be written is missed in the history and fails no build.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use shipway_backend::Lease;
use shipway_export::Exported;
use shipway_frontend::FrontendResult;
use shipway_history::{
    ExporterRecord, History, HistoryError, Outcome, Record, ResultRecord, TraceParent, count,
};
use shipway_model::descriptor::IN_TOTO;
use shipway_model::progress::Event;
use shipway_model::{Descriptor, Failure};

use crate::job::Build;
use crate::request::{Plan, Request};

/// Media type of a build's progress.
const LOGS: &str = "application/vnd.buildkit.status.v0";
/// Media type of a failure. Upstream's, spelt as there.
const FAILURE: &str = "application/vnd.googeapis.google.rpc.status+proto";
/// Annotation of an attestation's descriptor.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// The forms in which clients read a record's blobs.
pub trait BlobFormat: Send + Sync {
    /// A build's progress.
    fn logs(&self, events: Vec<Event>) -> Bytes;
    /// A failure: what a record says of it, and all of it.
    fn failure(&self, failure: &Failure) -> (Outcome, Bytes);
}

/// Records builds.
pub struct Recorder {
    /// Where to.
    pub history: Arc<History>,
    /// In which forms.
    pub format: Arc<dyn BlobFormat>,
}

/// What a build has made, as far as its record tells it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Made {
    /// Of its frontend's result, and of its exporters.
    pub(crate) response: BTreeMap<String, String>,
    /// What exporters stored, by their places.
    pub(crate) exported: BTreeMap<i64, Descriptor>,
    /// Provenance, by platform; the empty key for the only result.
    pub(crate) provenance: Vec<(String, &'static str, Bytes)>,
}

impl Made {
    /// A result has come: its metadata is part of what is told of the build, where it is text.
    pub(crate) fn tell(&mut self, result: &FrontendResult) {
        let text = |value: &Bytes| String::from_utf8(value.to_vec()).ok();
        let told = result.metadata.iter();
        let told = told.filter_map(|(key, value)| Some((key.clone(), text(value)?)));
        self.response.extend(told);
    }

    /// An exporter has ended.
    pub(crate) fn export(&mut self, index: usize, exported: &Exported) {
        self.response.extend(exported.response.clone());
        if let (Some(stored), Ok(index)) = (&exported.stored, i64::try_from(index)) {
            self.exported.insert(index, stored.clone());
        }
    }
}

/// A build that is being recorded.
pub(crate) struct Recording {
    recorder: Arc<Recorder>,
    record: Record,
    trace: Option<TraceParent>,
}

impl Recording {
    /// Tells the history that a build begins, unless it is not to be recorded.
    pub(crate) fn begin(recorder: &Arc<Recorder>, request: &Request) -> Option<Self> {
        if request.internal || !recorder.history.records() {
            return None;
        }
        let exporters = request.exporters.iter().map(|export| ExporterRecord {
            kind: export.kind.clone(),
            attrs: export.attrs.clone(),
        });
        let frontend = match &request.plan {
            Plan::Frontend { name, .. } => name.clone(),
            Plan::Definition(_) | Plan::Gateway => String::new(),
        };
        let record = Record {
            frontend,
            options: request.options.clone(),
            exporters: exporters.collect(),
            ..Record::begun(&request.id, &request.namespace.name, Timestamp::now())
        };
        recorder.history.begin(record.clone(), request.trace);
        Some(Self {
            recorder: Arc::clone(recorder),
            record,
            trace: request.trace,
        })
    }

    /// The build has ended: whoever asks about it from now on waits for its record.
    pub(crate) fn ending(&mut self) {
        self.record.completed = Some(Timestamp::now());
        let history = &self.recorder.history;
        history.ending(&self.record.namespace, &self.record.id);
    }

    /// Writes the record.
    pub(crate) async fn end(mut self, build: &Arc<Build>, failure: Option<&Failure>) {
        let events = build.progress().events();
        let written = self.write(build, &events, failure).await;
        let history = Arc::clone(&self.recorder.history);
        let written = match written {
            Ok(()) => {
                let completed = history.complete(self.record.clone(), self.trace, events);
                completed.await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            let causes = Failure::from_error(&error);
            tracing::error!(build = self.record.id, %causes, "recording a build");
            history.abandon(&self.record, self.trace).await;
        }
    }

    async fn write(
        &mut self,
        build: &Arc<Build>,
        events: &[Event],
        failure: Option<&Failure>,
    ) -> Result<(), HistoryError> {
        let recorder = Arc::clone(&self.recorder);
        let history = &recorder.history;
        let mut made = build.made();
        if let Some(result) = build.finished() {
            made.provenance = match build.history_provenance(&result).await {
                Ok(provenance) => provenance,
                Err(error) => {
                    tracing::error!(build = self.record.id, %error, "telling where results come from");
                    Vec::new()
                }
            };
        }
        let lease = history.lease(&self.record).await?;
        let (outcome, failure) = match failure {
            Some(failure) => {
                let (outcome, blob) = recorder.format.failure(failure);
                (Some(outcome), Some(blob))
            }
            None => (None, None),
        };
        let logs = recorder.format.logs(events.to_vec());
        let record = &self.record;
        let logs = history.write(record, &lease, LOGS, logs);
        let failure = async {
            match failure {
                Some(blob) => history.write(record, &lease, FAILURE, blob).await.map(Some),
                None => Ok(None),
            }
        };
        let copies = copies(history, record, &lease, build, &made);
        let statements = attestations(history, record, &lease, &made);
        let (logs, failure, (), mut results) =
            futures::try_join!(logs, failure, copies, statements)?;
        let record = &mut self.record;
        record.steps = count(events);
        record.logs = Some(logs);
        record.error = outcome;
        record.external_error = failure;
        record.response = made.response;
        record.result = results.remove("");
        if !made.exported.is_empty() {
            record.result.get_or_insert_default().exported = made.exported;
        }
        record.results = results;
        Ok(())
    }
}

/// Copies what exporters stored: the history outlives the images.
async fn copies(
    history: &History,
    record: &Record,
    lease: &Lease,
    build: &Build,
    made: &Made,
) -> Result<(), HistoryError> {
    for target in made.exported.values() {
        history.copy(record, lease, build.place(), target).await?;
    }
    Ok(())
}

/// Writes the provenance of each result.
async fn attestations(
    history: &History,
    record: &Record,
    lease: &Lease,
    made: &Made,
) -> Result<BTreeMap<String, ResultRecord>, HistoryError> {
    let mut results: BTreeMap<String, ResultRecord> = BTreeMap::new();
    for (key, kind, predicate) in &made.provenance {
        let written = history.write(record, lease, IN_TOTO, predicate.clone());
        let mut descriptor = written.await?;
        let kind = (PREDICATE_TYPE.to_owned(), (*kind).to_owned());
        descriptor.annotations.extend([kind]);
        let result = results.entry(key.clone()).or_default();
        result.attestations.push(descriptor);
    }
    Ok(results)
}
