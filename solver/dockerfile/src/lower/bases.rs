//! What each stage starts from: nothing, another stage, an image, or a named context. Images are asked for at once.

use super::context::Loaded;
use super::stages::{Command, Progress, SCRATCH, StageState};
use super::{Lowering, Scope, checks};
use crate::error::{Error, ErrorKind, StageError};
use crate::image::Image;
use crate::resolve::{ImageRequest, ResolvedImage};
use crate::shell::NoEnv;
use crate::suggest::{Case, nearest};
use crate::syntax::{InstructionKind, parse_trigger};
use futures::future::join_all;
use shipway_llb::VertexOptions;
use shipway_llb::build::{self, State};
use shipway_model::{ImageRef, Platform};
use std::collections::BTreeSet;

/// What a stage's base turned out to be.
enum Base {
    Scratch,
    /// Not needed: only its name was checked.
    Unneeded,
    Context(Box<Loaded>),
    Image {
        reference: ImageRef,
        image: Box<Image>,
    },
}

/// A base that must be had, with what is needed to ask for it.
struct Wanted {
    stage: usize,
    name: String,
    reference: ImageRef,
    platform: Platform,
    context: Option<super::context::NamedContext>,
}

impl Lowering<'_> {
    /// Resolves bases until ONBUILD triggers name no new ones. Returns what the target needs.
    pub(super) async fn resolve_bases(
        &mut self,
        target: usize,
        scope: Scope,
    ) -> Result<BTreeSet<usize>, Error> {
        loop {
            let reachable = self.reachable(target);
            self.resolve_new(&reachable, scope).await?;
            let mut more = false;
            for &stage in &reachable {
                more |= self.take_triggers(stage)?;
            }
            if !more {
                return Ok(reachable);
            }
        }
    }

    async fn resolve_new(
        &mut self,
        reachable: &BTreeSet<usize>,
        scope: Scope,
    ) -> Result<(), Error> {
        let mut wanted = Vec::new();
        for stage in 0..self.stages.len() {
            let state = &self.stages[stage];
            if state.base.is_some() || state.progress != Progress::New {
                continue;
            }
            let needed = scope == Scope::All || reachable.contains(&stage);
            if state.base_name == SCRATCH && state.named.is_none() {
                self.settle(stage, Base::Scratch, None);
                continue;
            }
            let one = self.want(stage)?;
            if needed {
                wanted.push(one);
            } else {
                let platform = Some(one.platform);
                self.settle(stage, Base::Unneeded, platform);
            }
        }
        let this = &*self;
        let answers = join_all(wanted.iter().map(|one| this.ask(one))).await;
        for (one, answer) in wanted.into_iter().zip(answers) {
            let lines = self.stages[one.stage].lines;
            let base = answer.map_err(|error| error.located(lines))?;
            self.settle(one.stage, base, Some(one.platform));
        }
        Ok(())
    }

    /// What to ask for a stage; its name must be an image's even if it is never needed.
    fn want(&self, stage: usize) -> Result<Wanted, Error> {
        let state = &self.stages[stage];
        let name = state.base_name.clone();
        let parsed = name.parse::<ImageRef>();
        let reference = parsed.map_err(|source| {
            Error::at(
                state.lines,
                StageError::BaseName {
                    name: name.clone(),
                    source,
                },
            )
        })?;
        let platform = state
            .platform
            .clone()
            .unwrap_or_else(|| self.platform.clone());
        let context = if state.named.is_some() {
            state.named.clone()
        } else {
            let found = self.named_context(&reference.to_string(), Some(&platform), false);
            found.map_err(|error| error.located(state.lines))?
        };
        Ok(Wanted {
            stage,
            name,
            reference,
            platform,
            context,
        })
    }

    async fn ask(&self, wanted: &Wanted) -> Result<Base, Error> {
        if let Some(context) = &wanted.context {
            return self
                .load_context(context)
                .await
                .map(|loaded| Base::Context(Box::new(loaded)));
        }
        let mut prefix = String::from("[");
        if self.options.multi_platform {
            prefix = format!("[{} ", crate::platform::format_all(&wanted.platform));
        }
        let request = ImageRequest {
            reference: wanted.reference.to_string(),
            platform: Some(wanted.platform.clone()),
            resolve_mode: self.options.resolve_mode,
            log_name: format!("{prefix}internal] load metadata for {}", wanted.reference),
            layout: None,
        };
        let answer = self.resolver.image_config(request).await;
        let resolved = answer.map_err(|source| self.not_resolved(&wanted.name, source))?;
        if let Some(other) = &resolved.replaced {
            let reference = &resolved.reference;
            let text = format!(
                "ref mutated by policy to non-image: docker-image://{reference} -> {other}"
            );
            return Err(self.not_resolved(&wanted.name, shipway_model::Failure::new(text)));
        }
        let (reference, image) = parse_image(&resolved)?;
        let image = Box::new(image);
        Ok(Base::Image { reference, image })
    }

    fn not_resolved(&self, name: &str, source: shipway_model::Failure) -> Error {
        let common = [
            "alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora",
        ];
        let forms = common.iter().flat_map(|name| {
            ["", "docker.io/library/"]
                .map(|host| [format!("{host}{name}"), format!("{host}{name}:latest")])
        });
        let forms: Vec<String> = forms.flatten().collect();
        let options = self.stage_names().chain(forms.iter().map(String::as_str));
        let suggestion = nearest(name, options, Case::Exact);
        Error::new(ErrorKind::Resolve {
            name: name.to_owned(),
            source,
        })
        .suggest(suggestion)
    }

    /// Writes down what a stage starts from.
    fn settle(&mut self, stage: usize, base: Base, platform: Option<Platform>) {
        let mut progress = Progress::Resolved;
        match base {
            Base::Scratch => {
                let image = Image::scratch(&self.platform);
                let state = &mut self.stages[stage];
                state.image = image;
                state.platform = Some(self.platform.clone());
            }
            // It may become needed by a trigger.
            Base::Unneeded => progress = Progress::New,
            Base::Context(loaded) => {
                progress = self.settle_context(stage, *loaded, platform.as_ref());
            }
            Base::Image { reference, image } => {
                self.settle_image(stage, &reference, *image, platform);
            }
        }
        let state = &mut self.stages[stage];
        let done = state.unregistered && progress == Progress::Resolved;
        state.progress = if done { Progress::Dispatched } else { progress };
    }

    /// A context in place of a stage is its whole result; in place of a base it is only that.
    fn settle_context(
        &mut self,
        stage: usize,
        loaded: Loaded,
        platform: Option<&Platform>,
    ) -> Progress {
        let is_stage = self.stages[stage].named.is_some();
        let used = self.stages[stage].used;
        let state = self.context_state(&loaded, used);
        let target = &mut self.stages[stage];
        if is_stage {
            target.state = state;
            let Some(mut image) = loaded.image else {
                return Progress::Dispatched;
            };
            image.created = None;
            if !image.architecture.is_empty() && !image.os.is_empty() {
                target.platform = Some(image.platform());
            }
            target.image = image;
            return Progress::Dispatched;
        }
        let platform = platform.cloned().unwrap_or_else(|| self.platform.clone());
        let mut image = loaded.image.unwrap_or_else(|| Image::scratch(&platform));
        target.base_image = Some(image.clone());
        image.created = None;
        target.image = image;
        target.state = state.platform(&platform);
        target.platform = Some(platform);
        Progress::Resolved
    }

    fn settle_image(
        &mut self,
        stage: usize,
        reference: &ImageRef,
        mut image: Image,
        platform: Option<Platform>,
    ) {
        let mut platform = platform.unwrap_or_else(|| self.platform.clone());
        let state = &mut self.stages[stage];
        state.base_image = Some(image.clone());
        image.created = None;
        if state.platform.is_none() && self.implicit_platform {
            platform = detect_platform(&image, platform, &self.options.build_platform);
        }
        let origin = std::mem::replace(&mut state.base_name, reference.to_string());
        let (lines, code) = (state.lines, state.code.clone());
        let scratch = image.has_no_layers();
        if !scratch {
            checks::base_platform(&origin, &platform, &image, lines, &self.lint);
        }
        self.stages[stage].image = image;
        if !scratch {
            let text = format!("FROM {reference}");
            let name = self.next_step(stage, &text, Some(&platform), &NoEnv);
            let options = VertexOptions::named(name)
                .describe(super::meta::COMMAND, code)
                .platform(platform.clone())
                .at(self.file, lines.ranges());
            let source = build::Image {
                reference: reference.to_string(),
                resolve: self.options.resolve_mode,
                ..build::Image::default()
            };
            self.stages[stage].state = self.graph.image(source, options);
        }
        self.stages[stage].platform = Some(platform);
    }

    /// A stage that continues another one starts with what that has become. The `last` one to do so takes it away, all but
    /// the files: a copy for each stage of a long chain would be quadratic.
    pub(super) fn inherit(&mut self, stage: usize, last: bool) {
        let Some(base) = self.stages[stage].base else {
            return;
        };
        let base = &mut self.stages[base];
        let platform = base.platform.clone();
        let (used, workdir_set, env_settled) = (base.used, base.workdir_set, base.env_settled);
        let inherited = if last {
            let files = State::scratch().with_output(base.state.output());
            (
                std::mem::replace(&mut base.state, files),
                std::mem::take(&mut base.image),
                std::mem::take(&mut base.base_image),
                std::mem::take(&mut base.build_args),
            )
        } else {
            (
                base.state.clone(),
                base.image.clone(),
                base.base_image.clone(),
                base.build_args.clone(),
            )
        };
        let state = &mut self.stages[stage];
        (state.state, state.image, state.base_image, state.build_args) = inherited;
        state.image.config.on_build.clear();
        state.platform = platform;
        state.used = used;
        state.workdir_set = workdir_set;
        state.env_settled = env_settled;
    }

    /// Puts the triggers of a stage's base in front of its instructions; true if they refer to something new.
    fn take_triggers(&mut self, stage: usize) -> Result<bool, Error> {
        let state = &mut self.stages[stage];
        let mut texts = std::mem::take(&mut state.image.config.on_build);
        if let Some(base) = state.base
            && !std::mem::replace(&mut state.triggered, true)
        {
            let base = &self.stages[base].commands;
            texts.extend(
                base.iter()
                    .filter_map(|command| match &command.instruction.kind {
                        InstructionKind::OnBuild(text) => Some(text.clone()),
                        _ => None,
                    }),
            );
        }
        let lines = self.stages[stage].lines;
        let mut commands = Vec::with_capacity(texts.len());
        let mut more = false;
        for text in &texts {
            let instruction = parse_trigger(text, lines).map_err(|error| error.relocated(lines))?;
            let sources = self
                .sources(stage, &instruction.kind, lines)
                .map_err(|error| error.relocated(lines))?;
            more |= !sources.is_empty();
            commands.push(Command {
                instruction,
                sources,
                on_build: true,
            });
        }
        let state = &mut self.stages[stage];
        state.steps += commands.len();
        commands.append(&mut state.commands);
        state.commands = commands;
        Ok(more)
    }

    /// Makes sure that a stage has a platform and a search path, and starts its state from the image's settings.
    pub(super) fn start_stage(&mut self, stage: usize) {
        let StageState {
            platform,
            image,
            state,
            env_settled,
            ..
        } = &mut self.stages[stage];
        let platform = platform.get_or_insert_with(|| self.platform.clone());
        let env = &mut image.config.env;
        if !env.has("PATH") && platform.os != "windows" {
            env.set("PATH", crate::image::DEFAULT_PATH);
            *env_settled = false;
        }
        let mut started: State = std::mem::take(state);
        if !std::mem::replace(env_settled, true) {
            started = started.envs(env.iter());
        }
        if !self.options.hostname.is_empty() {
            started = started.hostname(&self.options.hostname);
        }
        *state = started;
    }
}

fn parse_image(resolved: &ResolvedImage) -> Result<(ImageRef, Image), Error> {
    let image = Image::parse(&resolved.config)
        .map_err(|error| Error::new(StageError::Config(error.to_string())))?;
    let name = resolved.reference.clone();
    let reference: ImageRef = name
        .parse()
        .map_err(|source| Error::new(StageError::BaseName { name, source }))?;
    let reference = match resolved.digest {
        Some(digest) => reference.with_digest(digest),
        None => reference,
    };
    Ok((reference, image))
}

/// Without a wish for a platform, an image for the daemon's own is as good as one for the target.
fn detect_platform(image: &Image, target: Platform, build: &Platform) -> Platform {
    let fits = |platform: &Platform| {
        platform.os == image.os && platform.architecture == image.architecture
    };
    if !fits(&target) && fits(build) {
        build.clone()
    } else {
        target
    }
}

/// The platform asked for goes into the configuration.
pub(super) fn override_platform(image: &mut Image, platform: &Platform) {
    let same = platform.os == image.os && platform.architecture == image.architecture;
    image.os.clone_from(&platform.os);
    image.architecture.clone_from(&platform.architecture);
    if !platform.variant.is_empty() || !same {
        image.variant.clone_from(&platform.variant);
    }
    if !platform.os_version.is_empty() || !same {
        image.os_version.clone_from(&platform.os_version);
    }
    if !platform.os_features.is_empty() {
        image.os_features.clone_from(&platform.os_features);
    }
}
