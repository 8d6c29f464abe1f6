//! Why a Dockerfile cannot be built, and on which lines. Texts that clients and test suites match are BuildKit's.

use crate::shell::ShellError;
use crate::span::Lines;
use shipway_model::definition::SourceInfo;
use shipway_model::{Failure, FailureDetail};
use std::fmt;
use std::sync::Arc;

/// A mistake in a Dockerfile, or in what was asked of it.
#[derive(Debug)]
pub struct Error {
    /// What is wrong.
    pub kind: Box<ErrorKind>,
    /// Where, innermost first; more than one where an error passed through several instructions.
    pub locations: Vec<Lines>,
    /// What was probably meant.
    pub suggestion: Option<String>,
    /// Set for mistakes in an instruction's own syntax.
    parse_line: Option<u32>,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ErrorKind {
    /// The text is no Dockerfile.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A variable cannot be expanded.
    #[error(transparent)]
    Shell(#[from] ShellError),
    /// Stages and what they refer to.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// An instruction is well-formed but asks for something impossible.
    #[error(transparent)]
    Instruction(#[from] InstructionError),
    /// An option of the build.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// An image or a named context cannot be had.
    #[error("{name}: {source}")]
    Resolve {
        /// As the Dockerfile names it.
        name: String,
        /// Why.
        source: Failure,
    },
    /// The same, where there is no better name for it than the message has.
    #[error("{0}")]
    Failed(Failure),
    /// Checks found something, and `error=true` was asked for.
    #[error("lint violation found for rules: {0}")]
    Lint(String),
    /// The graph cannot be marshalled.
    #[error("failed to marshal LLB definition: {0}")]
    Graph(#[from] shipway_llb::build::BuildError),
}

/// Mistakes that need no build to be seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum SyntaxError {
    #[error("the Dockerfile cannot be empty")]
    Empty,
    #[error("file with no instructions")]
    NoInstructions,
    #[error("only one {0} parser directive can be used")]
    DuplicateDirective(String),
    #[error("invalid escape token '{0}' does not match ` or \\")]
    EscapeToken(String),
    #[error("unterminated heredoc")]
    UnterminatedHeredoc,
    #[error("unknown instruction: {0}")]
    UnknownInstruction(String),
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    JsonStrings,
    #[error("{0} must have two arguments")]
    TwoArguments(&'static str),
    #[error("Syntax error - can't find = in {0:?}. Must be of the form: name=value")]
    NoEquals(String),
    #[error("{0} requires at least one argument")]
    AtLeastOne(&'static str),
    #[error("{0} requires exactly one argument")]
    ExactlyOne(&'static str),
    #[error(
        "{0} requires at least two arguments, but only one was provided. \
         Destination could not be determined"
    )]
    NoDestination(&'static str),
    #[error("{0} cannot accept a heredoc as a destination")]
    HeredocDestination(&'static str),
    #[error("{0} names can not be blank")]
    BlankName(&'static str),
    #[error("{0} requires the arguments to be in JSON form")]
    NotJson(&'static str),
    #[error("unknown flag: {0}")]
    UnknownFlag(String),
    #[error("duplicate flag specified: {0}")]
    DuplicateFlag(String),
    #[error("missing a value on flag: {0}")]
    FlagValue(String),
    #[error("expecting boolean value for flag {flag}, not: {value}")]
    FlagBool { flag: String, value: String },
    #[error("FROM requires either one or three arguments")]
    From,
    #[error(
        "invalid name for build stage: {0:?}, name can't start with a number or contain symbols"
    )]
    StageName(String),
    #[error("no build stage in current context")]
    NoStage,
    #[error("dockerfile contains no stages to build")]
    NoStages,
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnBuildChain,
    #[error("{0} isn't allowed as an ONBUILD trigger")]
    OnBuildTrigger(String),
    #[error("onbuild trigger should be a single expression")]
    OnBuildSingle,
    #[error("HEALTHCHECK NONE takes no arguments")]
    HealthcheckNone,
    #[error("Missing command after HEALTHCHECK CMD")]
    HealthcheckCommand,
    #[error("Unknown type {0:?} in HEALTHCHECK (try CMD)")]
    HealthcheckType(String),
    #[error("time: invalid duration {0:?}")]
    Duration(String),
    #[error("time: missing unit in duration {0:?}")]
    DurationUnit(String),
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit { unit: String, text: String },
    #[error("Interval {0:?} cannot be less than 1ms")]
    Interval(&'static str),
    #[error("invalid number of retries {0:?}")]
    Retries(String),
    #[error("--retries cannot be negative ({0})")]
    NegativeRetries(i64),
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    #[error("invalid network mode {0:?}")]
    Network(String),
    #[error("security {0:?} is not valid")]
    Security(String),
    #[error("failed to parse csv {what}: {reason}")]
    Csv {
        what: &'static str,
        reason: &'static str,
    },
    #[error("invalid field '{0}' must be a key=value pair")]
    KeyValue(String),
    #[error("unexpected key '{key}' in '{field}'")]
    UnexpectedKey { key: String, field: String },
    #[error("unexpected key '{key}' for mount type '{kind}'")]
    KeyForType { key: String, kind: &'static str },
    #[error("invalid value for {key}: {value}")]
    ValueFor { key: String, value: String },
    #[error("invalid value {value} for {key}")]
    MountValue { key: &'static str, value: String },
    #[error("device name already set to {0}")]
    DeviceName(String),
    #[error("'{0}' doesn't support variable expansion, define alias stage instead")]
    FromExpansion(&'static str),
    #[error("unsupported mount type {0:?}")]
    MountType(String),
    #[error("unsupported sharing value {0:?}")]
    Sharing(String),
    #[error("{key} not allowed for {kind:?} type mounts")]
    NotAllowed {
        key: &'static str,
        kind: &'static str,
    },
    #[error("secret mount should not have a from")]
    SecretFrom,
    #[error("secret mount should not define sharing")]
    SecretSharing,
    #[error("invalid secret mount. one of source, target required")]
    SecretName,
    #[error("both source and id can't be set")]
    SecretSourceAndId,
    #[error("invalid cache sharing set for {0} mount")]
    SharingForType(&'static str),
    #[error("invalid check option {0:?}")]
    CheckOption(String),
    #[error("failed to parse check option {0:?}")]
    CheckValue(String),
}

/// Mistakes in how stages refer to each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum StageError {
    #[error("base name ({0}) should not be blank")]
    BlankBase(String),
    #[error(
        "failed to parse stage name {name:?}: invalid reference format{}",
        upper_case(name)
    )]
    BaseName {
        name: String,
        source: shipway_model::reference::InvalidReference,
    },
    #[error("empty platform value from expression {0}")]
    EmptyPlatform(String),
    #[error("failed to parse platform {written}: {source}")]
    Platform {
        written: String,
        source: crate::platform::InvalidPlatform,
    },
    #[error("target stage {0:?} could not be found")]
    Target(String),
    #[error("circular dependency detected on stage: {0}")]
    Circular(String),
    #[error("invalid stage index {0}")]
    Index(i64),
    #[error(
        "variable expansion is not supported for --from, define a new stage with FROM using ARG \
         from global scope as a workaround"
    )]
    FromExpansion,
    #[error(
        "cannot copy from stage {from:?}, it needs to be defined before current stage {stage:?}"
    )]
    CopyFrom { from: String, stage: String },
    #[error(
        "cannot mount from stage {from:?} to {target:?}, stage needs to be defined before current \
         command"
    )]
    MountFrom { from: String, target: String },
    #[error("failed to parse image config: {0}")]
    Config(String),
}

/// Requests of an instruction that cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum InstructionError {
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    Chmod(String),
    #[error("invalid syntax")]
    ChmodSyntax(String),
    #[error("checksum can't be specified for multiple sources")]
    ChecksumSources,
    #[error("checksum requires HTTP(S) or Git sources")]
    ChecksumKind,
    #[error("source can't be a URL for COPY")]
    CopyUrl,
    #[error("source can't be a git ref for COPY")]
    CopyGit,
    #[error("inconsistent keep-git-dir configuration")]
    KeepGitDir,
    #[error("checksum mismatch {0:?} != {1:?}")]
    ChecksumMismatch(String, String),
    #[error("invalid checksum {0:?}: {1}")]
    Checksum(String, &'static str),
    #[error("{0}")]
    Git(String),
    #[error("invalid signal: {0}")]
    Signal(String),
    #[error("invalid mount target {0:?}")]
    MountTarget(String),
    #[error("one of source, target required")]
    SecretName,
    #[error("ssh does not support source")]
    SshSource,
    #[error("parsing produced an invalid run command: {0:?}")]
    RunCommand(Vec<String>),
    #[error("invalid port: {written:?}: {reason}")]
    Port { written: String, reason: String },
    #[error("invalid IP address: {0}")]
    PortIp(String),
    #[error("invalid containerPort: {0}")]
    ContainerPort(String),
    #[error("invalid hostPort: {0}")]
    HostPort(String),
    #[error("invalid ranges specified for container and host Ports: {0} and {1}")]
    PortRanges(String, String),
    #[error("{0}")]
    WindowsPath(&'static str),
    #[error("invalid SOURCE_DATE_EPOCH: {0}")]
    Epoch(String),
}

/// Mistakes in the options of a build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum OptionError {
    #[error("failed to parse target platform {value}: {source}")]
    Platform {
        value: String,
        source: crate::platform::InvalidPlatform,
    },
    #[error("invalid image-resolve-mode: {0}")]
    ResolveMode(String),
    #[error("failed to parse additional hosts: {0}")]
    Hosts(String),
    #[error("failed to parse shm size: {0}")]
    ShmSize(String),
    #[error("failed to parse ulimit: {0}")]
    Ulimit(String),
    #[error("failed to parse resource limits: invalid {key} value: {value}")]
    Limit { key: &'static str, value: String },
    #[error("invalid netmode {0}")]
    NetMode(String),
    #[error("invalid boolean value for multi-platform: {0}")]
    MultiPlatform(String),
    #[error("conflicting config: returning multiple target platforms is not allowed")]
    SinglePlatform,
    #[error("failed to parse {0}")]
    Check(&'static str),
    #[error("invalid context name {0}")]
    ContextName(String),
    #[error("support for {0:?} was removed")]
    Removed(&'static str),
}

/// The most frequent reason why a name is no reference.
fn upper_case(name: &str) -> String {
    let (official, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host != host.to_lowercase() => {
            ("", path)
        }
        Some(_) => ("", name),
        None => ("library/", name),
    };
    let path = path.split([':', '@']).next().unwrap_or_default();
    if path == path.to_lowercase() {
        return String::new();
    }
    format!(": repository name ({official}{path}) must be lowercase")
}

impl Error {
    /// An error that has no place in the file.
    pub fn new(kind: impl Into<ErrorKind>) -> Self {
        Self {
            kind: Box::new(kind.into()),
            locations: Vec::new(),
            suggestion: None,
            parse_line: None,
        }
    }

    /// An error at a place.
    pub fn at(lines: Lines, kind: impl Into<ErrorKind>) -> Self {
        Self::new(kind).located(lines)
    }

    /// The same, also at an outer place.
    #[must_use]
    pub fn located(mut self, lines: Lines) -> Self {
        self.locations.push(lines);
        self
    }

    /// The same, only at another place.
    #[must_use]
    pub fn relocated(mut self, lines: Lines) -> Self {
        self.locations = vec![lines];
        self
    }

    /// The same with a suggestion.
    #[must_use]
    pub fn suggest(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion.or(self.suggestion);
        self
    }

    /// The failure that clients are told, with the lines of `file` that it is about.
    #[must_use]
    pub fn to_failure(&self, file: &Arc<SourceInfo>) -> Failure {
        let mut failure = match self.inner() {
            Some(inner) => Failure {
                message: self.to_string().into(),
                ..inner.clone()
            },
            None => Failure::new(self.to_string()),
        };
        for place in &self.locations {
            let info = Arc::clone(file);
            failure = failure.with(FailureDetail::Source {
                info,
                ranges: place.ranges(),
            });
        }
        failure
    }

    /// What failed outside of the Dockerfile.
    fn inner(&self) -> Option<&Failure> {
        match &*self.kind {
            ErrorKind::Resolve { source, .. } | ErrorKind::Failed(source) => Some(source),
            _ => None,
        }
    }

    /// The same, named as a mistake in the syntax of the instruction on that line.
    pub(crate) fn in_instruction(mut self, lines: Lines) -> Self {
        self.parse_line = Some(lines.first);
        self.located(lines)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.parse_line {
            write!(f, "dockerfile parse error on line {line}: ")?;
        }
        write!(f, "{}", self.kind)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, " (did you mean {suggestion}?)"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner().map(|failure| failure as _)
    }
}

impl<K: Into<ErrorKind>> From<K> for Error {
    fn from(kind: K) -> Self {
        Self::new(kind)
    }
}
