//! SLSA's predicates: v1, and v0.2 as its translation. Field names are SLSA's and upstream's extensions of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use shipway_model::{Definition, Descriptor, Digest, Failure, Platform};

use crate::options::Slsa;
use crate::steps::{Steps, Usage, source};
use crate::{Capture, ProvenanceOptions, RequestProvenance};

/// `predicateType` of v1.
pub const SLSA_V1: &str = "https://slsa.dev/provenance/v1";
/// `predicateType` of v0.2.
pub const SLSA_V02: &str = "https://slsa.dev/provenance/v0.2";
/// What predicates of provenance have in common.
pub const SLSA_PREFIX: &str = "https://slsa.dev/provenance/";

/// `buildType` of v1.
const BUILD_TYPE_V1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
/// `buildType` of v0.2.
const BUILD_TYPE_V02: &str = "https://mobyproject.org/buildkit@v1";

/// Version of BuildKit's compatibility levels whose formats are written.
const COMPATIBILITY: i64 = 30;

/// What a predicate is made of beside its options.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What the result was made from.
    pub capture: Capture,
    /// What was asked.
    pub request: RequestProvenance,
    /// What made it; told in maximal provenance.
    pub definition: Definition,
    /// What its steps have used, by vertex: those that did not come from the cache.
    pub usage: BTreeMap<Digest, Usage>,
    /// Platform of the machine.
    pub builder: Platform,
    /// Version of the Dockerfile syntax, told where the frontend is the built-in one.
    pub dockerfile_version: String,
    /// Fields that the operator adds.
    pub environment: Map<String, Value>,
    /// Names the build among all.
    pub invocation: String,
    /// When it began.
    pub started: Timestamp,
}

/// Layers of each step's outputs, lowest first: `(vertex's digest, output)`.
pub type StepLayers = BTreeMap<(Digest, usize), Vec<Vec<Descriptor>>>;

impl ProvenanceOptions {
    /// What kind of predicate they make.
    #[must_use]
    pub fn predicate_type(&self) -> &'static str {
        match self.version {
            Slsa::V1 => SLSA_V1,
            Slsa::V02 => SLSA_V02,
        }
    }

    /// Options of the provenance that the history keeps of each build.
    #[must_use]
    pub fn for_history(builder_id: String) -> Self {
        Self {
            max: true,
            usage: true,
            builder_id,
            ..Self::default()
        }
    }

    /// Fails where complete materials are wanted and some are not known.
    pub fn check(&self, capture: &Capture) -> Result<(), Failure> {
        let known = !capture.incomplete && capture.locals.is_empty();
        if !self.complete_materials || known {
            return Ok(());
        }
        let mut message =
            "provenance materials are incomplete\n\nThe build requested complete provenance \
            materials, but not all dependencies could be captured."
                .to_owned();
        if !capture.locals.is_empty() {
            message.push_str("\n\nUncaptured local sources:");
        }
        for name in &capture.locals {
            message.push_str("\n  - ");
            message.push_str(name);
            message.push_str("\n    reason: local_source");
        }
        Err(Failure::new(message))
    }
}

/// The predicate of a result.
pub fn predicate(
    options: &ProvenanceOptions,
    facts: &Facts,
    layers: &StepLayers,
    finished: Timestamp,
) -> Result<Value, Failure> {
    let mut request = facts.request.clone();
    let vcs = request.take_vcs();
    let scrubbed = !options.max && request.scrub();
    let mut metadata = Map::new();
    if !vcs.is_empty() {
        metadata.insert("vcs".into(), json!(vcs));
    }
    let steps = if options.max {
        let mut steps = Steps::new(&facts.definition)?;
        if options.usage {
            steps.tell_usage(&facts.usage);
        }
        if let Some(source) = source(&facts.definition, &steps)? {
            metadata.insert("source".into(), source);
        }
        let layers = step_layers(&steps, layers);
        if !layers.is_empty() {
            metadata.insert("layers".into(), Value::Object(layers));
        }
        Some(steps)
    } else {
        None
    };
    let incomplete = facts.capture.incomplete || !facts.capture.locals.is_empty();
    let parts = Parts {
        options,
        facts,
        parameters: parameters(options, &facts.capture, &request),
        config_source: &request,
        steps,
        metadata: Value::Object(metadata),
        complete_request: !request.frontend.is_empty() && !scrubbed,
        complete_materials: !incomplete,
        hermetic: !incomplete && !facts.capture.network,
        finished,
    };
    Ok(match options.version {
        Slsa::V1 => parts.v1(),
        Slsa::V02 => parts.v02(),
    })
}

/// `stepN:OUTPUT` to chains of layers.
fn step_layers(steps: &Steps, layers: &StepLayers) -> Map<String, Value> {
    let known = layers.iter().filter_map(|((vertex, output), chains)| {
        let number = steps.numbers.get(vertex)?;
        Some((format!("step{number}:{output}"), json!(chains)))
    });
    known.collect()
}

fn parameters(
    options: &ProvenanceOptions,
    capture: &Capture,
    request: &RequestProvenance,
) -> Value {
    let mut json = request.parameters();
    let needs = |needs: &BTreeMap<String, bool>| -> Vec<Value> {
        let needs = needs.iter().map(|(id, optional)| {
            if *optional {
                json!({"id": id, "optional": true})
            } else {
                json!({ "id": id })
            }
        });
        needs.collect()
    };
    if options.max && !capture.secrets.is_empty() {
        json.insert("secrets".into(), json!(needs(&capture.secrets)));
    }
    if options.max && !capture.ssh.is_empty() {
        json.insert("ssh".into(), json!(needs(&capture.ssh)));
    }
    if !capture.locals.is_empty() {
        let locals: Vec<Value> = capture
            .locals
            .iter()
            .map(|n| json!({ "name": n }))
            .collect();
        json.insert("locals".into(), json!(locals));
    }
    request.relations(&mut json);
    json.insert("compatibilityVersion".into(), json!(COMPATIBILITY));
    Value::Object(json)
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of the predicate"
)]
struct Parts<'a> {
    options: &'a ProvenanceOptions,
    facts: &'a Facts,
    parameters: Value,
    config_source: &'a RequestProvenance,
    steps: Option<Steps>,
    metadata: Value,
    complete_request: bool,
    complete_materials: bool,
    hermetic: bool,
    finished: Timestamp,
}

impl Parts<'_> {
    /// Platform, version of the syntax, and what the operator adds beside them.
    fn environment(&self, platform: &str) -> Map<String, Value> {
        let facts = self.facts;
        let mut json = Map::new();
        json.insert(
            platform.into(),
            json!(facts.builder.normalized().to_string()),
        );
        let builtin = self.config_source.frontend == "dockerfile.v0";
        if builtin && !facts.dockerfile_version.is_empty() {
            json.insert("dockerfileVersion".into(), json!(facts.dockerfile_version));
        }
        json.extend(facts.environment.clone());
        json
    }

    fn v1(&self) -> Value {
        let mut internal = Map::new();
        if let Some(steps) = &self.steps {
            internal.insert("buildConfig".into(), steps.config());
        }
        internal.extend(self.environment("builderPlatform"));
        let mut definition = json!({
            "buildType": BUILD_TYPE_V1,
            "externalParameters": {
                "configSource": self.config_source.config_source.json("path"),
                "request": self.parameters,
            },
            "internalParameters": internal,
        });
        let materials = self.facts.capture.materials();
        if !materials.is_empty() {
            definition["resolvedDependencies"] = json!(materials);
        }
        let mut metadata = json!({
            "invocationId": self.facts.invocation,
            "startedOn": self.facts.started.to_string(),
            "finishedOn": self.finished.to_string(),
            "buildkit_metadata": self.metadata,
            "buildkit_completeness": {
                "request": self.complete_request,
                "resolvedDependencies": self.complete_materials,
            },
        });
        if self.hermetic {
            metadata["buildkit_hermetic"] = json!(true);
        }
        if self.options.reproducible {
            metadata["buildkit_reproducible"] = json!(true);
        }
        let builder = json!({"id": self.options.builder_id});
        json!({
            "buildDefinition": definition,
            "runDetails": {"builder": builder, "metadata": metadata},
        })
    }

    fn v02(&self) -> Value {
        let mut json = json!({
            "builder": {"id": self.options.builder_id},
            "buildType": BUILD_TYPE_V02,
        });
        let materials = self.facts.capture.materials();
        if !materials.is_empty() {
            json["materials"] = json!(materials);
        }
        json["invocation"] = json!({
            "configSource": self.config_source.config_source.json("entryPoint"),
            "parameters": self.parameters,
            "environment": self.environment("platform"),
        });
        if let Some(steps) = &self.steps {
            json["buildConfig"] = steps.config();
        }
        let mut metadata = json!({
            "buildInvocationID": self.facts.invocation,
            "buildStartedOn": self.facts.started.to_string(),
            "buildFinishedOn": self.finished.to_string(),
            "completeness": {
                "parameters": self.complete_request,
                "environment": true,
                "materials": self.complete_materials,
            },
            "reproducible": self.options.reproducible,
            "https://mobyproject.org/buildkit@v1#metadata": self.metadata,
        });
        if self.hermetic {
            metadata["https://mobyproject.org/buildkit@v1#hermetic"] = json!(true);
        }
        json["metadata"] = metadata;
        json
    }
}

#[cfg(test)]
mod tests {
    use shipway_llb::build::{Graph, Image, Run, VertexOptions};

    use super::*;
    use crate::{Asked, capture};

    fn facts() -> Facts {
        let mut graph = Graph::default();
        let base = graph.image(
            Image::new("docker.io/library/busybox:latest"),
            VertexOptions::default(),
        );
        let run = graph.run(&base, Run::new(["true"]), VertexOptions::default());
        let definition = graph.definition(run.root(), None).unwrap();
        let asked = Asked {
            frontend: "dockerfile.v0".into(),
            options: [("build-arg:A".to_owned(), "1".to_owned())].into(),
            ..Asked::default()
        };
        let capture = capture(&definition, &BTreeMap::new());
        Facts {
            request: RequestProvenance::new(&asked, &capture),
            capture,
            definition,
            usage: BTreeMap::new(),
            builder: Platform::new("linux", "amd64", ""),
            dockerfile_version: "1.27.0".into(),
            environment: Map::from_iter([("foo".to_owned(), json!("bar"))]),
            invocation: "x".into(),
            started: Timestamp::UNIX_EPOCH,
        }
    }

    fn made(options: &ProvenanceOptions, layers: &StepLayers) -> Value {
        predicate(options, &facts(), layers, Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn maximal_provenance_tells_steps_and_their_layers() {
        let vertex = facts().definition.vertices[0].digest;
        let chain = vec![vec![Descriptor::of("l", b"l")]];
        let options = ProvenanceOptions::for_history("b".into());
        let json = made(&options, &[((vertex, 0), chain)].into());
        let config = &json["buildDefinition"]["internalParameters"]["buildConfig"];
        assert_eq!(config["llbDefinition"].as_array().unwrap().len(), 3);
        assert_eq!(config["llbDefinition"][1]["inputs"][0], "step0:0");
        assert_eq!(config["llbDefinition"][2]["inputs"][0], "step1:0");
        assert_eq!(config["digestMapping"][vertex.to_string()], "step0");
        let metadata = &json["runDetails"]["metadata"];
        assert_eq!(
            metadata["buildkit_metadata"]["layers"]["step0:0"][0][0]["mediaType"],
            "l"
        );
        assert_eq!(metadata["buildkit_completeness"]["request"], true);
        assert_eq!(json["runDetails"]["builder"]["id"], "b");
        let request = &json["buildDefinition"]["externalParameters"]["request"];
        assert_eq!(request["args"]["build-arg:A"], "1");
        assert_eq!(json["buildDefinition"]["internalParameters"]["foo"], "bar");
    }

    #[test]
    fn what_steps_have_used_is_told_where_it_is_wanted() {
        let mut facts = facts();
        let usage = Usage {
            ended: Timestamp::UNIX_EPOCH,
            cpu_micros: Some(5),
            peak_memory: None,
        };
        facts.usage = [(facts.definition.vertices[1].digest, usage)].into();
        let mut options = ProvenanceOptions::for_history(String::new());
        for (wanted, told) in [
            (
                true,
                json!({"samples": [
                    {"timestamp": "1970-01-01T00:00:00Z", "cpuStat": {"usageNanos": 5000}}
                ]}),
            ),
            (false, Value::Null),
        ] {
            options.usage = wanted;
            let json = predicate(&options, &facts, &StepLayers::new(), Timestamp::UNIX_EPOCH);
            let json = json.unwrap();
            let config = &json["buildDefinition"]["internalParameters"]["buildConfig"];
            assert_eq!(config["llbDefinition"][1]["resourceUsage"], told);
            assert_eq!(config["llbDefinition"][0]["resourceUsage"], Value::Null);
        }
    }

    #[test]
    fn minimal_provenance_tells_no_arguments() {
        let options = ProvenanceOptions::default();
        let json = made(&options, &StepLayers::new());
        let definition = &json["buildDefinition"];
        assert_eq!(
            definition["externalParameters"]["request"]["args"],
            Value::Null
        );
        assert_eq!(definition["internalParameters"]["buildConfig"], Value::Null);
        let completeness = &json["runDetails"]["metadata"]["buildkit_completeness"];
        assert_eq!(completeness["request"], false);
        assert_eq!(
            definition["resolvedDependencies"][0]["uri"],
            "pkg:docker/busybox@latest?platform=linux%2Famd64"
        );
    }

    #[test]
    fn the_older_form_says_the_same() {
        let options = ProvenanceOptions {
            version: Slsa::V02,
            max: true,
            reproducible: true,
            ..ProvenanceOptions::default()
        };
        let json = made(&options, &StepLayers::new());
        assert_eq!(json["buildType"], BUILD_TYPE_V02);
        assert_eq!(json["metadata"]["reproducible"], true);
        assert_eq!(
            json["invocation"]["environment"]["dockerfileVersion"],
            "1.27.0"
        );
        assert!(json["buildConfig"]["llbDefinition"].is_array());
    }

    #[test]
    fn complete_materials_are_checked_where_wanted() {
        let capture = Capture {
            locals: vec!["context".into()],
            ..Capture::default()
        };
        let mut options = ProvenanceOptions::default();
        assert!(options.check(&capture).is_ok());
        options.complete_materials = true;
        let refused = options.check(&capture).unwrap_err();
        assert!(refused.message.contains("- context"), "{refused}");
        assert!(options.check(&Capture::default()).is_ok());
    }
}
