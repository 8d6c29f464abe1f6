//! Build checks that need stages, variables or images. Texts are those that clients and suites compare.

use super::copy::Transfer;
use super::dispatch::Step;
use super::{Lowering, meta};
use crate::image::Image;
use crate::lint::{Linter, Rule};
use crate::platform::{self, format_all};
use crate::shell::{Expanded, Shell};
use crate::span::Lines;
use crate::suggest::{Case, nearest};
use crate::syntax::Dockerfile;
use shipway_llb::build::{Vars, clean};
use shipway_model::{ImageRef, Platform};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

fn did_you_mean(text: String, sign: &str, meant: Option<String>) -> String {
    match meant {
        Some(meant) => format!("{text} (did you mean {sign}{meant}?)"),
        None => text,
    }
}

/// Findings of one file that come with a suggestion: each costs a look at every name there is.
const SUGGESTIONS: u32 = 100;

impl Lowering<'_> {
    /// What an unknown name may have been meant to be.
    fn meant<'n>(&self, name: &str, known: impl Iterator<Item = &'n str>) -> Option<String> {
        let before = self.suggestions.fetch_add(1, Ordering::Relaxed);
        (before < SUGGESTIONS)
            .then(|| nearest(name, known, Case::Exact))
            .flatten()
    }
}

/// Stages should have names of their own.
pub(super) fn stage_names(file: &Dockerfile, lint: &Linter) {
    let mut seen = BTreeSet::new();
    for stage in file.stages.iter().filter(|stage| !stage.name.is_empty()) {
        let name = &stage.name;
        if matches!(name.as_str(), "context" | "scratch") {
            let text = format!(
                "Stage name should not use the same name as reserved stage {}",
                meta::go_quote(name)
            );
            lint.warn(&Rule::ReservedStageName, stage.lines, text);
        }
        if !seen.insert(name) {
            let name = meta::go_quote(name);
            let text = format!("Duplicate stage name {name}, stage names should be unique");
            lint.warn(&Rule::DuplicateStageName, stage.lines, text);
        }
    }
}

/// Instructions should all be written alike.
pub(super) fn casing(file: &Dockerfile, lint: &Linter) {
    let words = || {
        file.stages.iter().flat_map(|stage| {
            let from = (stage.from.as_str(), stage.lines);
            let rest = stage.instructions.iter();
            std::iter::once(from).chain(rest.map(|i| (i.name.as_str(), i.lines)))
        })
    };
    // Names of instructions are ASCII.
    let is_lower = |name: &str| !name.contains(|c: char| c.is_ascii_uppercase());
    let is_upper = |name: &str| !name.contains(|c: char| c.is_ascii_lowercase());
    let lower = words().filter(|(name, _)| is_lower(name)).count();
    let upper = words().filter(|(name, _)| is_upper(name)).count();
    let mostly_lower = lower > upper;
    for (name, lines) in words() {
        let (fits, case) = if mostly_lower {
            (is_lower(name), "lowercase")
        } else {
            (is_upper(name), "uppercase")
        };
        if !fits {
            let text =
                format!("Command '{name}' should match the case of the command majority ({case})");
            lint.warn(&Rule::ConsistentInstructionCasing, lines, text);
        }
    }
}

/// Base names should make sense even if no argument is given.
pub(super) fn default_bases(file: &Dockerfile, shell: Shell, defaults: &Vars, lint: &Linter) {
    for stage in &file.stages {
        let Ok(base) = shell.expand(&stage.base, defaults) else {
            return;
        };
        if base.text.parse::<ImageRef>().is_err() {
            let name = &stage.base;
            let text =
                format!("Default value for ARG {name} results in empty or invalid base image name");
            lint.warn(&Rule::InvalidDefaultArgInFrom, stage.lines, text);
        }
    }
}

/// FROM may only use declared arguments.
pub(super) fn from_args(
    lowering: &Lowering<'_>,
    unmatched: &BTreeSet<String>,
    lines: Lines,
    lint: &Linter,
) {
    if unmatched.is_empty() {
        return;
    }
    let declared = lowering.outline.args.keys().map(String::as_str);
    let declared: BTreeSet<&str> = declared.chain(lowering.global_args.names()).collect();
    for name in unmatched
        .iter()
        .filter(|name| !declared.contains(name.as_str()))
    {
        let meant = lowering.meant(name, declared.iter().copied());
        let text = format!("FROM argument '{name}' is not declared");
        lint.warn(
            &Rule::UndefinedArgInFrom,
            lines,
            did_you_mean(text, "", meant),
        );
    }
}

/// The target's platform is the default anyway.
pub(super) fn redundant_platform(
    written: &str,
    expanded: &Expanded,
    args: &Vars,
    lines: Lines,
    lint: &Linter,
) {
    const NAME: &str = "TARGETPLATFORM";
    let only = expanded.matched.iter().eq([NAME]) && expanded.unmatched.is_empty();
    if only && args.get(NAME) == Some(&expanded.text) {
        let text = format!(
            "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
        );
        lint.warn(&Rule::RedundantTargetPlatform, lines, text);
    }
}

/// A constant platform builds for that one only, unless the stage's name says that this is meant.
pub(super) fn constant_platform(stage: &str, expanded: &Expanded, lines: Lines, lint: &Linter) {
    if !expanded.matched.is_empty() || !expanded.unmatched.is_empty() {
        return;
    }
    let Ok(platform) = platform::parse(&expanded.text) else {
        return;
    };
    if stage.contains(&platform.os) || stage.contains(&platform.architecture) {
        return;
    }
    let value = meta::go_quote(&expanded.text);
    let text = format!("FROM --platform flag should not use constant value {value}");
    lint.warn(&Rule::FromPlatformFlagConstDisallowed, lines, text);
}

/// An image should be for the platform that was asked for.
pub(super) fn base_platform(
    name: &str,
    wanted: &Platform,
    image: &Image,
    lines: Lines,
    lint: &Linter,
) {
    if wanted.os == image.os && wanted.architecture == image.architecture {
        return;
    }
    let actual = meta::go_quote(&format_all(&image.platform().normalized()));
    let wanted = meta::go_quote(&format_all(&wanted.normalized()));
    let text = format!(
        "Base image {name} was pulled with platform {actual}, expected {wanted} for current build"
    );
    lint.warn(&Rule::InvalidBaseImagePlatform, lines, text);
}

/// Variables should be defined before they are used.
pub(super) fn undefined_variables(
    lowering: &Lowering<'_>,
    step: &Step<'_>,
    unmatched: &BTreeSet<String>,
) {
    let declared = &lowering.stages[step.stage].build_args;
    for name in unmatched {
        let known = declared.contains_key(name);
        if known || meta::is_scan_option(name) {
            continue;
        }
        let vars = lowering.vars(step.stage).names();
        let meant = lowering.meant(name, vars);
        let text = format!("Usage of undefined variable '${name}'");
        let text = did_you_mean(text, "$", meant);
        step.lint
            .warn(&Rule::UndefinedVar, step.instruction.lines, text);
    }
}

/// Only the last CMD, ENTRYPOINT or HEALTHCHECK counts: the one before is reported.
pub(super) fn used_once(step: &Step<'_>, before: Option<Lines>) {
    let Some(lines) = before else { return };
    let name = &step.instruction.name;
    let text = format!(
        "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
    );
    step.lint
        .warn(&Rule::MultipleInstructionsDisallowed, lines, text);
}

/// Secrets have no business in an image's environment.
pub(super) fn secret_name(step: &Step<'_>, instruction: &str, name: &str) {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    if has(&SECRET) && !has(&HARMLESS) {
        let name = meta::go_quote(name);
        let text =
            format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {name})");
        step.lint
            .warn(&Rule::SecretsUsedInArgOrEnv, step.instruction.lines, text);
    }
}

/// A file that the context leaves out cannot be copied. Lists with exceptions are too hard to judge from here.
pub(super) fn ignored_source(
    lowering: &Lowering<'_>,
    step: &Step<'_>,
    transfer: &Transfer,
    path: &str,
) {
    let Some(ignore) = lowering.ignore.as_ref().filter(|_| transfer.from_context) else {
        return;
    };
    if ignore.has_exceptions() {
        return;
    }
    let path = clean(path);
    if matches!(path.as_str(), "." | "/") && !lowering.request.context.ignores_everything() {
        return;
    }
    if ignore.matches(&path) {
        let name = if transfer.is_add() { "Add" } else { "Copy" };
        let path = meta::go_quote(&path);
        let text = format!("Attempting to {name} file {path} that is excluded by .dockerignore");
        step.lint
            .warn(&Rule::CopyIgnoredFile, step.instruction.lines, text);
    }
}
