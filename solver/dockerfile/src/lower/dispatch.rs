//! Applies a stage's instructions in order: variables are expanded first, with the environment as it was before.

use super::stages::Progress;
use super::{Lowering, Scope, checks};
use crate::error::Error;
use crate::lint::Linter;
use crate::shell::{Quotes, Shell};
use crate::syntax::{Instruction, InstructionKind, KeyValue, SourcesAndDest};
use shipway_llb::build::Vars;
use std::collections::BTreeSet;

/// One instruction at work.
pub(super) struct Step<'s> {
    pub(super) stage: usize,
    pub(super) instruction: &'s Instruction,
    pub(super) sources: &'s [usize],
    pub(super) lint: Linter,
}

impl Lowering<'_> {
    /// Applies all instructions of all stages that matter.
    pub(super) fn dispatch_stages(
        &mut self,
        reachable: &BTreeSet<usize>,
        target: usize,
        scope: Scope,
    ) -> Result<(), Error> {
        let wanted = |stage: &usize| {
            let done = self.stages[*stage].progress == Progress::Dispatched;
            scope == Scope::All || (!done && reachable.contains(stage))
        };
        let order: Vec<usize> = (0..self.stages.len()).filter(wanted).collect();
        let mut heirs = vec![0_usize; self.stages.len()];
        for base in order.iter().filter_map(|&stage| self.stages[stage].base) {
            heirs[base] += 1;
        }
        for stage in order {
            let last = self.stages[stage].base.is_some_and(|base| {
                heirs[base] -= 1;
                heirs[base] == 0 && base != target
            });
            self.inherit(stage, last);
            self.dispatch_stage(stage)?;
        }
        // All of the target's files are the result.
        let used = self.stages[target].used;
        self.used_paths[used].insert("/".into());
        Ok(())
    }

    fn dispatch_stage(&mut self, stage: usize) -> Result<(), Error> {
        self.stages[stage].progress = Progress::Dispatched;
        let lines = self.stages[stage].lines;
        self.start_stage(stage);
        self.restore_settings(stage)
            .map_err(|error| error.located(lines))?;
        let commands = std::mem::take(&mut self.stages[stage].commands);
        for command in &commands {
            self.stages[stage].trigger = command.on_build;
            let step = Step {
                stage,
                instruction: &command.instruction,
                sources: &command.sources,
                lint: self.lint.for_comments(&command.instruction.comments),
            };
            let lines = command.instruction.lines;
            self.dispatch(&step).map_err(|error| error.located(lines))?;
        }
        self.stages[stage].commands = commands;
        self.note_scans(stage);
        Ok(())
    }

    #[expect(
        clippy::too_many_lines,
        reason = "a table with a row for each instruction"
    )]
    fn dispatch(&mut self, step: &Step<'_>) -> Result<(), Error> {
        use InstructionKind as Kind;
        match &step.instruction.kind {
            Kind::Maintainer(name) => {
                self.maintainer(step.stage, name);
                Ok(())
            }
            Kind::Env(pairs) => {
                let pairs = self.expand_pairs(step, pairs)?;
                self.env(step, &pairs);
                Ok(())
            }
            Kind::Label(pairs) => {
                let pairs = self.expand_pairs(step, pairs)?;
                self.label(step, &pairs);
                Ok(())
            }
            Kind::Arg(args) => self.arg(step, args),
            Kind::User(user) => {
                let user = self.expand(step, user)?;
                self.user(step.stage, &user, true);
                Ok(())
            }
            Kind::Workdir(dir) => {
                let dir = self.expand(step, dir)?;
                self.workdir(step, &dir)
            }
            Kind::Cmd(command) => {
                self.cmd(step, command);
                Ok(())
            }
            Kind::Entrypoint(command) => {
                self.entrypoint(step, command);
                Ok(())
            }
            Kind::Healthcheck(health) => {
                self.healthcheck(step, health);
                Ok(())
            }
            Kind::OnBuild(trigger) => {
                self.stages[step.stage]
                    .image
                    .config
                    .on_build
                    .push(trigger.clone());
                Ok(())
            }
            Kind::Volume(paths) => {
                let paths = self.expand_all(step, paths)?;
                self.volume(step.stage, &paths)
            }
            Kind::StopSignal(signal) => {
                let signal = self.expand(step, signal)?;
                self.stop_signal(step.stage, &signal)
            }
            Kind::Shell(words) => {
                self.shell_command(step.stage, words);
                Ok(())
            }
            Kind::Expose(ports) => self.expose(step, ports),
            Kind::Run(run) => self.run_command(step, run),
            Kind::Copy(copy) => self.copy_command(step, copy),
            Kind::Add(add) => self.add_command(step, add),
        }
    }

    /// The variables that an instruction of this stage sees.
    pub(super) fn vars(&self, stage: usize) -> &Vars {
        self.stages[stage].state.vars()
    }

    /// Expands one word; variables that are not set are reported.
    pub(super) fn expand(&self, step: &Step<'_>, word: &str) -> Result<String, Error> {
        self.expand_with(step, word, self.shell)
    }

    fn expand_with(&self, step: &Step<'_>, word: &str, shell: Shell) -> Result<String, Error> {
        let (expanded, unmatched) = shell.expand_noting(word, self.vars(step.stage));
        checks::undefined_variables(self, step, &unmatched);
        Ok(expanded?.text)
    }

    pub(super) fn expand_all(
        &self,
        step: &Step<'_>,
        words: &[String],
    ) -> Result<Vec<String>, Error> {
        words.iter().map(|word| self.expand(step, word)).collect()
    }

    fn expand_pairs(&self, step: &Step<'_>, pairs: &[KeyValue]) -> Result<Vec<KeyValue>, Error> {
        let expand = |pair: &KeyValue| {
            Ok(KeyValue {
                key: self.expand(step, &pair.key)?,
                value: self.expand(step, &pair.value)?,
                legacy: pair.legacy,
            })
        };
        pairs.iter().map(expand).collect()
    }

    /// Expands paths, and bodies of heredocs whose delimiter is not quoted. In bodies quotes mean nothing, and the escape
    /// is always a backslash.
    pub(super) fn expand_files(
        &self,
        step: &Step<'_>,
        files: &SourcesAndDest,
    ) -> Result<SourcesAndDest, Error> {
        let body = Shell::new('\\').quotes(Quotes::Ignore);
        let mut expanded = SourcesAndDest {
            paths: self.expand_all(step, &files.paths)?,
            dest: self.expand(step, &files.dest)?,
            contents: files.contents.clone(),
        };
        for heredoc in expanded
            .contents
            .iter_mut()
            .filter(|heredoc| heredoc.expand)
        {
            heredoc.content = self.expand_with(step, &heredoc.content, body)?;
        }
        Ok(expanded)
    }
}
