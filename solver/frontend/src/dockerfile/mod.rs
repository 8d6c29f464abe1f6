//! The built-in Dockerfile frontend: fetches the Dockerfile and its ignore file over the bridge, has them lowered, and solves
//! what comes out. What a Dockerfile means is `shipway_dockerfile`'s business.

mod files;
mod forward;
mod resolver;
pub mod sbom;
mod subrequest;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use shipway_attest::sbom::Scanner;
use shipway_dockerfile::{BuildOptions, Error, ErrorKind, Lowered, Outcome, Request, lower};
use shipway_model::definition::SourceInfo;
use shipway_model::{CacheEntry, Failure, FailureDetail, Platform};

use crate::result::{BASE_CONFIG_KEY, CONFIG_KEY, PLATFORMS_KEY, PlatformEntry, Platforms, Refs};
use crate::{Attestation, Bridge, Frontend, FrontendRequest, FrontendResult, SolveOptions};
use files::Files;
use forward::Forward;
use resolver::BridgeResolver;
use subrequest::{Subrequest, missing_capability, unsupported_capability};

/// `dockerfile.v0`.
pub struct Dockerfile;

#[async_trait]
impl Frontend for Dockerfile {
    async fn solve(
        &self,
        bridge: Arc<dyn Bridge>,
        request: FrontendRequest,
    ) -> Result<FrontendResult, Failure> {
        let missing = missing_capability(request.options.get("frontend.caps"));
        if let Some(missing) = missing.as_ref().filter(|missing| !missing.forward) {
            return Err(unsupported_capability(missing));
        }
        let imports = crate::cache_imports(&request.options)?;
        let options = BuildOptions::parse(&request.options, bridge.session(), &Platform::host());
        let options = options.map_err(|e| failure(&e, None))?;
        let files = Files::fetch(&*bridge, &options, &request.inputs).await?;
        if let Some(forward) = Forward::wanted(&request, &files.dockerfile.data) {
            return forward.solve(bridge, request, files.dockerfile).await;
        }
        if let Some(missing) = missing {
            return Err(unsupported_capability(&missing));
        }
        let question = request.options.get("requestid");
        let question = question.map(|name| Subrequest::named(name)).transpose()?;
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
            let Outcome { warnings, result } = question.answer(&lowering, &resolver).await;
            files.warn(&*bridge, &warnings);
            return result.map_err(|e| failure(&e, Some(&Arc::new(files.dockerfile))));
        }
        let Outcome { warnings, result } = lower(&lowering, &resolver).await;
        files.warn(&*bridge, &warnings);
        let info = Arc::new(files.dockerfile);
        let lowered = result.map_err(|e| failure(&e, Some(&info)))?;
        let platform = &options.build_platform;
        let scanner = sbom::scanner(&*bridge, &request.options, platform).await?;
        solve_all(&*bridge, &options, imports, scanner.as_ref(), lowered).await
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

async fn solve_all(
    bridge: &dyn Bridge,
    options: &BuildOptions,
    imports: Vec<CacheEntry>,
    scanner: Option<&Scanner>,
    lowered: Vec<Lowered>,
) -> Result<FrontendResult, Failure> {
    let mut metadata = BTreeMap::new();
    let mut platforms = Platforms::default();
    let mut refs = Vec::new();
    let mut attestations: BTreeMap<String, Vec<Attestation>> = BTreeMap::new();
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
        if let Some(scanner) = scanner {
            let found = sbom::scan(bridge, scanner, &id, &each).await?;
            attestations.entry(id.clone()).or_default().push(found);
        }
        metadata.insert(key(CONFIG_KEY), Bytes::from(each.config));
        if let Some(base) = each.base_config {
            metadata.insert(key(BASE_CONFIG_KEY), Bytes::from(base));
        }
        if let Some(epoch) = each.epoch {
            metadata.insert(key("source.date.epoch"), Bytes::from(epoch.to_string()));
        }
        let how = SolveOptions {
            cache_imports: imports.clone(),
            ..SolveOptions::default()
        };
        let solved = bridge.solve(each.definition, how).await?;
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
    Ok(FrontendResult {
        refs,
        metadata,
        attestations,
    })
}
