//! `gateway.v0`: what process a frontend's image is run as, and which images may be frontends. Pure: running it and
//! speaking with it is the build's business.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer};
use shipway_llb::build::{BuildError, Image};
use shipway_llb::{Graph, VertexOptions};
use shipway_model::failure::FailureKind;
use shipway_model::op::NetMode;
use shipway_model::{Definition, Digest, Failure, FailureDetail, ImageRef};

/// Its name.
pub const NAME: &str = "gateway.v0";

/// Option that names the frontend's image.
const SOURCE: &str = "source";

/// Capability of frontends that take graphs as inputs.
const INPUTS: &str = "moby.buildkit.frontend.inputs";

/// Where a frontend finds the graph of its own image.
pub const METADATA_FILE: &str = "/run/config/buildkit/metadata/frontend.bin";

/// Which frontends the daemon runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `dockerfile.v0`.
    pub dockerfile: bool,
    /// Images.
    pub images: ImagePolicy,
}

/// Which images may be frontends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImagePolicy {
    /// None.
    Nobody,
    /// Any.
    Anybody,
    /// Those of these repositories, spelled as `docker.io/docker/dockerfile`.
    Only(Vec<String>),
}

impl Policy {
    /// Refuses a frontend that this daemon does not have.
    pub fn check(&self, name: &str) -> Result<(), Failure> {
        let known = match name {
            "dockerfile.v0" => self.dockerfile,
            NAME => self.images != ImagePolicy::Nobody,
            _ => false,
        };
        if known {
            return Ok(());
        }
        Err(Failure::new(format!("invalid frontend: {name}")))
    }

    fn check_image(&self, image: &ImageRef) -> Result<(), Failure> {
        let ImagePolicy::Only(repositories) = &self.images else {
            return Ok(());
        };
        let repository = image.name();
        if repositories.contains(&repository) {
            return Ok(());
        }
        let message = format!("'{image}' is not an allowed gateway source");
        Err(Failure::of_kind(FailureKind::PermissionDenied, message))
    }
}

/// The image that a request names.
pub fn source(options: &BTreeMap<String, String>, policy: &Policy) -> Result<ImageRef, Failure> {
    if options.contains_key("gateway-devel") {
        let message = "development gateway is no longer supported";
        return Err(Failure::of_kind(FailureKind::Unimplemented, message));
    }
    let named = options.get(SOURCE);
    let named = named.ok_or_else(|| Failure::new("no source specified for gateway"))?;
    let image: ImageRef = named
        .parse()
        .map_err(|e: shipway_model::reference::InvalidReference| Failure::from_error(&e))?;
    policy.check_image(&image)?;
    Ok(image)
}

/// The graph that fetches a frontend's image.
pub fn definition(image: &ImageRef, digest: &Digest) -> Result<Definition, BuildError> {
    let mut graph = Graph::default();
    let pinned = image.clone().with_digest(*digest);
    let source = Image {
        record_type: Some("frontend".to_owned()),
        ..Image::new(pinned.to_string())
    };
    let state = graph.image(source, VertexOptions::default());
    graph.definition(&state, None)
}

/// What a frontend's image says about itself.
#[derive(Debug, Default, Deserialize)]
struct ImageConfig {
    #[serde(default, deserialize_with = "or_default")]
    config: Config,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    working_dir: String,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The process of a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendProcess {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Its network.
    pub network: NetMode,
}

/// What a frontend is told beside its options.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The client's session.
    pub session: &'a str,
    /// JSON of the workers' records.
    pub workers: &'a str,
    /// It is handed graphs.
    pub has_inputs: bool,
}

/// The process of an image with this configuration; refused where the request needs what the image's labels do not offer.
pub fn process(
    config: &[u8],
    options: &BTreeMap<String, String>,
    around: Surroundings<'_>,
) -> Result<FrontendProcess, Failure> {
    let image: ImageConfig = serde_json::from_slice(config).map_err(|e| {
        Failure::from_error(&e).context("reading the frontend image's configuration")
    })?;
    let Config {
        mut env,
        entrypoint,
        working_dir,
        labels,
    } = image.config;
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    check_capabilities(
        label("moby.buildkit.frontend.caps"),
        options,
        around.has_inputs,
    )?;
    let no_network = label("moby.buildkit.frontend.network.none");
    for (index, (name, value)) in options.iter().enumerate() {
        env.push(format!("BUILDKIT_FRONTEND_OPT_{index}={name}={value}"));
    }
    env.push(format!("BUILDKIT_SESSION_ID={}", around.session));
    env.push(format!("BUILDKIT_WORKERS={}", around.workers));
    env.push("BUILDKIT_EXPORTEDPRODUCT=buildkit".to_owned());
    Ok(FrontendProcess {
        args: if entrypoint.is_empty() {
            vec!["/run".to_owned()]
        } else {
            entrypoint
        },
        env,
        cwd: if working_dir.is_empty() {
            "/".to_owned()
        } else {
            working_dir
        },
        network: if matches!(no_network, "1" | "t" | "T" | "true" | "TRUE" | "True") {
            NetMode::None
        } else {
            NetMode::Unset
        },
    })
}

fn check_capabilities(
    offered: &str,
    options: &BTreeMap<String, String>,
    has_inputs: bool,
) -> Result<(), Failure> {
    let offered = names(offered);
    let mut wanted = names(options.get("frontend.caps").map_or("", String::as_str));
    if has_inputs {
        wanted.insert(INPUTS);
    }
    let Some(missing) = wanted.into_iter().find(|cap| !offered.contains(cap)) else {
        return Ok(());
    };
    let message = format!("unsupported frontend capability {missing}");
    let failure = Failure::of_kind(FailureKind::Unimplemented, message);
    Err(failure.with(FailureDetail::UnsupportedFrontendCap(missing.to_owned())))
}

/// Capabilities of a list such as `a,b+forward`.
fn names(list: &str) -> BTreeSet<&str> {
    let each = list
        .split(',')
        .map(|cap| cap.split('+').next().unwrap_or(cap));
    each.filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AROUND: Surroundings<'_> = Surroundings {
        session: "s",
        workers: "[]",
        has_inputs: false,
    };

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn a_frontend_is_told_its_options_its_session_and_the_workers() {
        let config = br#"{"config": {"Env": ["A=1"], "Entrypoint": ["/f", "x"], "WorkingDir": "/w", "Labels": null}}"#;
        let process = process(config, &options(&[("b", "2=3"), ("a", "")]), AROUND).unwrap();
        assert_eq!(process.args, ["/f", "x"]);
        assert_eq!(
            process.env,
            [
                "A=1",
                "BUILDKIT_FRONTEND_OPT_0=a=",
                "BUILDKIT_FRONTEND_OPT_1=b=2=3",
                "BUILDKIT_SESSION_ID=s",
                "BUILDKIT_WORKERS=[]",
                "BUILDKIT_EXPORTEDPRODUCT=buildkit",
            ]
        );
        assert_eq!(
            (process.cwd.as_str(), process.network),
            ("/w", NetMode::Unset)
        );
    }

    #[test]
    fn an_image_without_an_entrypoint_runs_run() {
        let process = process(b"{}", &options(&[]), AROUND).unwrap();
        assert_eq!(process.args, ["/run"]);
    }

    #[test]
    fn what_the_image_does_not_offer_is_refused_by_name() {
        let config = br#"{"config": {"Labels": {"moby.buildkit.frontend.caps": "a+x,b",
            "moby.buildkit.frontend.network.none": "true"}}}"#;
        let offered = process(
            config,
            &options(&[("frontend.caps", "a,b+forward")]),
            AROUND,
        );
        assert_eq!(offered.unwrap().network, NetMode::None);
        let missing = process(config, &options(&[("frontend.caps", "c+forward")]), AROUND);
        assert!(missing.unwrap_err().message.ends_with("capability c"));
        let inputs = Surroundings {
            has_inputs: true,
            ..AROUND
        };
        let missing = process(config, &options(&[]), inputs).unwrap_err();
        assert!(missing.message.contains(INPUTS));
    }

    #[test]
    fn only_allowed_repositories_are_sources() {
        let policy = |images| Policy {
            dockerfile: true,
            images,
        };
        let only = policy(ImagePolicy::Only(vec!["docker.io/a/b".to_owned()]));
        assert!(source(&options(&[("source", "a/b:1")]), &only).is_ok());
        let refused = source(&options(&[("source", "a/c")]), &only).unwrap_err();
        assert!(refused.message.contains("is not an allowed gateway source"));
        let any = policy(ImagePolicy::Anybody);
        assert!(source(&options(&[("source", "x/y")]), &any).is_ok());
        assert!(source(&options(&[]), &any).is_err());
        assert!(source(&options(&[("source", "a"), ("gateway-devel", "")]), &any).is_err());
        assert!(policy(ImagePolicy::Nobody).check(NAME).is_err());
    }
}
