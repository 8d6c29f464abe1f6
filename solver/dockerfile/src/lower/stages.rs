//! The table of stages: names, bases, what refers to what, and which of them the target needs.

use super::outline::Capture;
use super::{Lowering, checks};
use crate::error::{Error, StageError};
use crate::image::Image;
use crate::lower::context::NamedContext;
use crate::platform;
use crate::span::Lines;
use crate::suggest::{Case, nearest};
use crate::syntax::{Dockerfile, Instruction, InstructionKind, Stage};
use indexmap::IndexMap;
use shipway_llb::build::State;
use shipway_model::Platform;
use std::collections::{BTreeSet, HashSet};

/// The name of the base that is nothing.
pub(super) const SCRATCH: &str = "scratch";

/// One stage, or an image that an instruction takes files from.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, noted in any order"
)]
pub(super) struct StageState {
    /// Name in the Dockerfile; empty for none.
    pub(super) alias: String,
    /// Name in progress displays; empty where there is only one stage.
    pub(super) name: String,
    /// What it starts from.
    pub(super) base_name: String,
    /// Text and lines of its FROM.
    pub(super) code: String,
    pub(super) lines: Lines,
    pub(super) doc: String,
    pub(super) commands: Vec<Command>,
    /// The stage that it continues.
    pub(super) base: Option<usize>,
    /// Stages that its instructions take files from, with the instruction's lines.
    pub(super) deps: Vec<(usize, Lines)>,
    pub(super) named: Option<NamedContext>,
    /// Not in the Dockerfile: an image behind `--from`.
    pub(super) unregistered: bool,
    pub(super) progress: Progress,
    pub(super) platform: Option<Platform>,
    pub(super) state: State,
    pub(super) image: Image,
    pub(super) base_image: Option<Image>,
    /// Arguments that were declared, in order of their first declarations.
    pub(super) build_args: IndexMap<String, Declared>,
    /// The image's variables stand last among those of `state`, in the image's order.
    pub(super) env_settled: bool,
    /// Index into the lowering's sets of used paths.
    pub(super) used: usize,
    /// Paths that it takes from the build context.
    pub(super) context_paths: HashSet<String>,
    pub(super) ignore_cache: bool,
    /// The triggers of its base are among its instructions.
    pub(super) triggered: bool,
    pub(super) scan: bool,
    pub(super) scan_context: bool,
    /// Steps that were named so far, and all of them.
    pub(super) step: usize,
    /// The instruction at hand came from the base.
    pub(super) trigger: bool,
    pub(super) steps: usize,
    /// An instruction of the Dockerfile set the directory.
    pub(super) workdir_set: bool,
    pub(super) last_cmd: Option<Lines>,
    pub(super) last_entrypoint: Option<Lines>,
    pub(super) last_healthcheck: Option<Lines>,
    pub(super) outline: Capture,
}

/// What declarations of one argument said.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    /// The last one's value.
    pub(super) latest: Option<String>,
    /// The last value that there was.
    pub(super) value: Option<String>,
}

/// How far a stage has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    /// Its base is not known.
    New,
    /// Its base is known.
    Resolved,
    /// Its result is known.
    Dispatched,
}

/// How far the search for circles has come at a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mark {
    New,
    Open,
    Done,
}

/// An instruction of a stage.
pub(super) struct Command {
    pub(super) instruction: Instruction,
    /// Stages it takes files from: one per mount for RUN, at most one for COPY.
    pub(super) sources: Vec<usize>,
    pub(super) on_build: bool,
}

impl StageState {
    fn new(base_name: &str, lines: Lines, used: usize) -> Self {
        Self {
            alias: String::new(),
            name: String::new(),
            base_name: base_name.to_owned(),
            code: String::new(),
            lines,
            doc: String::new(),
            commands: Vec::new(),
            base: None,
            deps: Vec::new(),
            named: None,
            unregistered: false,
            progress: Progress::New,
            platform: None,
            state: State::scratch(),
            image: Image::default(),
            base_image: None,
            build_args: IndexMap::new(),
            env_settled: false,
            used,
            context_paths: HashSet::new(),
            ignore_cache: false,
            triggered: false,
            scan: false,
            scan_context: false,
            step: 0,
            trigger: false,
            steps: 0,
            workdir_set: false,
            last_cmd: None,
            last_entrypoint: None,
            last_healthcheck: None,
            outline: Capture::default(),
        }
    }
}

impl Lowering<'_> {
    /// Enters every FROM of the file.
    pub(super) fn table_of_stages(&mut self, file: Dockerfile) -> Result<(), Error> {
        for (number, stage) in file.stages.into_iter().enumerate() {
            self.add_stage(number, stage)?;
        }
        Ok(())
    }

    fn add_stage(&mut self, number: usize, stage: Stage) -> Result<(), Error> {
        let lint = self.lint.for_comments(&stage.comments);
        let lines = stage.lines;
        let expanded = self.shell.expand(&stage.base, &self.global_args);
        let base = expanded.map_err(|error| Error::at(lines, error))?;
        checks::from_args(self, &base.unmatched, lines, &lint);
        if base.text.is_empty() {
            return Err(Error::at(lines, StageError::BlankBase(stage.base)));
        }
        let mut used_args = base.matched;
        let mut state = StageState::new(&base.text, lines, self.used_paths.len());
        self.used_paths.push(HashSet::new());
        state.platform = self.stage_platform(&stage, &lint, &mut used_args)?;
        state.alias.clone_from(&stage.name);
        state.code = stage.code;
        state.doc = stage.doc;
        let command = |instruction| Command {
            instruction,
            sources: Vec::new(),
            on_build: false,
        };
        state.commands = stage.instructions.into_iter().map(command).collect();
        if !stage.name.is_empty() {
            state.named = self.named_context(&stage.name, state.platform.as_ref(), true)?;
        }
        if state.named.is_some() {
            state.name = stage.name;
            let index = self.register(state);
            // The context stands for the stage, whatever that starts from.
            self.stages[index].base = None;
            return Ok(());
        }
        state.name = if stage.name.is_empty() {
            format!("stage-{number}")
        } else {
            stage.name
        };
        state.ignore_cache = self.options.ignores_cache_of(&state.alias);
        let index = self.register(state);
        let state = &mut self.stages[index];
        state.outline.used.extend(used_args);
        let image = usize::from(state.base_name != SCRATCH && state.base.is_none());
        let layers = state
            .commands
            .iter()
            .filter(|c| makes_a_step(&c.instruction.kind))
            .count();
        state.steps = image + layers;
        Ok(())
    }

    fn stage_platform(
        &self,
        stage: &Stage,
        lint: &crate::lint::Linter,
        used_args: &mut BTreeSet<String>,
    ) -> Result<Option<Platform>, Error> {
        if stage.platform.is_empty() {
            return Ok(None);
        }
        let lines = stage.lines;
        let expanded = self.shell.expand(&stage.platform, &self.global_args);
        let expanded = expanded.map_err(|error| Error::at(lines, error))?;
        checks::from_args(self, &expanded.unmatched, lines, lint);
        checks::redundant_platform(&stage.platform, &expanded, &self.global_args, lines, lint);
        checks::constant_platform(&stage.name, &expanded, lines, lint);
        let names = self.global_args.names();
        let meant = expanded
            .unmatched
            .iter()
            .find_map(|name| nearest(name, names.clone(), Case::Exact));
        if expanded.text.is_empty() {
            let error = StageError::EmptyPlatform(stage.platform.clone());
            return Err(Error::at(lines, error).suggest(meant));
        }
        let platform = platform::parse(&expanded.text).map_err(|source| {
            let written = stage.platform.clone();
            Error::at(lines, StageError::Platform { written, source }).suggest(meant)
        })?;
        used_args.extend(expanded.matched);
        Ok(Some(platform))
    }

    /// Enters a stage; it continues the latest one of its base's name.
    fn register(&mut self, mut state: StageState) -> usize {
        let index = self.stages.len();
        state.base = self.by_name.get(&state.base_name).copied();
        if !state.alias.is_empty() {
            self.by_name.insert(state.alias.clone(), index);
        }
        self.stages.push(state);
        index
    }

    pub(super) fn stage_named(&self, name: &str) -> Option<usize> {
        self.by_name.get(&name.to_lowercase()).copied()
    }

    /// Names of all stages, for suggestions.
    pub(super) fn stage_names(&self) -> impl Iterator<Item = &str> + Clone {
        let names = self.stages.iter().map(|stage| stage.name.as_str());
        names.filter(|name| !name.is_empty())
    }

    /// The stage to build.
    pub(super) fn target(&self) -> Result<usize, Error> {
        let name = &self.options.target;
        if name.is_empty() {
            return Ok(self.stages.len() - 1);
        }
        self.stage_named(name).ok_or_else(|| {
            let suggestion = nearest(name, self.stage_names(), Case::Exact);
            Error::new(StageError::Target(name.clone())).suggest(suggestion)
        })
    }

    /// Finds what each instruction takes files from; images that are no stage are entered behind them.
    pub(super) fn references(&mut self) -> Result<(), Error> {
        for index in 0..self.stages.len() {
            let mut commands = std::mem::take(&mut self.stages[index].commands);
            for command in &mut commands {
                let instruction = &command.instruction;
                command.sources = self.sources(index, &instruction.kind, instruction.lines)?;
            }
            self.stages[index].commands = commands;
        }
        self.refuse_circles()?;
        if let [only] = &mut self.stages[..] {
            only.name.clear();
        }
        Ok(())
    }

    /// The stages that one instruction of `user` takes files from.
    pub(super) fn sources(
        &mut self,
        user: usize,
        kind: &InstructionKind,
        lines: Lines,
    ) -> Result<Vec<usize>, Error> {
        let mut sources = Vec::new();
        match kind {
            InstructionKind::Copy(copy) if !copy.from.is_empty() => {
                sources.push(self.copy_source(&copy.from, lines)?);
            }
            InstructionKind::Run(run) => {
                let names = run.mounts.iter().map(|mount| match mount.from.as_str() {
                    "" => SCRATCH,
                    from => from,
                });
                sources.extend(names.map(|name| self.stage_or_image(name, lines)));
            }
            _ => {}
        }
        self.stages[user]
            .deps
            .extend(sources.iter().map(|&source| (source, lines)));
        Ok(sources)
    }

    fn copy_source(&mut self, from: &str, lines: Lines) -> Result<usize, Error> {
        let plain = self.shell.expand(from, &crate::shell::NoEnv);
        let plain = plain.map_err(|error| Error::at(lines, error))?;
        if plain.text != from {
            return Err(Error::at(lines, StageError::FromExpansion));
        }
        let Ok(number) = from.parse::<i64>() else {
            return Ok(self.stage_or_image(from, lines));
        };
        let index = usize::try_from(number)
            .ok()
            .filter(|&index| index < self.stages.len());
        index.ok_or_else(|| Error::at(lines, StageError::Index(number)))
    }

    fn stage_or_image(&mut self, name: &str, lines: Lines) -> usize {
        if let Some(stage) = self.stage_named(name) {
            return stage;
        }
        let mut state = StageState::new(name, lines, self.used_paths.len());
        self.used_paths.push(HashSet::new());
        state.unregistered = true;
        self.register(state)
    }

    /// Refuses stages that take files from themselves, through others or not.
    fn refuse_circles(&self) -> Result<(), Error> {
        let mut marks = vec![Mark::New; self.stages.len()];
        for root in 0..self.stages.len() {
            self.refuse_circle(root, &mut marks)?;
        }
        Ok(())
    }

    fn refuse_circle(&self, root: usize, marks: &mut [Mark]) -> Result<(), Error> {
        if marks[root] != Mark::New {
            return Ok(());
        }
        marks[root] = Mark::Open;
        let mut path: Vec<(usize, usize)> = vec![(root, 0)];
        while let Some((stage, next)) = path.last_mut() {
            let Some(&(dep, _)) = self.stages[*stage].deps.get(*next) else {
                marks[*stage] = Mark::Done;
                path.pop();
                continue;
            };
            *next += 1;
            match marks[dep] {
                Mark::Done => {}
                Mark::New => {
                    marks[dep] = Mark::Open;
                    path.push((dep, 0));
                }
                Mark::Open => return Err(self.circle(root, &path)),
            }
        }
        Ok(())
    }

    fn circle(&self, root: usize, path: &[(usize, usize)]) -> Error {
        let error = Error::new(StageError::Circular(self.stages[root].name.clone()));
        path.iter().fold(error, |error, &(stage, next)| {
            error.located(self.stages[stage].deps[next - 1].1)
        })
    }

    /// The target and everything it needs.
    pub(super) fn reachable(&self, target: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::from([target]);
        let mut open = vec![target];
        while let Some(stage) = open.pop() {
            let stage = &self.stages[stage];
            let next = stage
                .base
                .into_iter()
                .chain(stage.deps.iter().map(|&(dep, _)| dep));
            open.extend(next.filter(|&next| reached.insert(next)));
        }
        reached
    }
}

/// Instructions that count in `[stage 1/n]`.
fn makes_a_step(kind: &InstructionKind) -> bool {
    use InstructionKind as Kind;
    matches!(
        kind,
        Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_)
    )
}
