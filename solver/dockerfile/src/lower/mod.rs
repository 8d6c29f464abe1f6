//! From a parsed Dockerfile to LLB and an image configuration, once per platform.
//!
//! The order of work is that of BuildKit's frontend, because vertex names, stage numbers and warnings depend on it:
//! global arguments, a table of stages, what each refers to, base images of what is reachable (all at once), then
//! instruction after instruction ([`dispatch`]).
//!
//! Only base images and named contexts need the outside; nothing is awaited after they are there.
#![expect(
    clippy::similar_names,
    reason = "a stage has a state: both are the words of the field"
)]

mod args;
mod bases;
mod checks;
mod context;
mod copy;
mod dispatch;
mod epoch;
mod expose;
mod git;
mod meta;
mod mode;
mod mounts;
mod names;
mod outline;
mod paths;
mod remote;
mod run;
mod stages;

pub use context::{MainContext, RemoteContext, remote_context, subdirectory, unpacked};
pub use outline::{Outline, OutlineArg, OutlineItem};

use crate::error::{Error, SyntaxError};
use crate::lint::{Checks, Linter, Warning};
use crate::options::{BuildOptions, OptionMap};
use crate::resolve::{Cached, MetaResolver};
use crate::shell::Shell;
use crate::syntax::{self, Dockerfile};
use futures::future::join_all;
use shipway_llb::Graph;
use shipway_llb::build::{Deferred, SourceFile, State, Vars};
use shipway_model::definition::SourceInfo;
use shipway_model::op::ProxyEnv;
use shipway_model::{Definition, Platform};
use shipway_patterns::PatternMatcher;
use stages::StageState;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::AtomicU32;

/// What to build.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The Dockerfile: name, bytes, and the LLB that it came from.
    pub source: SourceInfo,
    /// Options of the build.
    pub options: &'a BuildOptions,
    /// Where COPY and ADD take files from.
    pub context: MainContext,
}

/// A Dockerfile built for one platform.
#[derive(Debug, Clone)]
pub struct Lowered {
    /// The platform asked for; `None` where none was.
    pub platform: Option<Platform>,
    /// What to solve.
    pub definition: Definition,
    /// The image's configuration, JSON.
    pub config: Vec<u8>,
    /// Platform that the configuration says.
    pub config_platform: Platform,
    /// The base image's configuration, JSON, where there is one.
    pub base_config: Option<Vec<u8>>,
    /// Seconds since 1970 that the image shall be dated to.
    pub epoch: Option<i64>,
    /// What else a scanner of the image shall look at: `context`, or the names of stages.
    pub scan: Vec<(String, Definition)>,
    /// Some stage of it is built without cache.
    pub ignore_cache: bool,
}

/// A result, and the warnings that were found either way.
#[derive(Debug)]
pub struct Outcome<T> {
    /// What the checks found, in order.
    pub warnings: Vec<Warning>,
    /// The result.
    pub result: Result<T, Error>,
}

/// Lowers for every platform that the options name, at once.
///
/// # Errors
/// See [`Error`].
pub async fn lower(request: &Request<'_>, resolver: &dyn MetaResolver) -> Outcome<Vec<Lowered>> {
    let cached = Cached::new(resolver);
    let platforms: Vec<Option<Platform>> = match &request.options.platforms[..] {
        [] => vec![None],
        platforms => platforms.iter().cloned().map(Some).collect(),
    };
    let builds = platforms.into_iter().enumerate().map(|(place, platform)| {
        // Each platform would find the same: only the first one reports.
        one(request, &cached, platform, place == 0)
    });
    let mut warnings = Vec::new();
    let mut lowered = Vec::new();
    let mut failure = None;
    for outcome in join_all(builds).await {
        warnings.extend(outcome.warnings);
        match outcome.result {
            Ok(one) => lowered.push(one),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Outcome {
        warnings,
        result: failure.map_or(Ok(lowered), Err),
    }
}

/// Applies the checks to all stages, or to those that the target needs; nothing is built.
pub async fn lint(request: &Request<'_>, resolver: &dyn MetaResolver) -> Outcome<()> {
    let cached = Cached::new(resolver);
    let platform = request.options.platforms.first().cloned();
    let scope = if request.options.target.is_empty() {
        Scope::All
    } else {
        Scope::Target
    };
    let (outcome, _) = stages_of(request, &cached, platform, scope, true).await;
    Outcome {
        warnings: outcome.warnings,
        result: outcome.result.map(|_| ()),
    }
}

/// Lowers for the first platform alone: what is looked at instead of built. BuildKit shows its own platform's graph whatever
/// platform is asked for; here the question counts, as it does for checks and outline.
pub async fn convert(request: &Request<'_>, resolver: &dyn MetaResolver) -> Outcome<Lowered> {
    let cached = Cached::new(resolver);
    one(
        request,
        &cached,
        request.options.platforms.first().cloned(),
        true,
    )
    .await
}

/// Lists the arguments, secrets and sockets that the target takes.
pub async fn outline(request: &Request<'_>, resolver: &dyn MetaResolver) -> Outcome<Outline> {
    let cached = Cached::new(resolver);
    let platform = request.options.platforms.first().cloned();
    let (outcome, _) = stages_of(request, &cached, platform, Scope::Target, true).await;
    let result = outcome
        .result
        .map(|(lowering, target)| lowering.outline(target));
    Outcome {
        warnings: outcome.warnings,
        result,
    }
}

/// Which stages to look into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Target,
    All,
}

async fn one(
    request: &Request<'_>,
    resolver: &Cached<'_>,
    platform: Option<Platform>,
    report: bool,
) -> Outcome<Lowered> {
    let (outcome, platform) = stages_of(request, resolver, platform, Scope::Target, report).await;
    let result = outcome
        .result
        .and_then(|(lowering, target)| lowering.finish(target, platform));
    Outcome {
        warnings: outcome.warnings,
        result,
    }
}

type Dispatched<'a> = (Lowering<'a>, usize);

async fn stages_of<'a>(
    request: &'a Request<'a>,
    resolver: &'a Cached<'a>,
    platform: Option<Platform>,
    scope: Scope,
    report: bool,
) -> (Outcome<Dispatched<'a>>, Option<Platform>) {
    let checks = match &request.options.checks {
        Some(checks) => Ok(checks.clone()),
        None => Checks::of_file(&request.source.data),
    };
    let (lint, findings) = match checks {
        Ok(checks) => Linter::new(checks),
        Err(error) => {
            let outcome = Outcome {
                warnings: Vec::new(),
                result: Err(Error::new(error)),
            };
            return (outcome, platform);
        }
    };
    let silent = Linter::silent();
    let used = if report { &lint } else { &silent };
    let lowering = prepare(request, resolver, platform.clone(), used);
    let result = match lowering {
        Ok((lowering, file)) => lowering.run(file, scope).await,
        Err(error) => Err(error),
    };
    let warnings = findings.take();
    let result = result.and_then(|done| used.verdict(&warnings).map(|()| done));
    (Outcome { warnings, result }, platform)
}

/// Everything that the instructions of one platform's build need and change.
pub(crate) struct Lowering<'a> {
    request: &'a Request<'a>,
    options: &'a BuildOptions,
    resolver: &'a Cached<'a>,
    build_args: OptionMap,
    lint: Linter,
    shell: Shell,
    graph: Graph,
    file: SourceFile,
    platform: Platform,
    implicit_platform: bool,
    global_args: Vars,
    epoch: Option<i64>,
    proxy: Option<ProxyEnv>,
    stages: Vec<StageState>,
    by_name: HashMap<String, usize>,
    /// Paths that are taken from a stage; stages that continue one another share them.
    used_paths: Vec<HashSet<String>>,
    /// The build context, known by its paths only at the end.
    context: State,
    context_place: Deferred,
    local_contexts: Vec<context::PendingLocal>,
    ignore: Option<PatternMatcher>,
    outline: outline::Capture,
    /// How many findings asked for a suggestion.
    suggestions: AtomicU32,
}

fn prepare<'a>(
    request: &'a Request<'a>,
    resolver: &'a Cached<'a>,
    platform: Option<Platform>,
    lint: &Linter,
) -> Result<(Lowering<'a>, Dockerfile), Error> {
    let options = request.options;
    let file = syntax::parse(&request.source.data, lint)?;
    if file.stages.is_empty() {
        return Err(SyntaxError::NoStages.into());
    }
    checks::stage_names(&file, lint);
    checks::casing(&file, lint);
    let mut graph = Graph::default();
    let (context_place, context) = graph.deferred();
    let source = graph.source_file(request.source.clone());
    let lowering = Lowering {
        request,
        options,
        resolver,
        build_args: options.build_args.clone(),
        lint: lint.clone(),
        shell: Shell::new(file.escape),
        graph,
        file: source,
        implicit_platform: platform.is_none(),
        platform: platform.unwrap_or_else(|| options.build_platform.clone()),
        global_args: Vars::new(),
        epoch: None,
        proxy: args::proxy(&options.build_args),
        stages: Vec::new(),
        by_name: HashMap::new(),
        used_paths: Vec::new(),
        context,
        context_place,
        local_contexts: Vec::new(),
        ignore: request.context.ignore_matcher(),
        outline: outline::Capture::default(),
        suggestions: AtomicU32::new(0),
    };
    Ok((lowering, file))
}

impl<'a> Lowering<'a> {
    async fn run(mut self, file: Dockerfile, scope: Scope) -> Result<Dispatched<'a>, Error> {
        let target_name = match self.options.target.as_str() {
            "" => file
                .stages
                .last()
                .map(|stage| stage.name.clone())
                .unwrap_or_default(),
            name => name.to_owned(),
        };
        self.global_args(&file, &target_name)?;
        self.resolve_epoch(&file).await?;
        self.table_of_stages(file)?;
        let target = self.target()?;
        self.references()?;
        let reachable = self.resolve_bases(target, scope).await?;
        self.dispatch_stages(&reachable, target, scope)?;
        Ok((self, target))
    }

    fn finish(mut self, target: usize, platform: Option<Platform>) -> Result<Lowered, Error> {
        self.bind_contexts();
        let reachable = self.reachable(target);
        let scan = self.scan_targets(target, &reachable)?;
        let ignore_cache = self.stages[target].ignore_cache
            || reachable
                .iter()
                .any(|&s| self.stages[s].scan && self.stages[s].ignore_cache);
        let state = self.stages[target].state.clone();
        let definition = self.graph.into_definition(&state, Some(&self.platform))?;
        let stage = &mut self.stages[target];
        let mut image = std::mem::take(&mut stage.image);
        for (key, value) in &self.options.labels {
            image.config.labels.insert(key.clone(), value.clone());
        }
        if !self.implicit_platform {
            bases::override_platform(&mut image, &self.platform);
        }
        let mut config_platform = image.platform().normalized();
        if config_platform.os.is_empty() {
            config_platform.os = Platform::host().os;
        }
        image.set_platform(config_platform.clone());
        let base_config = stage.base_image.as_ref().map(crate::image::Image::to_json);
        Ok(Lowered {
            platform,
            definition,
            config: image.to_json(),
            config_platform,
            base_config,
            epoch: self.epoch,
            scan,
            ignore_cache,
        })
    }

    /// What a scanner shall look at beside the image, as `BUILDKIT_SBOM_SCAN_*` say.
    fn scan_targets(
        &self,
        target: usize,
        reachable: &BTreeSet<usize>,
    ) -> Result<Vec<(String, Definition)>, Error> {
        let mut scan = Vec::new();
        if self.stages[target].scan_context {
            scan.push(("context".to_owned(), self.context.clone()));
        }
        let others = reachable
            .iter()
            .filter(|&&s| s != target && self.stages[s].scan);
        scan.extend(others.map(|&s| (self.stages[s].name.clone(), self.stages[s].state.clone())));
        let define = |(name, state): (String, State)| {
            let definition = self.graph.definition(&state, Some(&self.platform))?;
            Ok((name, definition))
        };
        scan.into_iter().map(define).collect()
    }
}

#[cfg(test)]
mod tests;
