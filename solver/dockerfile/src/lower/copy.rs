//! COPY and ADD: sources become actions of one vertex, or of a layer of its own that is merged (`--link`).

use super::dispatch::Step;
use super::stages::Progress;
use super::{Lowering, checks, git, mode, names, paths};
use crate::error::{Error, InstructionError, StageError};
use crate::syntax::{Add, Copy, SourcesAndDest};
use shipway_llb::VertexOptions;
use shipway_llb::build::{self, Chmod, FileActions, Owner, State, clean};
use shipway_model::Digest;

/// COPY or ADD with all variables expanded.
#[expect(
    clippy::struct_excessive_bools,
    reason = "a flag, and where files are from"
)]
pub(super) struct Transfer {
    pub(super) files: SourcesAndDest,
    pub(super) from: State,
    pub(super) chown: String,
    pub(super) chmod: String,
    pub(super) exclude: Vec<String>,
    pub(super) link: bool,
    pub(super) kind: TransferKind,
    /// Files that the context leaves out are worth a warning.
    pub(super) from_context: bool,
}

/// What only one of the two has.
pub(super) enum TransferKind {
    Copy {
        parents: bool,
    },
    Add {
        keep_git_dir: Option<bool>,
        checksum: String,
        unpack: Option<bool>,
    },
}

impl Transfer {
    pub(super) fn is_add(&self) -> bool {
        matches!(self.kind, TransferKind::Add { .. })
    }

    fn parents(&self) -> bool {
        matches!(self.kind, TransferKind::Copy { parents: true })
    }

    fn unpacks(&self) -> bool {
        matches!(
            self.kind,
            TransferKind::Add {
                unpack: None | Some(true),
                ..
            }
        )
    }

    /// What all actions of the instruction have in common.
    pub(super) fn action(&self, chmod: &Chmod, dest: &str) -> build::Copy {
        build::Copy {
            dest: dest.to_owned(),
            owner: (!self.chown.is_empty()).then(|| Owner::parse(&self.chown)),
            chmod: chmod.clone(),
            create_dest: true,
            exclude: self.exclude.clone(),
            ..build::Copy::default()
        }
    }
}

impl Lowering<'_> {
    pub(super) fn copy_command(&mut self, step: &Step<'_>, copy: &Copy) -> Result<(), Error> {
        let chown = self.expand(step, &copy.chown)?;
        let chmod = self.expand(step, &copy.chmod)?;
        let files = self.expand_files(step, &copy.files)?;
        let source = step.sources.first().copied();
        let from = match source {
            None => self.context.clone(),
            Some(source) if self.stages[source].progress == Progress::Dispatched => {
                self.stages[source].state.clone()
            }
            Some(_) => {
                let stage = self.stages[step.stage].name.clone();
                let from = copy.from.clone();
                return Err(StageError::CopyFrom { from, stage }.into());
            }
        };
        let paths = absolute_paths(&files.paths);
        let transfer = Transfer {
            files,
            from,
            chown,
            chmod,
            exclude: copy.exclude.clone(),
            link: copy.link,
            kind: TransferKind::Copy {
                parents: copy.parents,
            },
            from_context: source.is_none(),
        };
        self.transfer(step, &transfer)?;
        match source {
            None => self.stages[step.stage].context_paths.extend(paths),
            Some(source) => {
                let used = self.stages[source].used;
                self.used_paths[used].extend(paths);
            }
        }
        Ok(())
    }

    pub(super) fn add_command(&mut self, step: &Step<'_>, add: &Add) -> Result<(), Error> {
        let chown = self.expand(step, &add.chown)?;
        let chmod = self.expand(step, &add.chmod)?;
        let checksum = self.expand(step, &add.checksum)?;
        let files = self.expand_files(step, &add.files)?;
        let web = |path: &&String| path.starts_with("http://") || path.starts_with("https://");
        let local: Vec<String> = files
            .paths
            .iter()
            .filter(|path| !web(path))
            .cloned()
            .collect();
        let (keep_git_dir, unpack) = (add.keep_git_dir, add.unpack);
        let transfer = Transfer {
            files,
            from: self.context.clone(),
            chown,
            chmod,
            exclude: add.exclude.clone(),
            link: add.link,
            kind: TransferKind::Add {
                keep_git_dir,
                checksum,
                unpack,
            },
            from_context: true,
        };
        self.transfer(step, &transfer)?;
        self.stages[step.stage]
            .context_paths
            .extend(absolute_paths(&local));
        Ok(())
    }

    fn transfer(&mut self, step: &Step<'_>, transfer: &Transfer) -> Result<(), Error> {
        let stage = step.stage;
        let platform = self.shown_platform(stage);
        let os = self.stages[stage].platform.as_ref();
        let os = os.map_or("linux", |platform| &platform.os).to_owned();
        let dest = destination(&self.stages[stage].state, &transfer.files.dest, &os)?;
        let chmod = mode::parse(&transfer.chmod)?;
        check_checksum(transfer)?;
        let vars = self.stages[stage].state.shared_vars();
        let shown = names::shown(self.shell, &step.instruction.code, &*vars);
        let name = self.next_step(stage, &shown, platform.as_ref(), &*vars);
        let mut actions = FileActions::new();
        for path in &transfer.files.paths {
            let action = transfer.action(&chmod, &dest);
            if let Some(remote) = self.remote_source(path, transfer, &name)? {
                actions = actions.copy(&remote.state, remote.action(action));
                continue;
            }
            checks::ignored_source(self, step, transfer, path);
            actions = actions.copy(&transfer.from, local_action(action, transfer, path, &os)?);
        }
        for heredoc in &transfer.files.contents {
            let file = paths::without_drive(&heredoc.name, os == "windows", false)?;
            let state = self.inline_file(&file, &heredoc.content, 0o644);
            let action = build::Copy {
                src: file.into_owned(),
                ..transfer.action(&chmod, &dest)
            };
            actions = actions.copy(&state, action);
        }
        self.place(step, transfer, actions, (&name, &shown));
        let epoch = self.epoch;
        let history = history(transfer);
        self.stages[stage].image.commit(history, true, epoch);
        Ok(())
    }

    /// Applies the actions to the stage, or merges them onto it. `names` are those of the step and of its text.
    fn place(
        &mut self,
        step: &Step<'_>,
        transfer: &Transfer,
        actions: FileActions,
        (name, shown): (&str, &str),
    ) {
        let stage = step.stage;
        let mut options = VertexOptions::named(name).at(self.file, step.instruction.lines.ranges());
        if self.stages[stage].ignore_cache {
            options = options.ignore_cache();
        }
        let before = self.stages[stage].state.clone();
        // Modes are of no use on a layer that another one may cover, so they are set in place.
        if !transfer.link || !transfer.chmod.is_empty() {
            self.stages[stage].state = self.graph.file(&before, actions, options);
            return;
        }
        let platform = self.shown_platform(stage);
        let vars = self.stages[stage].state.shared_vars();
        let linked = self.this_step(stage, &["LINK ", shown].concat(), platform.as_ref(), &*vars);
        let (lines, number) = (step.instruction.lines, self.stages[stage].step);
        let place = format!("{}-{} {stage} {number} {name}", lines.first, lines.last);
        let mut group = Digest::of(place).hex();
        group.truncate(25);
        let layer = options.clone().group(&group, name, true);
        let layer = self.graph.file(&State::scratch(), actions, layer);
        let merge = options.group(&group, name, false).name(linked);
        // Nothing may be all there was: the settings stay in any case.
        let merged = self.graph.merge(&[before.clone(), layer], merge);
        self.stages[stage].state = before.with_output(merged.output());
    }
}

fn absolute_paths(paths: &[String]) -> Vec<String> {
    paths
        .iter()
        .map(|path| clean(&["/", path].concat()))
        .collect()
}

/// Relative destinations start at the working directory; a trailing slash is kept.
fn destination(state: &State, dest: &str, os: &str) -> Result<String, Error> {
    let windows = os == "windows";
    let dest = paths::slashed(dest, windows);
    let dest = paths::without_drive(&dest, windows, true)?;
    let dest = if dest.is_empty() || dest == "." {
        "./"
    } else {
        &dest
    };
    let parent = if dest.starts_with('/') {
        "/"
    } else {
        state.directory()
    };
    Ok(paths::normalize(parent, dest, os, true)?)
}

fn check_checksum(transfer: &Transfer) -> Result<(), Error> {
    let TransferKind::Add { checksum, .. } = &transfer.kind else {
        return Ok(());
    };
    if checksum.is_empty() {
        return Ok(());
    }
    let [source] = &transfer.files.paths[..] else {
        return Err(InstructionError::ChecksumSources.into());
    };
    let web = source.starts_with("http://") || source.starts_with("https://");
    let git = matches!(git::parse(source), Ok(Some(_)));
    if web || git {
        Ok(())
    } else {
        Err(InstructionError::ChecksumKind.into())
    }
}

/// The action for a path of the context, a stage or an image.
fn local_action(
    action: build::Copy,
    transfer: &Transfer,
    path: &str,
    os: &str,
) -> Result<build::Copy, Error> {
    let mut src = path.to_owned();
    let (mut include, mut required) = (Vec::new(), Vec::new());
    if transfer.parents() {
        // Directories behind the pivot `/./` are kept; without a pivot, all of them.
        let (root, pattern) = path.split_once("/./").unwrap_or(("/", path));
        let pattern = paths::normalize("/", pattern, os, false)?;
        root.clone_into(&mut src);
        include.push(pattern.trim_start_matches('/').to_owned());
        if !has_wildcard(root) && !has_wildcard(&pattern) {
            required.push(clean(&format!("/{root}/{pattern}")));
        }
    }
    Ok(build::Copy {
        src: paths::normalize("/", &src, os, false)?,
        follow_symlinks: true,
        contents_only: true,
        unpack: transfer.unpacks(),
        wildcard: true,
        allow_empty_wildcard: true,
        include,
        required,
        ..action
    })
}

fn has_wildcard(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(ch) = chars.next() {
        match ch {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

/// History leaves out what is not about the result: `--link`, `--exclude`, `--from`.
fn history(transfer: &Transfer) -> String {
    let mut text = String::from(if transfer.is_add() { "ADD" } else { "COPY" });
    if transfer.parents() {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", &transfer.chown), ("chmod", &transfer.chmod)] {
        if !value.is_empty() {
            text = format!("{text} --{flag}={value}");
        }
    }
    for path in &transfer.files.paths {
        text.push(' ');
        text.push_str(path);
    }
    for heredoc in &transfer.files.contents {
        text.push_str(" <<");
        text.push_str(&heredoc.name);
    }
    for part in [" ", &transfer.files.dest, " # buildkit"] {
        text.push_str(part);
    }
    text
}
