//! How a result is scanned: the scanner's image run as a step with the result mounted, after BuildKit's protocol of scanners
//! (`BUILDKIT_SCAN_SOURCE`, `BUILDKIT_SCAN_SOURCE_EXTRAS`, `BUILDKIT_SCAN_DESTINATION`). Makes the graph; runs nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;
use shipway_llb::build::{
    BindMount, BuildError, Graph, Image, Run, RunMount, State, VertexOptions,
};
use shipway_model::{Definition, Failure, Platform};

use crate::statement::{Head, Kind, REASON, SBOM_CORE, SPDX};

/// Name of the result's own scan.
const CORE: &str = "sbom";
/// Where a scanner finds what it scans.
const SOURCES: &str = "/run/src";
/// Where a scanner writes.
const DESTINATION: &str = "/run/out/";

/// A scanner that was looked up.
#[derive(Debug, Clone)]
pub struct Scanner {
    reference: String,
    platform: Platform,
    args: Vec<String>,
    env: Vec<(String, String)>,
    directory: String,
}

impl Scanner {
    /// A scanner from its image's configuration. `parameters` are what the request sets for it.
    pub fn new(
        reference: &str,
        config: &[u8],
        platform: &Platform,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Self, Failure> {
        let config: Value = serde_json::from_slice(config).map_err(|e| {
            Failure::from_error(&e).context(format!("reading the config of scanner {reference}"))
        })?;
        let config = &config["config"];
        let texts = |name: &str| -> Vec<String> {
            let list = config[name].as_array().into_iter().flatten();
            list.filter_map(|text| text.as_str().map(str::to_owned))
                .collect()
        };
        let args: Vec<String> = [texts("Entrypoint"), texts("Cmd")].concat();
        if args.is_empty() {
            return Err(Failure::new(format!(
                "scanner {reference} does not have cmd"
            )));
        }
        let own = texts("Env")
            .into_iter()
            .map(|pair| match pair.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => (pair, String::new()),
            });
        let asked = parameters
            .iter()
            .map(|(name, value)| (format!("BUILDKIT_SCAN_{name}"), value.clone()));
        let directory = config["WorkingDir"].as_str().unwrap_or_default();
        Ok(Self {
            reference: reference.to_owned(),
            platform: platform.clone(),
            args,
            env: own.chain(asked).collect(),
            directory: directory.to_owned(),
        })
    }

    /// The scan of a result, called `name`, and of others that it was made of, by their names.
    pub fn scan(
        &self,
        name: &str,
        core: &Definition,
        extras: &BTreeMap<String, Definition>,
        ignore_cache: bool,
    ) -> Result<Definition, BuildError> {
        let mut graph = Graph::default();
        let options = VertexOptions::default().platform(self.platform.clone());
        let mut scanner = graph.image(Image::new(self.reference.clone()), options);
        if !self.directory.is_empty() {
            scanner = scanner.dir(&self.directory);
        }
        for (name, value) in &self.env {
            scanner = scanner.env(name, value);
        }
        let source = format!("{SOURCES}/core/{CORE}");
        scanner = scanner
            .env("BUILDKIT_SCAN_DESTINATION", DESTINATION)
            .env("BUILDKIT_SCAN_SOURCE", &source);
        if !extras.is_empty() {
            let extras = format!("{SOURCES}/extras");
            scanner = scanner.env("BUILDKIT_SCAN_SOURCE_EXTRAS", &extras);
        }
        let mut run = Run::new(self.args.clone())
            .mount("/tmp", tmpfs())
            .mount(source, read_only(graph.import(core)));
        for (name, extra) in extras {
            let target = format!("{SOURCES}/extras/{CORE}-{name}");
            run = run.mount(target, read_only(graph.import(extra)));
        }
        run = run.mount(DESTINATION, RunMount::Bind(BindMount::default()));
        let shown = format!("[{name}] generating sbom using {}", self.reference);
        let mut options = VertexOptions::named(shown).platform(self.platform.clone());
        if ignore_cache {
            options = options.ignore_cache();
        }
        let scanned = graph.run(&scanner, run, options);
        let found = scanned.mount(DESTINATION).cloned().unwrap_or_default();
        graph.definition(&found, Some(&self.platform))
    }
}

fn tmpfs() -> RunMount {
    RunMount::Tmpfs {
        size: 0,
        source: String::new(),
        readonly: false,
    }
}

fn read_only(state: State) -> RunMount {
    RunMount::Bind(BindMount {
        state,
        readonly: true,
        ..BindMount::default()
    })
}

/// The attestation that a scan's result is.
#[must_use]
pub fn bundle() -> Head {
    let metadata = [(REASON, "sbom"), (SBOM_CORE, CORE)];
    let metadata =
        metadata.map(|(key, value)| (key.to_owned(), Bytes::from_static(value.as_bytes())));
    Head {
        kind: Kind::Bundle,
        metadata: metadata.into(),
        path: String::new(),
        predicate_type: SPDX.to_owned(),
        subjects: Vec::new(),
    }
}

/// True where an attestation lists what a result holds.
#[must_use]
pub fn is_sbom(head: &Head) -> bool {
    head.predicate_type == SPDX
}

#[cfg(test)]
mod tests {
    use shipway_model::op::{MountKind, Op};

    use super::*;

    fn scanner(config: &str) -> Result<Scanner, Failure> {
        let parameters = [("SELECT".to_owned(), "x".to_owned())].into();
        let platform = Platform::new("linux", "amd64", "");
        Scanner::new("docker.io/a/b:c", config.as_bytes(), &platform, &parameters)
    }

    #[test]
    fn a_scan_mounts_what_it_scans_and_keeps_what_it_writes() {
        let scanner = scanner(r#"{"config":{"Cmd":["scan"],"Env":["A=b=c"],"WorkingDir":"/w"}}"#);
        let mut graph = Graph::default();
        let image = graph.image(Image::new("docker.io/x/y:z"), VertexOptions::default());
        let core = graph.definition(&image, None).unwrap();
        let extras = [("base".to_owned(), core.clone())].into();
        let scan = scanner
            .unwrap()
            .scan("linux/amd64", &core, &extras, true)
            .unwrap();
        let target = scan.target.unwrap();
        let vertex = &scan.vertices[target.vertex];
        let Op::Exec(exec) = &vertex.op else {
            panic!("a scan is a process")
        };
        assert!(vertex.meta.ignore_cache);
        assert!(exec.meta.env.contains(&"A=b=c".to_owned()));
        assert!(exec.meta.env.contains(&"BUILDKIT_SCAN_SELECT=x".to_owned()));
        let kept = exec.mounts.iter().find(|m| m.output == Some(target.output));
        assert_eq!(kept.unwrap().dest.trim_end_matches('/'), "/run/out");
        let read = exec.mounts.iter().filter(|m| m.readonly).count();
        assert_eq!(read, 2);
        let memory = exec
            .mounts
            .iter()
            .any(|m| matches!(m.kind, MountKind::Tmpfs { .. }));
        assert!(memory);
    }

    #[test]
    fn a_scanner_without_a_command_is_refused() {
        assert!(scanner("{}").is_err());
        assert!(scanner("nonsense").is_err());
    }
}
