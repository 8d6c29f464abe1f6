//! RUN: the command with its heredocs and shell, and everything that surrounds the process.

use super::dispatch::Step;
use super::stages::Declared;
use super::{Lowering, meta, names};
use crate::error::{Error, InstructionError};
use crate::shell::{Env, Quotes, Unset};
use crate::syntax::{CommandLine, Run, RunNetwork, chomp};
use indexmap::IndexMap;
use shipway_llb::VertexOptions;
use shipway_llb::build::{self, BindMount, FileActions, MkFile, RunMount, State, Vars};
use shipway_model::op::{CdiDevice, NetMode, SecurityMode};

/// Where scripts of heredocs are mounted.
const SCRIPTS: &str = "/dev/pipes/";

/// A command with its heredocs resolved.
struct Command {
    args: Vec<String>,
    /// What is added to its name.
    label: String,
    /// A file that it needs at [`SCRIPTS`].
    script: Option<(String, String)>,
}

/// The environment as names show it: secrets masked.
struct Masked<'a> {
    vars: &'a Vars,
    secrets: Vec<String>,
}

impl Env for Masked<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        if self.secrets.iter().any(|secret| secret == name) {
            return Some("****");
        }
        Env::get(self.vars, name)
    }

    fn names(&self) -> Vec<&str> {
        let open = self.vars.names();
        let open = open.filter(|name| !self.secrets.iter().any(|secret| secret == name));
        open.chain(self.secrets.iter().map(String::as_str))
            .collect()
    }
}

impl Lowering<'_> {
    pub(super) fn run_command(&mut self, step: &Step<'_>, run: &Run) -> Result<(), Error> {
        let stage = step.stage;
        let mounts = self.mounts(step, run)?;
        // A process can read anything.
        let used = self.stages[stage].used;
        self.used_paths[used].insert("/".into());
        let mut command = resolve(&run.command, &self.stages[stage].image.os)?;
        if run.command.shell {
            command.args = meta::with_shell(&self.stages[stage].image, &command.args);
        }
        let vars = self.stages[stage].state.shared_vars();
        let mut process = build::Run::new(command.args.iter().cloned());
        if let Some((name, script)) = &command.script {
            let mount = self.script(name, script);
            process = process.mount(SCRIPTS, mount);
        }
        mounts.add_to(&mut process);
        self.surroundings(run, &mut process);
        let secrets = process
            .secrets
            .iter()
            .filter_map(|secret| secret.env.clone())
            .collect();
        let masked = Masked {
            vars: &vars,
            secrets,
        };
        let shell = self.shell.quotes(Quotes::Keep).unset(Unset::Keep);
        let text = format!("{}{}", step.instruction.code, command.label);
        let shown = names::shown(shell, &text, &masked);
        let platform = self.stages[stage].state.target_platform();
        let platform = platform.filter(|_| self.options.multi_platform).cloned();
        let name = self.next_step(stage, &shown, platform.as_ref(), &*vars);
        let options = self.run_options(step, name);
        let before = self.stages[stage].state.clone();
        let executed = self.graph.run(&before, process, options);
        let history = history(&command.args, &self.stages[stage].build_args, &vars);
        let epoch = self.epoch;
        let state = &mut self.stages[stage];
        state.state = executed.root().clone();
        state
            .image
            .commit(format!("RUN {history} # buildkit"), true, epoch);
        Ok(())
    }

    fn run_options(&self, step: &Step<'_>, name: String) -> VertexOptions {
        let mut options = VertexOptions::named(name)
            .describe(meta::COMMAND, step.instruction.code.clone())
            .at(self.file, step.instruction.lines.ranges());
        if self.stages[step.stage].ignore_cache {
            options = options.ignore_cache();
        }
        match &self.options.limits {
            Some(limits) => options.limits(limits.clone()),
            None => options,
        }
    }

    /// What options of the build and of the instruction say about the process.
    fn surroundings(&self, run: &Run, process: &mut build::Run) {
        process.proxy.clone_from(&self.proxy);
        process.network = match run.network {
            RunNetwork::Default => None,
            RunNetwork::None => Some(NetMode::None),
            RunNetwork::Host => Some(NetMode::Host),
        };
        process.security = Some(if run.insecure {
            SecurityMode::Insecure
        } else {
            SecurityMode::Sandbox
        });
        let device = |device: &crate::syntax::Device| CdiDevice {
            name: device.name.clone(),
            optional: !device.required,
        };
        process.devices = run.devices.iter().map(device).collect();
        process.ulimits.clone_from(&self.options.ulimits);
        process.extra_hosts.clone_from(&self.options.extra_hosts);
        if self.options.shm_size > 0 {
            let memory = RunMount::Tmpfs {
                size: self.options.shm_size,
                source: String::new(),
                readonly: false,
            };
            process.mounts.push(("/dev/shm".into(), memory));
        }
        if !self.options.cgroup_parent.is_empty() {
            process.cgroup_parent = Some(self.options.cgroup_parent.clone());
        }
    }

    fn script(&mut self, name: &str, script: &str) -> RunMount {
        let state = self.inline_file(name, script, 0o755);
        let source = "/".into();
        RunMount::Bind(BindMount {
            state,
            source,
            readonly: true,
            ..BindMount::default()
        })
    }

    /// A filesystem with one file of the Dockerfile's own.
    pub(super) fn inline_file(&mut self, name: &str, text: &str, mode: u32) -> State {
        let file = MkFile {
            path: name.to_owned(),
            mode,
            data: text.as_bytes().to_vec(),
            ..MkFile::default()
        };
        let options = super::context::internal("preparing inline document");
        self.graph
            .file(&State::scratch(), FileActions::new().mkfile(file), options)
    }
}

/// Puts heredocs in their places: a lone one is the script itself, others go to the shell with the command.
fn resolve(command: &CommandLine, os: &str) -> Result<Command, Error> {
    let plain = |args| Command {
        args,
        label: String::new(),
        script: None,
    };
    let Some(first) = command.files.first() else {
        return Ok(plain(command.args.clone()));
    };
    let [text] = &command.args[..] else {
        return Err(InstructionError::RunCommand(command.args.clone()).into());
    };
    if !crate::syntax::is_heredoc(text) {
        let mut whole = text.clone();
        for file in &command.files {
            for part in ["\n", &file.content, &file.name] {
                whole.push_str(part);
            }
        }
        return Ok(plain(vec![whole]));
    }
    let body = if first.chomp {
        chomp(&first.content)
    } else {
        first.content.clone()
    };
    let label = format!(" ({})", names::summary(&first.content));
    if os != "windows" && body.starts_with("#!") {
        let args = vec![format!("{SCRIPTS}{}", first.name)];
        return Ok(Command {
            args,
            label,
            script: Some((first.name.clone(), body)),
        });
    }
    Ok(Command {
        args: vec![body],
        label,
        script: None,
    })
}

/// The command as history shows it: arguments in order of their first declaration, with their present values.
fn history(args: &[String], declared: &IndexMap<String, Declared>, vars: &Vars) -> String {
    let mut words = Vec::with_capacity(1 + declared.len() + args.len());
    if !declared.is_empty() {
        words.push(format!("|{}", declared.len()));
    }
    words.extend(declared.iter().map(|(name, arg)| {
        let value = vars.get(name).or(arg.latest.as_ref());
        format!("{name}={}", value.map_or("", String::as_str))
    }));
    words.extend(args.iter().cloned());
    words.join(" ")
}
