//! The request that a result comes from, as provenance tells it: frontend and options without what only concerns this
//! machine, the requests behind its inputs, and the one at the root.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::Capture;
use crate::url::redacted;

/// Options that concern the machine, not the build.
const HOST_ONLY: [&str; 4] = [
    "cgroup-parent",
    "image-resolve-mode",
    "platform",
    "cache-imports",
];

/// What a frontend was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// Frontend; empty where the client is its own.
    pub frontend: String,
    /// Options, as sent.
    pub options: BTreeMap<String, String>,
    /// Requests that its inputs come from, as far as they are known.
    pub inputs: BTreeMap<String, RequestProvenance>,
}

/// A request, and where its description comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestProvenance {
    /// The context, where it is a material.
    pub config_source: ConfigSource,
    /// Frontend.
    pub frontend: String,
    /// Options.
    pub args: BTreeMap<String, String>,
    /// Requests behind the inputs.
    pub inputs: BTreeMap<String, Self>,
    /// The request of the whole build, where it is another.
    pub root: Option<Box<Self>>,
}

/// Where a build's description comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigSource {
    /// The context.
    pub uri: String,
    /// Its digest.
    pub digest: Option<Value>,
    /// The file in it.
    pub path: String,
}

impl RequestProvenance {
    /// The provenance of a request whose result was made from `capture`.
    #[must_use]
    pub fn new(asked: &Asked, capture: &Capture) -> Self {
        let mut args = filtered(&asked.options);
        let context = context_key(&args);
        let mut config_source = ConfigSource::default();
        // The context's own value is needed as sent: it is compared with what was fetched.
        let sent = asked
            .options
            .get(&context)
            .filter(|value| !value.is_empty());
        if let Some(sent) = sent {
            (config_source.uri, config_source.digest) = capture.config_source(sent);
            args.remove(&context);
        }
        if let Some(path) = args.remove("filename").filter(|path| !path.is_empty()) {
            config_source.path = path;
        }
        Self {
            config_source,
            frontend: asked.frontend.clone(),
            args,
            inputs: asked.inputs.clone(),
            root: None,
        }
    }

    /// True where nothing was asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frontend.is_empty() && self.args.is_empty() && self.inputs.is_empty()
    }

    /// The same with its root, unless that is the same request.
    #[must_use]
    pub fn below(mut self, root: Option<Self>) -> Self {
        self.root = root
            .filter(|root| !root.is_empty() && *root != self)
            .map(Box::new);
        self
    }

    /// Takes out what minimal provenance does not tell; true where something was.
    pub(crate) fn scrub(&mut self) -> bool {
        let before = self.args.len();
        self.args
            .retain(|key, _| !key.starts_with("build-arg:") && !key.starts_with("label:"));
        let mut scrubbed = self.args.len() < before;
        for input in self.inputs.values_mut() {
            scrubbed |= input.scrub();
        }
        if let Some(root) = &mut self.root {
            scrubbed |= root.scrub();
        }
        scrubbed
    }

    /// Takes out what is told of version control, and gives it.
    pub(crate) fn take_vcs(&mut self) -> BTreeMap<String, String> {
        let (vcs, args) = std::mem::take(&mut self.args)
            .into_iter()
            .partition(|(key, _): &(String, String)| key.starts_with("vcs:"));
        self.args = args;
        let vcs: BTreeMap<String, String> = vcs;
        let named = vcs.into_iter().filter(|(_, value)| !value.is_empty());
        named
            .map(|(key, value)| {
                let value = if key == "vcs:source" {
                    redacted(&value)
                } else {
                    value
                };
                (key.trim_start_matches("vcs:").to_owned(), value)
            })
            .collect()
    }

    /// Frontend, arguments, inputs and root, in the order that readers know.
    pub(crate) fn parameters(&self) -> Map<String, Value> {
        let mut json = Map::new();
        if !self.frontend.is_empty() {
            json.insert("frontend".into(), json!(self.frontend));
        }
        if !self.args.is_empty() {
            json.insert("args".into(), json!(self.args));
        }
        json
    }

    /// What follows the secrets among the parameters.
    pub(crate) fn relations(&self, json: &mut Map<String, Value>) {
        if !self.inputs.is_empty() {
            let inputs = self.inputs.iter();
            let inputs: Map<String, Value> =
                inputs.map(|(name, of)| (name.clone(), of.json())).collect();
            json.insert("inputs".into(), Value::Object(inputs));
        }
        if let Some(root) = &self.root {
            json.insert("root".into(), root.json());
        }
    }

    fn json(&self) -> Value {
        let mut request = self.parameters();
        self.relations(&mut request);
        json!({"configSource": self.config_source.json("path"), "request": request})
    }
}

impl ConfigSource {
    /// `path` is the name of the file's field.
    pub(crate) fn json(&self, path: &str) -> Value {
        let mut json = Map::new();
        if !self.uri.is_empty() {
            json.insert("uri".into(), json!(self.uri));
        }
        if let Some(digest) = &self.digest {
            json.insert("digest".into(), digest.clone());
        }
        if !self.path.is_empty() {
            json.insert(path.into(), json!(self.path));
        }
        Value::Object(json)
    }
}

/// Option that names the context.
fn context_key(options: &BTreeMap<String, String>) -> String {
    let named = |key: &str| options.get(key).filter(|value| !value.is_empty());
    match (named("contextkey"), named("input:context")) {
        (Some(key), _) => key.clone(),
        (None, Some(_)) => "input:context".to_owned(),
        (None, None) => "context".to_owned(),
    }
}

/// Options as provenance may tell them.
fn filtered(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let context = options.get("contextkey").filter(|key| !key.is_empty());
    let context = context.map_or("context", String::as_str);
    let told = options
        .iter()
        .filter(|(key, _)| !HOST_ONLY.contains(&key.as_str()) && !key.starts_with("attest:"));
    told.map(|(key, value)| {
        let is_context = key == context || key.starts_with("context:");
        let value = if is_context {
            redacted(value)
        } else {
            value.clone()
        };
        (key.clone(), value)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(options: &[(&str, &str)]) -> Asked {
        let options = options.iter();
        Asked {
            frontend: "f".into(),
            options: options.map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            inputs: BTreeMap::new(),
        }
    }

    #[test]
    fn a_request_tells_no_credentials_and_nothing_of_the_machine() {
        let asked = asked(&[
            ("platform", "linux/amd64"),
            ("attest:provenance", ""),
            ("context:x", "https://u:p@h/y"),
            ("filename", "D"),
            ("vcs:source", "https://u:p@h/r.git"),
            ("vcs:revision", ""),
            ("build-arg:A", "1"),
        ]);
        let mut request = RequestProvenance::new(&asked, &Capture::default());
        assert_eq!(request.config_source.path, "D");
        assert_eq!(request.args["context:x"], "https://xxxxx:xxxxx@h/y");
        let vcs = request.take_vcs();
        let source = "https://xxxxx:xxxxx@h/r.git";
        assert_eq!(vcs, [("source".to_owned(), source.to_owned())].into());
        assert_eq!(request.args.len(), 2);
        assert!(request.scrub() && !request.scrub());
    }

    #[test]
    fn a_root_that_is_the_request_itself_is_not_told() {
        let request = RequestProvenance::new(&asked(&[("a", "b")]), &Capture::default());
        assert_eq!(request.clone().below(Some(request.clone())).root, None);
        let other = RequestProvenance::new(&asked(&[("c", "d")]), &Capture::default());
        let below = request.below(Some(other));
        let json = Value::Object({
            let mut json = below.parameters();
            below.relations(&mut json);
            json
        });
        assert_eq!(json["root"]["request"]["args"]["c"], "d");
    }
}
