//! The built-in Dockerfile frontend: fetches the Dockerfile and its ignore file over the bridge, has them lowered, and solves
//! what comes out. What a Dockerfile means is `shipway_dockerfile`'s business.

mod resolver;
mod subrequest;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use shipway_dockerfile::entry;
use shipway_dockerfile::lint::Warning as Finding;
use shipway_dockerfile::{
    BuildOptions, Error, ErrorKind, Lowered, MainContext, Outcome, Request, lower,
};
use shipway_model::definition::SourceInfo;
use shipway_model::failure::FailureKind;
use shipway_model::progress::Warning;
use shipway_model::{Definition, Failure, FailureDetail, Platform};

use crate::result::{BASE_CONFIG_KEY, CONFIG_KEY, PLATFORMS_KEY, PlatformEntry, Platforms, Refs};
use crate::{Bridge, Frontend, FrontendRequest, FrontendResult, Ref, SolveOptions};
use resolver::BridgeResolver;
use subrequest::{Subrequest, check_capabilities};

/// `dockerfile.v0`.
pub struct Dockerfile;

/// Name of the client's directory that COPY takes files from, where the options name no other.
const CONTEXT: &str = "context";

#[async_trait]
impl Frontend for Dockerfile {
    async fn solve(
        &self,
        bridge: Arc<dyn Bridge>,
        request: FrontendRequest,
    ) -> Result<FrontendResult, Failure> {
        check_capabilities(request.options.get("frontend.caps"))?;
        let question = request.options.get("requestid");
        let question = question.map(|name| Subrequest::named(name)).transpose()?;
        let options = BuildOptions::parse(&request.options, bridge.session(), &Platform::host());
        let options = options.map_err(|e| failure(&e, None))?;
        let files = Files::fetch(&*bridge, &options).await?;
        let resolver = BridgeResolver {
            bridge: &*bridge,
            inputs: &request.inputs,
        };
        let lowering = Request {
            source: files.dockerfile.clone(),
            options: &options,
            context: files.context.clone(),
        };
        if let Some(question) = question {
            let answer = question.answer(&lowering, &resolver).await;
            return answer.map_err(|e| failure(&e, Some(&Arc::new(files.dockerfile))));
        }
        let Outcome { warnings, result } = lower(&lowering, &resolver).await;
        files.warn(&*bridge, &warnings);
        let info = Arc::new(files.dockerfile);
        let lowered = result.map_err(|e| failure(&e, Some(&info)))?;
        solve_all(&*bridge, &options, lowered).await
    }
}

/// What a build is lowered from.
struct Files {
    dockerfile: SourceInfo,
    context: MainContext,
    /// What the Dockerfile came from: warnings are shown there.
    source: Definition,
}

impl Files {
    async fn fetch(bridge: &dyn Bridge, options: &BuildOptions) -> Result<Self, Failure> {
        let graph = |e: shipway_llb::build::BuildError| Failure::from_error(&e);
        let context_name = match options.raw.get(CONTEXT) {
            None => options
                .raw
                .get("contextkey")
                .map_or(CONTEXT, String::as_str),
            Some(remote) => {
                let message = format!("build context {remote:?} is not supported");
                return Err(Failure::of_kind(FailureKind::Unimplemented, message));
            }
        };
        let source = entry::dockerfile_source(options).map_err(graph)?;
        let ignore_source = entry::ignore_source(options, context_name).map_err(graph)?;
        let solve =
            |definition: &Definition| bridge.solve(definition.clone(), SolveOptions::default());
        let (files, ignores) = tokio::try_join!(solve(&source), solve(&ignore_source))?;
        let dockerfile = async {
            let files = files.ok_or_else(|| Failure::new("no directory holds the Dockerfile"))?;
            let dockerfile = read_dockerfile(bridge, &files, options).await?;
            let own = read(bridge, &files, &entry::own_ignore_name(options)).await?;
            Ok::<_, Failure>((dockerfile, own))
        };
        let shared = async {
            match &ignores {
                Some(ignores) => read(bridge, ignores, entry::IGNORE_FILE).await,
                None => Ok(None),
            }
        };
        let ((dockerfile, own), shared) = tokio::try_join!(dockerfile, shared)?;
        let ignore = own.or(shared).unwrap_or_default();
        let ignore = shipway_patterns::parse_ignore_file(&String::from_utf8_lossy(&ignore));
        let context = MainContext::Local {
            name: context_name.to_owned(),
            ignore,
        };
        let definition = Some(shipway_llb::encode_bytes(&source));
        let dockerfile = SourceInfo {
            filename: entry::dockerfile_name(options).to_owned(),
            data: dockerfile.to_vec(),
            language: "Dockerfile".to_owned(),
            definition,
        };
        Ok(Self {
            dockerfile,
            context,
            source,
        })
    }

    fn warn(&self, bridge: &dyn Bridge, findings: &[Finding]) {
        let Some(target) = self.source.target else {
            return;
        };
        let vertex = self.source.vertices[target.vertex].digest;
        let info = Arc::new(self.dockerfile.clone());
        for finding in findings {
            bridge.warn(Warning {
                vertex,
                level: 1,
                short: finding.short(),
                detail: vec![finding.rule.description().to_owned()],
                url: finding.rule.url(),
                info: Some(Arc::clone(&info)),
                ranges: finding.lines.ranges(),
            });
        }
    }
}

/// What a client is told of a mistake: its text, its cause's facts, and the lines.
fn failure(error: &Error, info: Option<&Arc<SourceInfo>>) -> Failure {
    let cause = match &*error.kind {
        ErrorKind::Resolve { source, .. } | ErrorKind::Failed(source) => Some(source),
        _ => None,
    };
    let mut failure = cause.cloned().unwrap_or_else(|| Failure::new(""));
    failure.message = error.to_string().into();
    let Some(info) = info else { return failure };
    error.locations.iter().fold(failure, |failure, lines| {
        failure.with(FailureDetail::Source {
            info: Arc::clone(info),
            ranges: lines.ranges(),
        })
    })
}

async fn read(bridge: &dyn Bridge, from: &Ref, path: &str) -> Result<Option<Bytes>, Failure> {
    match bridge.read_file(from, path, None).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(failure) if failure.kind == FailureKind::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Size of the largest Dockerfile that is read, in bytes.
const LARGEST: u64 = 16 << 20;

async fn read_dockerfile(
    bridge: &dyn Bridge,
    files: &Ref,
    options: &BuildOptions,
) -> Result<Bytes, Failure> {
    for name in entry::dockerfile_names(options) {
        match read(bridge, files, &name).await {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => {}
            Err(failure) => {
                let size = bridge
                    .stat_file(files, &name)
                    .await
                    .map_or(0, |stat| stat.size);
                if size > LARGEST {
                    return Err(Failure::new(
                        "Dockerfile exceeds maximum allowed size of 16 MiB",
                    ));
                }
                return Err(failure);
            }
        }
    }
    let name = entry::dockerfile_name(options);
    let message = format!("failed to read dockerfile: open {name}: no such file or directory");
    Err(Failure::of_kind(FailureKind::NotFound, message))
}

async fn solve_all(
    bridge: &dyn Bridge,
    options: &BuildOptions,
    lowered: Vec<Lowered>,
) -> Result<FrontendResult, Failure> {
    let mut metadata = BTreeMap::new();
    let mut platforms = Platforms::default();
    let mut refs = Vec::new();
    let multi = options.multi_platform || lowered.len() > 1;
    for each in lowered {
        let platform = each
            .platform
            .clone()
            .unwrap_or_else(|| each.config_platform.clone());
        let id = platform.key();
        let key = |name: &str| {
            if multi {
                format!("{name}/{id}")
            } else {
                name.to_owned()
            }
        };
        metadata.insert(key(CONFIG_KEY), Bytes::from(each.config));
        if let Some(base) = each.base_config {
            metadata.insert(key(BASE_CONFIG_KEY), Bytes::from(base));
        }
        if let Some(epoch) = each.epoch {
            metadata.insert(key("source.date.epoch"), Bytes::from(epoch.to_string()));
        }
        let solved = bridge
            .solve(each.definition, SolveOptions::default())
            .await?;
        refs.push((id.clone(), solved));
        platforms.platforms.push(PlatformEntry { id, platform });
    }
    let json = serde_json::to_vec(&platforms).map_err(|e| Failure::from_error(&e))?;
    metadata.insert(PLATFORMS_KEY.to_owned(), json.into());
    let refs = if multi {
        Refs::Map(refs)
    } else {
        Refs::Single(refs.pop().and_then(|(_, solved)| solved))
    };
    Ok(FrontendResult { refs, metadata })
}
