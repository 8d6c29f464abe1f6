//! Instructions that change the image's configuration and little else: ENV, LABEL, ARG, USER, WORKDIR, CMD, and so on.
//! History texts are those that Docker's tools show.

use super::dispatch::Step;
use super::outline::ArgInfo;
use super::stages::Declared;
use super::{Lowering, checks, names, paths};
use crate::error::{Error, InstructionError, SyntaxError};
use crate::image::{Healthcheck, Image, Nothing};
use crate::lint::Rule;
use crate::syntax::{ArgDef, CommandLine, HealthConfig, KeyValue, go_bool};
use shipway_llb::VertexOptions;
use shipway_llb::build::{FileActions, MkDir, Owner};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Key of a vertex's description that holds the instruction's text.
pub(super) const COMMAND: &str = "com.docker.dockerfile.v1.command";
/// Arguments that choose what scanners look at; they never reach the environment.
const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

/// True for arguments that are no variables.
pub(super) fn is_scan_option(name: &str) -> bool {
    name == SCAN_CONTEXT || name == SCAN_STAGE
}

impl Lowering<'_> {
    fn commit(&mut self, stage: usize, text: String) {
        let epoch = self.epoch;
        self.stages[stage].image.commit(text, false, epoch);
    }

    /// Directory, user and network of the base, without history.
    pub(super) fn restore_settings(&mut self, stage: usize) -> Result<(), Error> {
        let config = &self.stages[stage].image.config;
        let (dir, user) = (config.working_dir.clone(), config.user.clone());
        if !dir.is_empty() {
            self.change_dir(stage, &dir)?;
        }
        if !user.is_empty() {
            self.user(stage, &user, false);
        }
        let state = &mut self.stages[stage].state;
        *state = state.clone().network(self.options.network);
        Ok(())
    }

    pub(super) fn maintainer(&mut self, stage: usize, name: &str) {
        name.clone_into(&mut self.stages[stage].image.author);
        self.commit(stage, format!("MAINTAINER {name}"));
    }

    pub(super) fn env(&mut self, step: &Step<'_>, pairs: &[KeyValue]) {
        let mut text = String::from("ENV");
        for pair in pairs {
            legacy_format(step, pair);
            checks::secret_name(step, "ENV", &pair.key);
            add_pair(&mut text, pair);
            let stage = &mut self.stages[step.stage];
            stage.env_settled &= !stage.state.vars().contains(&pair.key);
            stage.state = std::mem::take(&mut stage.state).env(&pair.key, &pair.value);
            stage.image.config.env.set(&pair.key, &pair.value);
        }
        self.commit(step.stage, text);
    }

    pub(super) fn label(&mut self, step: &Step<'_>, pairs: &[KeyValue]) {
        let mut text = String::from("LABEL");
        for pair in pairs {
            legacy_format(step, pair);
            add_pair(&mut text, pair);
            let labels = &mut self.stages[step.stage].image.config.labels;
            labels.insert(pair.key.clone(), pair.value.clone());
        }
        self.commit(step.stage, text);
    }

    /// Declares arguments, left to right: a default may use those before it.
    pub(super) fn arg(&mut self, step: &Step<'_>, args: &[ArgDef]) -> Result<(), Error> {
        let mut texts = Vec::with_capacity(args.len());
        for arg in args {
            checks::secret_name(step, "ARG", &arg.key);
            let given = self.build_args.get(&arg.key).cloned();
            let global = self.global_args.get(&arg.key).cloned();
            let inherits = given.is_none() && arg.value.is_none() && global.is_some();
            let value = match (given, &arg.value) {
                (Some(value), _) => Some(value),
                (None, Some(default)) => Some(self.expand(step, default)?),
                (None, None) => global,
            };
            texts.push(match &value {
                Some(value) => format!("{}={value}", arg.key),
                None => arg.key.clone(),
            });
            self.declare(step, arg, value, !inherits);
        }
        self.commit(step.stage, format!("ARG {}", texts.join(" ")));
        Ok(())
    }

    fn declare(&mut self, step: &Step<'_>, arg: &ArgDef, value: Option<String>, own: bool) {
        let stage = &mut self.stages[step.stage];
        if let Some(value) = &value
            && !is_scan_option(&arg.key)
        {
            stage.env_settled = false;
            stage.state = std::mem::take(&mut stage.state).env(&arg.key, value);
        }
        if own {
            let info = ArgInfo {
                name: arg.key.clone(),
                value: value.clone().unwrap_or_default(),
                doc: arg.doc.clone(),
                lines: step.instruction.lines,
                deps: BTreeSet::new(),
            };
            stage.outline.args.insert(arg.key.clone(), info);
        }
        stage.outline.used.insert(arg.key.clone());
        let before = stage.build_args.get(&arg.key);
        let before = before.and_then(|declared| declared.value.clone());
        let declared = Declared {
            latest: value.clone(),
            value: value.or(before),
        };
        stage.build_args.insert(arg.key.clone(), declared);
    }

    /// Whether scanners shall look at the context or at this stage.
    pub(super) fn note_scans(&mut self, stage: usize) {
        let wanted = |name: &str| {
            let state = &self.stages[stage];
            let global = self.global_args.get(name).map(String::as_str);
            let own = state.build_args.get(name);
            let value = own.and_then(|arg| arg.value.as_deref()).or(global)?;
            let chosen = || value.split(',').any(|chosen| chosen == state.name);
            Some(go_bool(value).unwrap_or_else(chosen))
        };
        let (context, scan) = (wanted(SCAN_CONTEXT), wanted(SCAN_STAGE));
        let state = &mut self.stages[stage];
        state.scan_context = context.unwrap_or_default();
        state.scan = scan.unwrap_or_default();
    }

    pub(super) fn user(&mut self, stage: usize, user: &str, commit: bool) {
        let state = &mut self.stages[stage];
        state.state = std::mem::take(&mut state.state).user(user);
        user.clone_into(&mut state.image.config.user);
        if commit {
            self.commit(stage, format!("USER {user}"));
        }
    }

    /// Sets the directory and returns it with forward slashes.
    fn change_dir(&mut self, stage: usize, dir: &str) -> Result<String, Error> {
        let state = &mut self.stages[stage];
        let os = state
            .platform
            .as_ref()
            .map_or("linux", |platform| platform.os.as_str());
        let dir = paths::normalize(&state.image.config.working_dir, dir, os, false)?;
        state.image.config.working_dir = if os == "windows" {
            dir.replace('/', "\\")
        } else {
            dir.clone()
        };
        state.state = std::mem::take(&mut state.state).dir(&dir);
        Ok(dir)
    }

    pub(super) fn workdir(&mut self, step: &Step<'_>, dir: &str) -> Result<(), Error> {
        let stage = step.stage;
        let state = &mut self.stages[stage];
        let os = state
            .platform
            .as_ref()
            .map_or("linux", |platform| platform.os.as_str());
        if !state.workdir_set && !paths::is_absolute(dir, os) {
            let text = format!(
                "Relative workdir {dir:?} can have unexpected results if the base image changes"
            );
            step.lint
                .warn(&Rule::WorkdirRelativePath, step.instruction.lines, text);
        }
        state.workdir_set = true;
        let dir = self.change_dir(stage, dir)?;
        // The root always exists, and a layer for nothing would only cost.
        let layer = dir != "/";
        if layer {
            self.make_dir(step, &dir);
        }
        let epoch = self.epoch;
        self.stages[stage]
            .image
            .commit(format!("WORKDIR {dir}"), layer, epoch);
        Ok(())
    }

    fn make_dir(&mut self, step: &Step<'_>, dir: &str) {
        let stage = step.stage;
        let vars = self.stages[stage].state.shared_vars();
        let platform = self.shown_platform(stage);
        let text = names::shown(self.shell, &step.instruction.code, &*vars);
        let name = self.next_step(stage, &text, platform.as_ref(), &*vars);
        let user = &self.stages[stage].image.config.user;
        let make = MkDir {
            path: dir.to_owned(),
            mode: 0o755,
            parents: true,
            owner: (!user.is_empty()).then(|| Owner::parse(user)),
            created: self
                .epoch
                .map(|seconds| seconds.saturating_mul(1_000_000_000)),
        };
        let options = VertexOptions::named(name).at(self.file, step.instruction.lines.ranges());
        let state = self.stages[stage].state.clone();
        let made = self
            .graph
            .file(&state, FileActions::new().mkdir(make), options);
        self.stages[stage].state = made;
    }

    pub(super) fn cmd(&mut self, step: &Step<'_>, command: &CommandLine) {
        let last = self.stages[step.stage]
            .last_cmd
            .replace(step.instruction.lines);
        checks::used_once(step, last);
        let args = self.command_words(step, command);
        let config = &mut self.stages[step.stage].image.config;
        config.cmd.clone_from(&args);
        config.args_escaped = true;
        self.commit(step.stage, format!("CMD {}", go_list(&args)));
    }

    pub(super) fn entrypoint(&mut self, step: &Step<'_>, command: &CommandLine) {
        let last = self.stages[step.stage]
            .last_entrypoint
            .replace(step.instruction.lines);
        checks::used_once(step, last);
        let args = self.command_words(step, command);
        let stage = &mut self.stages[step.stage];
        stage.image.config.entrypoint.clone_from(&args);
        // The base's command is for the base's entrypoint.
        if stage.last_cmd.is_none() {
            stage.image.config.cmd.clear();
        }
        self.commit(step.stage, format!("ENTRYPOINT {}", go_list(&args)));
    }

    fn command_words(&self, step: &Step<'_>, command: &CommandLine) -> Vec<String> {
        let image = &self.stages[step.stage].image;
        if !command.shell {
            return command.args.clone();
        }
        if image.config.shell.is_empty() {
            let text = format!(
                "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                step.instruction.name
            );
            step.lint
                .warn(&Rule::JsonArgsRecommended, step.instruction.lines, text);
        }
        with_shell(image, &command.args)
    }

    pub(super) fn healthcheck(&mut self, step: &Step<'_>, health: &HealthConfig) {
        let last = self.stages[step.stage]
            .last_healthcheck
            .replace(step.instruction.lines);
        checks::used_once(step, last);
        let text = format!(
            "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            health.test.join(" "),
            go_duration(health.interval),
            go_duration(health.timeout),
            go_duration(health.start_period),
            go_duration(health.start_interval),
            health.retries
        );
        self.stages[step.stage].image.config.healthcheck = Some(Healthcheck {
            test: health.test.clone(),
            interval: health.interval,
            timeout: health.timeout,
            start_period: health.start_period,
            start_interval: health.start_interval,
            retries: health.retries,
        });
        self.commit(step.stage, text);
    }

    pub(super) fn volume(&mut self, stage: usize, paths: &[String]) -> Result<(), Error> {
        if paths.iter().any(String::is_empty) {
            return Err(SyntaxError::EmptyVolume.into());
        }
        let volumes = &mut self.stages[stage].image.config.volumes;
        volumes.extend(paths.iter().map(|path| (path.clone(), Nothing {})));
        self.commit(stage, format!("VOLUME [{}]", paths.join(" ")));
        Ok(())
    }

    pub(super) fn stop_signal(&mut self, stage: usize, signal: &str) -> Result<(), Error> {
        if !is_signal(signal) {
            return Err(InstructionError::Signal(signal.to_owned()).into());
        }
        signal.clone_into(&mut self.stages[stage].image.config.stop_signal);
        self.commit(stage, format!("STOPSIGNAL {signal}"));
        Ok(())
    }

    pub(super) fn shell_command(&mut self, stage: usize, words: &[String]) {
        self.stages[stage].image.config.shell = words.to_vec();
        self.commit(stage, format!("SHELL [{}]", words.join(" ")));
    }
}

fn add_pair(text: &mut String, pair: &KeyValue) {
    for part in [" ", &pair.key, "=", &pair.value] {
        text.push_str(part);
    }
}

fn legacy_format(step: &Step<'_>, pair: &KeyValue) {
    if pair.legacy {
        let name = &step.instruction.name;
        let text = format!(
            "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
        );
        step.lint
            .warn(&Rule::LegacyKeyValueFormat, step.instruction.lines, text);
    }
}

/// The image's shell in front of a command.
pub(super) fn with_shell(image: &Image, args: &[String]) -> Vec<String> {
    let mut words = match (&image.config.shell[..], image.os.as_str()) {
        ([], "windows") => vec!["cmd".into(), "/S".into(), "/C".into()],
        ([], _) => vec!["/bin/sh".into(), "-c".into()],
        (shell, _) => shell.to_vec(),
    };
    words.push(args.join(" "));
    words
}

/// `["a" "b"]`, quoted as Go does.
fn go_list(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| go_quote(word)).collect();
    format!("[{}]", quoted.join(" "))
}

pub(super) fn go_quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for ch in text.chars() {
        match ch {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            ch if ch < ' ' || ch == '\u{7f}' => {
                write!(quoted, "\\x{:02x}", u32::from(ch)).ok();
            }
            ch if ch.is_control() || (ch.is_whitespace() && ch != ' ') => {
                write!(quoted, "\\u{:04x}", u32::from(ch)).ok();
            }
            ch => quoted.push(ch),
        }
    }
    quoted.push('"');
    quoted
}

/// `1h0m5s`, `1.5s`, `20ms`: as Go shows durations.
fn go_duration(nanoseconds: i64) -> String {
    let total = nanoseconds.unsigned_abs();
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let (unit, name) = match total {
        0 => return "0s".into(),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let (whole, part) = (total / unit, total % unit);
    let digits = unit.to_string().len() - 1;
    let part = format!("{part:0digits$}");
    let part = part.trim_end_matches('0');
    let dot = if part.is_empty() { "" } else { "." };
    if name != "s" || whole < 60 {
        return format!("{sign}{whole}{dot}{part}{name}");
    }
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    let hours = if hours > 0 {
        format!("{hours}h")
    } else {
        String::new()
    };
    format!("{sign}{hours}{minutes}m{seconds}{dot}{part}s")
}

/// A number other than 0, or a name with or without `SIG`.
fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 36] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
        "RTMIN", "RTMAX",
    ];
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |rest: &str, max: u32| rest.parse().is_ok_and(|n: u32| (1..=max).contains(&n));
    NAMES.contains(&name)
        || name
            .strip_prefix("RTMIN+")
            .is_some_and(|rest| offset(rest, 15))
        || name
            .strip_prefix("RTMAX-")
            .is_some_and(|rest| offset(rest, 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_as_in_go() {
        let cases = [
            (0, "0s"),
            (1_500_000, "1.5ms"),
            (5_000_000_000, "5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (61_500_000_000, "1m1.5s"),
            (1_000, "1\u{b5}s"),
        ];
        for (nanoseconds, want) in cases {
            assert_eq!(go_duration(nanoseconds), want);
        }
    }

    #[test]
    fn words_are_quoted_as_in_go() {
        let words = ["a b", "\"\\", "\n\t\u{1}\u{e9}\u{a0}'"].map(str::to_owned);
        assert_eq!(go_list(&words), r#"["a b" "\"\\" "\n\t\x01é\u00a0'"]"#);
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for signal in ["9", "SIGTERM", "term", "RTMIN+3", "SIGRTMAX-14"] {
            assert!(is_signal(signal), "{signal}");
        }
        for signal in ["0", "SIGNOPE", "RTMIN+16", ""] {
            assert!(!is_signal(signal), "{signal}");
        }
    }
}
