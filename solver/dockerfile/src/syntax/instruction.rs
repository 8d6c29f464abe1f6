//! Instructions as typed values, variables not yet expanded. Making them from text is `typed`'s.

use super::heredoc::Heredoc;
use super::mount::MountSpec;
use crate::span::Lines;
use std::sync::Arc;

/// One instruction with where and how it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// What it says.
    pub kind: InstructionKind,
    /// Its name as written, such as `run` or `RUN`.
    pub name: String,
    /// Its text, continuation lines joined, without heredoc bodies.
    pub code: String,
    /// Its lines, heredoc bodies included.
    pub lines: Lines,
    /// Comment lines right before it.
    pub comments: Arc<[String]>,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the Dockerfile reference")]
pub enum InstructionKind {
    Add(Box<Add>),
    Arg(Vec<ArgDef>),
    Cmd(CommandLine),
    Copy(Box<Copy>),
    Entrypoint(CommandLine),
    Env(Vec<KeyValue>),
    Expose(Vec<String>),
    Healthcheck(HealthConfig),
    Label(Vec<KeyValue>),
    Maintainer(String),
    /// The trigger's text.
    OnBuild(String),
    Run(Box<Run>),
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// Written with a blank instead of `=`.
    pub legacy: bool,
}

/// One variable of an ARG instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDef {
    /// Its name.
    pub key: String,
    /// Its default.
    pub value: Option<String>,
    /// The comment `# NAME text` before the instruction.
    pub doc: String,
}

/// A command in shell or exec form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine {
    /// The words in exec form; at most one text in shell form.
    pub args: Vec<String>,
    /// Heredocs, in order.
    pub files: Vec<Heredoc>,
    /// Shell form.
    pub shell: bool,
}

/// Sources and destination of ADD and COPY.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourcesAndDest {
    /// Paths, patterns and URLs.
    pub paths: Vec<String>,
    /// Heredocs.
    pub contents: Vec<Heredoc>,
    /// Where they go.
    pub dest: String,
}

/// ADD.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    missing_docs,
    reason = "named as the flags in the Dockerfile reference"
)]
pub struct Add {
    pub files: SourcesAndDest,
    pub chown: String,
    pub chmod: String,
    pub link: bool,
    pub keep_git_dir: Option<bool>,
    pub checksum: String,
    pub unpack: Option<bool>,
    pub exclude: Vec<String>,
}

/// COPY.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    missing_docs,
    reason = "named as the flags in the Dockerfile reference"
)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags")]
pub struct Copy {
    pub files: SourcesAndDest,
    pub from: String,
    pub chown: String,
    pub chmod: String,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<String>,
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    /// The command.
    pub command: CommandLine,
    /// Mounts, as written.
    pub mounts: Vec<MountSpec>,
    /// Network.
    pub network: RunNetwork,
    /// Without sandbox.
    pub insecure: bool,
    /// CDI devices.
    pub devices: Vec<Device>,
}

/// Network of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunNetwork {
    /// The build's.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// A CDI device of a RUN.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// Its qualified name.
    pub name: String,
    /// The step fails without it.
    pub required: bool,
}

/// HEALTHCHECK. Durations are nanoseconds; 0 inherits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    missing_docs,
    reason = "named as the flags in the Dockerfile reference"
)]
pub struct HealthConfig {
    /// `NONE`, `CMD` with words, or `CMD-SHELL` with one text.
    pub test: Vec<String>,
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i64,
}
