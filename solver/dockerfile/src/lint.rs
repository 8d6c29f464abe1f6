//! Build checks: the rules, which of them are on, and where their findings go. Each rule is applied where the facts are.
//!
//! Names, descriptions and URLs are those under which the Dockerfile documentation lists the rules; clients show, skip and
//! compare them by these texts.

use crate::error::{Error, ErrorKind, SyntaxError};
use crate::span::Lines;
use crate::syntax::directive::{self, Directives};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A build check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named as in the list of build checks")]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JsonArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::StageNameCasing,
        Self::FromAsCasing,
        Self::NoEmptyContinuation,
        Self::ConsistentInstructionCasing,
        Self::DuplicateStageName,
        Self::ReservedStageName,
        Self::JsonArgsRecommended,
        Self::MaintainerDeprecated,
        Self::UndefinedArgInFrom,
        Self::WorkdirRelativePath,
        Self::UndefinedVar,
        Self::MultipleInstructionsDisallowed,
        Self::LegacyKeyValueFormat,
        Self::InvalidBaseImagePlatform,
        Self::RedundantTargetPlatform,
        Self::SecretsUsedInArgOrEnv,
        Self::InvalidDefaultArgInFrom,
        Self::FromPlatformFlagConstDisallowed,
        Self::CopyIgnoredFile,
        Self::InvalidDefinitionDescription,
        Self::ExposeProtoCasing,
        Self::ExposeInvalidFormat,
    ];

    /// Name and description.
    #[expect(clippy::too_many_lines, reason = "a table with a row for each rule")]
    const fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::StageNameCasing => ("StageNameCasing", "Stage names should be lowercase"),
            Self::FromAsCasing => (
                "FromAsCasing",
                "The 'as' keyword should match the case of the 'from' keyword",
            ),
            Self::NoEmptyContinuation => (
                "NoEmptyContinuation",
                "Empty continuation lines will become errors in a future release",
            ),
            Self::ConsistentInstructionCasing => (
                "ConsistentInstructionCasing",
                "All commands within the Dockerfile should use the same casing (either upper or lower)",
            ),
            Self::DuplicateStageName => ("DuplicateStageName", "Stage names should be unique"),
            Self::ReservedStageName => (
                "ReservedStageName",
                "Reserved words should not be used as stage names",
            ),
            Self::JsonArgsRecommended => (
                "JSONArgsRecommended",
                "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
            ),
            Self::MaintainerDeprecated => (
                "MaintainerDeprecated",
                "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
            ),
            Self::UndefinedArgInFrom => {
                ("UndefinedArgInFrom", "FROM command must use declared ARGs")
            }
            Self::WorkdirRelativePath => (
                "WorkdirRelativePath",
                "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
            ),
            Self::UndefinedVar => (
                "UndefinedVar",
                "Variables should be defined before their use",
            ),
            Self::MultipleInstructionsDisallowed => (
                "MultipleInstructionsDisallowed",
                "Multiple instructions of the same type should not be used in the same stage",
            ),
            Self::LegacyKeyValueFormat => (
                "LegacyKeyValueFormat",
                "Legacy key/value format with whitespace separator should not be used",
            ),
            Self::InvalidBaseImagePlatform => (
                "InvalidBaseImagePlatform",
                "Base image platform does not match expected target platform",
            ),
            Self::RedundantTargetPlatform => (
                "RedundantTargetPlatform",
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            ),
            Self::SecretsUsedInArgOrEnv => (
                "SecretsUsedInArgOrEnv",
                "Sensitive data should not be used in the ARG or ENV commands",
            ),
            Self::InvalidDefaultArgInFrom => (
                "InvalidDefaultArgInFrom",
                "Default value for global ARG results in an empty or invalid base image name",
            ),
            Self::FromPlatformFlagConstDisallowed => (
                "FromPlatformFlagConstDisallowed",
                "FROM --platform flag should not use a constant value",
            ),
            Self::CopyIgnoredFile => (
                "CopyIgnoredFile",
                "Attempting to Copy file that is excluded by .dockerignore",
            ),
            Self::InvalidDefinitionDescription => (
                "InvalidDefinitionDescription",
                "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
            ),
            Self::ExposeProtoCasing => (
                "ExposeProtoCasing",
                "Protocol in EXPOSE instruction should be lowercase",
            ),
            Self::ExposeInvalidFormat => (
                "ExposeInvalidFormat",
                "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
            ),
        }
    }

    /// Name, as `skip=` takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.texts().0
    }

    /// What it is about.
    #[must_use]
    pub const fn description(self) -> &'static str {
        self.texts().1
    }

    /// Where it is explained; empty for none.
    #[must_use]
    pub fn url(self) -> String {
        if self == Self::InvalidBaseImagePlatform {
            return String::new();
        }
        let mut slug = String::new();
        let name = self.name().replacen("JSON", "Json", 1);
        for (at, ch) in name.char_indices() {
            if ch.is_ascii_uppercase() && at > 0 {
                slug.push('-');
            }
            slug.push(ch.to_ascii_lowercase());
        }
        format!("https://docs.docker.com/go/dockerfile/rule/{slug}/")
    }

    /// Off unless asked for.
    #[must_use]
    pub fn experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The rule.
    pub rule: Rule,
    /// What was found.
    pub text: String,
    /// Where.
    pub lines: Lines,
}

impl Warning {
    /// One line for progress displays.
    #[must_use]
    pub fn short(&self) -> String {
        let (name, text, line) = (self.rule.name(), &self.text, self.lines.first);
        if line == 0 {
            format!("{name}: {text}")
        } else {
            format!("{name}: {text} (line {line})")
        }
    }
}

/// Which rules are on, as `# check=skip=A,B;error=true;experimental=all` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks {
    skip: Names,
    experimental: Names,
    /// Findings fail the build.
    pub error: bool,
}

/// Rule names, or all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    some: BTreeSet<String>,
}

impl Names {
    fn parse(text: &str) -> Self {
        if text == "all" {
            return Self {
                all: true,
                some: BTreeSet::new(),
            };
        }
        let some = text.split(',').map(|name| name.trim().to_owned()).collect();
        Self { all: false, some }
    }

    fn has(&self, name: &str) -> bool {
        self.all || self.some.contains(name)
    }

    fn merge(&mut self, other: Self) {
        self.all |= other.all;
        self.some.extend(other.some);
    }
}

impl Checks {
    /// Reads the value of a `check` directive, or of the build argument of the same meaning.
    ///
    /// # Errors
    /// An option that does not exist.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut checks = Self::default();
        if text.trim().is_empty() {
            return Ok(checks);
        }
        for part in text.trim().splitn(3, ';') {
            let bad = || SyntaxError::CheckOption(part.to_owned());
            let (key, value) = part.split_once('=').ok_or_else(bad)?;
            let value = value.trim();
            match key.trim() {
                "skip" => checks.skip = Names::parse(value),
                "experimental" => checks.experimental = Names::parse(value),
                "error" => {
                    let bad = SyntaxError::CheckValue(part.to_owned());
                    checks.error = crate::syntax::go_bool(value).ok_or(bad)?;
                }
                other => return Err(SyntaxError::CheckOption(other.to_owned())),
            }
        }
        Ok(checks)
    }

    /// The checks that a file asks for itself.
    ///
    /// # Errors
    /// Its directive cannot be read.
    pub fn of_file(bytes: &[u8]) -> Result<Self, SyntaxError> {
        directive::find("check", bytes)
            .map_or(Ok(Self::default()), |found| Self::parse(&found.word))
    }

    fn allows(&self, rule: Rule) -> bool {
        if rule.experimental() {
            return self.experimental.has(rule.name());
        }
        !self.skip.has(rule.name())
    }
}

/// Applies the checks that are on. Cheap to clone; all clones report to one place.
#[derive(Debug, Clone)]
pub struct Linter {
    checks: Arc<Checks>,
    sink: Option<Sender<Warning>>,
}

/// Where findings arrive.
#[derive(Debug)]
pub struct Findings(Receiver<Warning>);

impl Findings {
    /// All findings so far, in order.
    #[must_use]
    pub fn take(&self) -> Vec<Warning> {
        self.0.try_iter().collect()
    }
}

impl Linter {
    /// A linter and where its findings arrive.
    #[must_use]
    pub fn new(checks: Checks) -> (Self, Findings) {
        let (sink, findings) = channel();
        (
            Self {
                checks: Arc::new(checks),
                sink: Some(sink),
            },
            Findings(findings),
        )
    }

    /// One that never finds anything.
    #[must_use]
    pub fn silent() -> Self {
        Self {
            checks: Arc::default(),
            sink: None,
        }
    }

    /// Reports a finding, if its rule is on.
    pub fn warn(&self, rule: &Rule, lines: Lines, text: String) {
        let Some(sink) = &self.sink else { return };
        if self.checks.allows(*rule) {
            // Nobody who listens is nobody who minds.
            sink.send(Warning {
                rule: *rule,
                text,
                lines,
            })
            .ok();
        }
    }

    /// The linter for what follows these comments: one of them may be `check=…` itself.
    #[must_use]
    pub fn for_comments(&self, comments: &[String]) -> Self {
        let check = comments.iter().find_map(|comment| {
            let found = Directives::new("").line(comment).ok()??;
            (found.name == "check").then_some(found.value)
        });
        let word = check
            .as_deref()
            .map(|value| value.split(' ').next().unwrap_or_default());
        let Some(Ok(more)) = word.map(Checks::parse) else {
            return self.clone();
        };
        let mut checks = (*self.checks).clone();
        checks.skip.merge(more.skip);
        checks.experimental.merge(more.experimental);
        Self {
            checks: Arc::new(checks),
            sink: self.sink.clone(),
        }
    }

    /// The error that findings are, if the checks say so.
    ///
    /// # Errors
    /// There are findings and they fail the build.
    pub fn verdict(&self, findings: &[Warning]) -> Result<(), Error> {
        if !self.checks.error || findings.is_empty() {
            return Ok(());
        }
        let mut rules: Vec<&str> = Vec::new();
        for finding in findings {
            if !rules.contains(&finding.rule.name()) {
                rules.push(finding.rule.name());
            }
        }
        Err(Error::new(ErrorKind::Lint(rules.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_read_and_merged() {
        let checks = Checks::parse("skip=StageNameCasing, FromAsCasing;error=true").unwrap();
        assert!(checks.error && !checks.allows(Rule::StageNameCasing));
        assert!(checks.allows(Rule::UndefinedVar));
        assert!(!checks.allows(Rule::InvalidDefinitionDescription));
        let (lint, findings) = Linter::new(checks);
        let more = ["check=skip=all".to_owned()];
        let quiet = lint.for_comments(&more);
        for lint in [&lint, &quiet] {
            lint.warn(&Rule::UndefinedVar, Lines::one(3), "x".into());
        }
        let found = findings.take();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].short(), "UndefinedVar: x (line 3)");
        let error = lint.verdict(&found).unwrap_err();
        assert_eq!(
            error.to_string(),
            "lint violation found for rules: UndefinedVar"
        );
    }

    #[test]
    fn bad_options_are_named() {
        for (text, want) in [
            ("skip", "invalid check option \"skip\""),
            ("what=1", "invalid check option \"what\""),
            (
                "error=maybe",
                "failed to parse check option \"error=maybe\"",
            ),
        ] {
            assert_eq!(Checks::parse(text).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn urls_are_made_of_names() {
        let base = "https://docs.docker.com/go/dockerfile/rule/";
        assert_eq!(
            Rule::JsonArgsRecommended.url(),
            format!("{base}json-args-recommended/")
        );
        assert_eq!(
            Rule::SecretsUsedInArgOrEnv.url(),
            format!("{base}secrets-used-in-arg-or-env/")
        );
        assert_eq!(Rule::InvalidBaseImagePlatform.url(), "");
    }
}
