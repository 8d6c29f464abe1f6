//! `SOURCE_DATE_EPOCH`: a number of seconds, or the name of a source whose own age counts: `context`, a named context, or
//! a stage that is nothing but one remote ADD.

use super::context::{self, RemoteContext};
use super::remote::{checked, file_name};
use super::{Lowering, git, remote_context};
use crate::error::{Error, ErrorKind, InstructionError};
use crate::syntax::{Add, ArgDef, Dockerfile, InstructionKind, Stage};
use shipway_llb::VertexOptions;
use shipway_llb::build::{Git, Http, State, Vars};
use shipway_model::Definition;

const NAME: &str = "SOURCE_DATE_EPOCH";

impl Lowering<'_> {
    /// Finds the time that the image shall be dated to, and lets the build argument be that number.
    pub(super) async fn resolve_epoch(&mut self, file: &Dockerfile) -> Result<(), Error> {
        let global = self.global_args.get(NAME).filter(|value| !value.is_empty());
        let Some(value) = self.build_args.get(NAME).or(global).cloned() else {
            return Ok(());
        };
        self.epoch = match value.parse::<i64>() {
            Ok(seconds) => Some(seconds),
            Err(_) if value.is_empty() => None,
            Err(_) => self.epoch_of(&value, file).await?,
        };
        let number = self.epoch.map(|seconds| seconds.to_string());
        if self.build_args.contains_key(NAME) {
            match &number {
                Some(number) => self.build_args.insert(NAME.into(), number.clone()),
                None => self.build_args.remove(NAME),
            };
        }
        if self.global_args.contains(NAME) {
            match &number {
                Some(number) => self.global_args.set(NAME, number),
                None => {
                    self.global_args.remove(NAME);
                }
            }
        }
        Ok(())
    }

    async fn epoch_of(&mut self, name: &str, file: &Dockerfile) -> Result<Option<i64>, Error> {
        if name == "context" {
            let Some(RemoteContext::Git(source) | RemoteContext::Http(source)) =
                remote_context(self.options)?
            else {
                return Ok(None);
            };
            return self
                .ask_epoch(&source, "[internal] resolve main build context metadata")
                .await;
        }
        if let Some(named) = self.named_context(name, None, true)? {
            let loaded = self.load_context(&named).await?;
            let used = self.used_paths.len();
            self.used_paths.push(std::collections::HashSet::new());
            let state = self.context_state(&loaded, used);
            let source = self.graph.definition(&state, Some(&self.platform))?;
            let label = format!("[internal] resolve {NAME} named context {name}");
            return self.ask_epoch(&source, &label).await;
        }
        let stage = file
            .stages
            .iter()
            .find(|stage| stage.name.eq_ignore_ascii_case(name));
        let stage = stage.ok_or_else(|| Error::new(InstructionError::Epoch(name.to_owned())))?;
        let state = self
            .source_of(stage)
            .map_err(|error| error.located(stage.lines))?;
        let source = self.graph.definition(&state, Some(&self.platform))?;
        let label = format!("[internal] resolve {NAME} source stage {}", stage.name);
        self.ask_epoch(&source, &label).await
    }

    async fn ask_epoch(&self, source: &Definition, label: &str) -> Result<Option<i64>, Error> {
        let answer = self.resolver.inner().source_epoch(source, label).await;
        answer.map_err(|error| Error::new(ErrorKind::Failed(error)))
    }

    /// The one source of a stage that holds nothing else.
    fn source_of(&mut self, stage: &Stage) -> Result<State, Error> {
        let one = || context::failed(format!("{NAME} stage must contain exactly one remote ADD"));
        let mut vars = self.global_args.clone();
        vars.remove(NAME);
        if self.shell.expand(&stage.base, &vars)?.text != super::stages::SCRATCH {
            return Err(context::failed(format!(
                "{NAME} stage must use FROM scratch"
            )));
        }
        let mut source = None;
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::Arg(args) => self.stage_args(args, &mut vars)?,
                InstructionKind::Add(add) if source.is_none() => {
                    source = Some(self.added(add, &vars)?);
                }
                InstructionKind::Add(_) => return Err(one()),
                _ => {
                    let name = &instruction.name;
                    return Err(context::failed(format!(
                        "{NAME} stage does not meet source-only requirements: unsupported {name} instruction"
                    )));
                }
            }
        }
        source.ok_or_else(one)
    }

    fn stage_args(&self, declared: &[ArgDef], vars: &mut Vars) -> Result<(), Error> {
        for arg in declared {
            let value = match (self.build_args.get(&arg.key), &arg.value) {
                (Some(given), _) => given.clone(),
                (None, Some(default)) => self.shell.expand(default, vars)?.text,
                (None, None) => continue,
            };
            vars.set(&arg.key, &value);
        }
        Ok(())
    }

    fn added(&mut self, add: &Add, vars: &Vars) -> Result<State, Error> {
        let ([path], []) = (&add.files.paths[..], &add.files.contents[..]) else {
            let text = format!("{NAME} stage must contain exactly one remote ADD source");
            return Err(context::failed(text));
        };
        let path = self.shell.expand(path, vars)?.text;
        let checksum = self.shell.expand(&add.checksum, vars)?.text;
        if let Some(git) = git::parse(&path)?.filter(|git| !git.maybe_path) {
            let source = Git {
                keep_git_dir: add.keep_git_dir == Some(true) || git.keep_git_dir == Some(true),
                checksum: if checksum.is_empty() {
                    git.checksum
                } else {
                    checksum
                },
                remote: git.remote,
                reference: git.reference,
                subdir: git.subdir,
                skip_submodules: git.submodules == Some(false),
                advice: self.options.git_advice,
                ..Git::default()
            };
            return Ok(self.graph.git(source, VertexOptions::default()));
        }
        if !(path.starts_with("http://") || path.starts_with("https://")) {
            let text = format!("{NAME} stage source must be a single HTTP(S) or Git ADD");
            return Err(context::failed(text));
        }
        let checksum = (!checksum.is_empty())
            .then(|| checked(&checksum))
            .transpose()?;
        let filename = file_name(&path);
        let http = Http {
            url: path,
            filename,
            checksum,
            ..Http::default()
        };
        Ok(self.graph.http(http, VertexOptions::default()))
    }
}
