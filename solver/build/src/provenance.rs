//! Where a build's results come from: gathers what its sources turned out to be and which request each result stands for,
//! and makes the attestation that exporters and the history write. What provenance says is decided in `attest`.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use shipway_attest::capture::ImageSource;
use shipway_attest::predicate::{Facts, StepLayers, predicate};
use shipway_attest::statement::{INLINE_ONLY, Kind, REASON};
use shipway_attest::steps::Usage;
use shipway_attest::{Capture, Head, ProvenanceOptions, RequestProvenance, capture};
use shipway_engine::{Edge, Graph};
use shipway_export::{Attestation, AttestationContent, ExportEnv, MakeContent};
use shipway_frontend::{FrontendResult, Refs};
use shipway_layers::Snapshot;
use shipway_model::op::{Op, Pin};
use shipway_model::{Descriptor, Digest, Failure, Platform};
use shipway_ops::Measured;

use crate::StoredResults;
use crate::job::{Build, RefState};

/// Name of the file that provenance becomes.
const FILE: &str = "provenance.json";

impl Build {
    /// What became known of the vertices of this build's graphs while they ran.
    async fn noted(&self) -> Noted {
        let mut noted = Noted::default();
        let Ok(job) = self.job() else {
            return noted;
        };
        for operation in job.operations().await {
            if let Some(facts) = operation.facts() {
                noted.note(operation.vertex().digest, &*facts);
            }
        }
        noted
    }

    /// The facts about each result, by the keys of their platforms; a result without files has none.
    async fn facts(
        &self,
        result: &FrontendResult,
    ) -> Result<Vec<(String, Arc<RefState>, Facts)>, Failure> {
        let Noted { pins, usage } = self.noted().await;
        let of_result: BTreeSet<&str> = result.every_ref().map(|of| &*of.id).collect();
        let platforms = result.platforms().unwrap_or_default().platforms;
        let listed: Vec<Platform> = platforms.iter().map(|p| p.platform.clone()).collect();
        let mut all = Vec::new();
        for (key, of) in self.keyed(result) {
            let state = self.find_state(&of.id)?;
            let mut captured = capture(&state.definition, &pins);
            let request = self.request_of(&state, &captured);
            // What else its frontend has run is part of what the result was made from.
            for other in state.scope.refs() {
                if of_result.contains(&*other) {
                    continue;
                }
                let other = self.find_state(&other)?;
                if other.has_run() {
                    captured.merge(capture(&other.definition, &pins));
                }
            }
            let platform = platforms.iter().find(|platform| platform.id == key);
            let current = matches!(result.refs, Refs::Map(_))
                .then_some(platform)
                .flatten();
            let images = of_platform(state.scope.images(), &listed, current.map(|p| &p.platform));
            for image in images {
                captured.add_image(image);
            }
            captured.finish();
            let facts = Facts {
                capture: captured,
                request,
                definition: (*state.definition).clone(),
                usage: usage.clone(),
                builder: self.parts.settings.platform.clone(),
                dockerfile_version: self.parts.settings.dockerfile_version.clone(),
                environment: self.parts.settings.provenance_environment.clone(),
                invocation: self.invocation().to_owned(),
                started: self.started(),
            };
            all.push((key, state, facts));
        }
        Ok(all)
    }

    fn request_of(&self, state: &RefState, capture: &Capture) -> RequestProvenance {
        let request = state
            .scope
            .request(self.question(), capture, &self.parts.producers);
        request.unwrap_or_default()
    }

    /// Makes known where results come from, while this build runs: another may take them as its input.
    pub(crate) fn make_known(&self, result: &FrontendResult) {
        for of in result.every_ref() {
            let Ok(state) = self.find_state(&of.id) else {
                continue;
            };
            let request =
                state
                    .scope
                    .request(self.question(), &Capture::default(), &self.parts.producers);
            if let (Some(request), Some(head)) = (request, crate::scope::head(&of.definition)) {
                let registered = self.parts.producers.add(head, request);
                self.registered.lock().push(registered);
            }
        }
    }

    /// The provenance of each result, as attestations for exporters.
    pub(crate) async fn provenance(
        self: &Arc<Self>,
        options: &ProvenanceOptions,
        result: &FrontendResult,
    ) -> Result<Vec<(String, Attestation)>, Failure> {
        let mut all = Vec::new();
        for (key, state, facts) in self.facts(result).await? {
            options.check(&facts.capture)?;
            let text = |text: &str| Bytes::from(text.to_owned());
            let metadata = [
                (REASON.to_owned(), text("provenance")),
                (
                    INLINE_ONLY.to_owned(),
                    text(&options.inline_only.to_string()),
                ),
            ];
            let path = if options.filename.is_empty() {
                FILE.to_owned()
            } else {
                options.filename.clone()
            };
            let head = Head {
                kind: Kind::InToto,
                metadata: metadata.into(),
                path,
                predicate_type: options.predicate_type().to_owned(),
                subjects: Vec::new(),
            };
            let made = MadeProvenance {
                build: Arc::clone(self),
                options: options.clone(),
                state,
                facts,
            };
            let content = AttestationContent::Made(Arc::new(made));
            all.push((key, Attestation { head, content }));
        }
        Ok(all)
    }

    /// The provenance of each result for the history: the empty key for the only one.
    pub(crate) async fn history_provenance(
        self: &Arc<Self>,
        result: &FrontendResult,
    ) -> Result<Vec<(String, &'static str, Bytes)>, Failure> {
        let builder = self.question().options.get("attest:provenance").cloned();
        let asked = BTreeMap::from_iter(builder.map(|of| ("attest:provenance".to_owned(), of)));
        let asked = shipway_attest::Attestations::parse(&asked).unwrap_or_default();
        let builder_id = asked.provenance.map(|asked| asked.builder_id);
        let options = ProvenanceOptions::for_history(builder_id.unwrap_or_default());
        let single = matches!(result.refs, Refs::Single(_));
        let mut all = Vec::new();
        for (key, state, facts) in self.facts(result).await? {
            let bytes = self.predicate(&options, &state, &facts).await?;
            let key = if single { String::new() } else { key };
            all.push((key, options.predicate_type(), bytes));
        }
        Ok(all)
    }

    async fn predicate(
        &self,
        options: &ProvenanceOptions,
        state: &RefState,
        facts: &Facts,
    ) -> Result<Bytes, Failure> {
        let layers = if options.max {
            self.step_layers(state).await
        } else {
            StepLayers::new()
        };
        let json = predicate(options, facts, &layers, Timestamp::now())?;
        let bytes = serde_json::to_vec_pretty(&json);
        let bytes = bytes.map_err(|e| Failure::from_error(&e).context("writing provenance"))?;
        Ok(bytes.into())
    }

    /// Blobs of each step's layers, as far as there are any: layers that nobody exported are none.
    async fn step_layers(&self, state: &RefState) -> StepLayers {
        let mut layers = StepLayers::new();
        if let Ok(job) = self.job() {
            job.recorded().await;
        }
        for (at, vertex) in state.definition.vertices.iter().enumerate() {
            for output in outputs(&vertex.op) {
                let edge = Edge { vertex: at, output };
                let recorded = self.recorded(&state.graph, edge).await;
                if let Some(chain) = recorded.as_ref().and_then(Self::blobs_of) {
                    layers.insert((vertex.digest, output), vec![chain]);
                }
            }
        }
        layers
    }

    /// What the cache has recorded for an output that this build has built: one result where it has several.
    async fn recorded(&self, graph: &Graph<Snapshot>, edge: Edge) -> Option<Snapshot> {
        let job = self.job().ok()?;
        let exported = job.export(graph, edge, false).await;
        let records = exported.last()?.records.first()?.result.clone();
        // A result that is gone has no layers to tell of.
        let parts = &self.parts;
        let results = StoredResults::new(parts.layers.clone(), Arc::clone(&parts.registry));
        results.result(&records).ok().flatten()
    }

    /// The blobs of a snapshot's layers; `None` where one has none.
    fn blobs_of(snapshot: &Snapshot) -> Option<Vec<Descriptor>> {
        let layers = snapshot.layers().iter();
        let blob = |layer: &shipway_layers::Layer| {
            let blob = layer.meta().blobs.into_iter().next()?.descriptor;
            Some(Descriptor::new(&blob.media_type, blob.digest, blob.size))
        };
        layers.map(blob).collect()
    }
}

/// What became known of vertices while they ran.
#[derive(Debug, Default)]
struct Noted {
    /// What sources turned out to be.
    pins: BTreeMap<Digest, Pin>,
    /// What steps have used.
    usage: BTreeMap<Digest, Usage>,
}

impl Noted {
    fn note(&mut self, vertex: Digest, facts: &(dyn Any + Send + Sync)) {
        if let Some(pin) = facts.downcast_ref::<Pin>() {
            self.pins.insert(vertex, pin.clone());
        }
        if let Some(Measured { ended, exit }) = facts.downcast_ref() {
            let usage = Usage {
                ended: *ended,
                cpu_micros: exit.cpu_micros,
                peak_memory: exit.peak_memory,
            };
            self.usage.insert(vertex, usage);
        }
    }
}

/// Outputs that an op has.
fn outputs(op: &Op) -> Vec<usize> {
    match op {
        Op::Exec(exec) => {
            let mut outputs: Vec<usize> = exec.mounts.iter().filter_map(|m| m.output).collect();
            outputs.sort_unstable();
            outputs.dedup();
            outputs
        }
        Op::File(file) => file.actions.iter().filter_map(|a| a.output).collect(),
        Op::Source(_) | Op::Build(_) | Op::Merge(_) | Op::Diff(_) => vec![0],
        Op::Passthrough(pass) => (0..pass.outputs.len()).collect(),
    }
}

/// The images that concern one platform: one that was looked up for every platform is left to its own.
fn of_platform(
    images: Vec<ImageSource>,
    platforms: &[Platform],
    current: Option<&Platform>,
) -> Vec<ImageSource> {
    let Some(current) = current else {
        return images;
    };
    let for_all = |image: &ImageSource| {
        platforms.iter().all(|platform| {
            images.iter().any(|other| {
                let of = other.platform.as_ref();
                other.reference == image.reference
                    && of.is_some_and(|of| of.normalized() == platform.normalized())
            })
        })
    };
    let concerns = |image: &&ImageSource| match &image.platform {
        Some(of) if for_all(image) => {
            (&of.os, &of.architecture) == (&current.os, &current.architecture)
        }
        _ => true,
    };
    images.iter().filter(concerns).cloned().collect()
}

/// Provenance that an exporter will write.
struct MadeProvenance {
    build: Arc<Build>,
    options: ProvenanceOptions,
    state: Arc<RefState>,
    facts: Facts,
}

#[async_trait]
impl MakeContent for MadeProvenance {
    async fn make(&self, _env: &ExportEnv) -> Result<Bytes, Failure> {
        let made = self
            .build
            .predicate(&self.options, &self.state, &self.facts);
        made.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_every_platform_concerns_its_own_only() {
        let platform = |architecture: &str| Platform::new("linux", architecture, "");
        let image = |reference: &str, of: Option<&str>| ImageSource {
            reference: reference.parse().unwrap(),
            platform: of.map(platform),
            digest: None,
            local: false,
        };
        let images = vec![
            image("a", Some("amd64")),
            image("a", Some("arm64")),
            image("b", Some("amd64")),
            image("c", None),
        ];
        let platforms = [platform("amd64"), platform("arm64")];
        let arm = of_platform(images.clone(), &platforms, Some(&platforms[1]));
        let names: Vec<String> = arm.iter().map(|i| i.reference.familiar()).collect();
        assert_eq!(names, ["a:latest", "b:latest", "c:latest"]);
        assert_eq!(
            of_platform(images.clone(), &platforms, None).len(),
            images.len()
        );
    }
}
