//! The pattern language that `.dockerignore`, and the include and exclude lists of contexts and copies, are written in.
//! Decides whether a path matches; never looks at a file system. Beside it, in [`filter`], containerd's filter language.
//!
//! `*` and `?` stay within one path element, `**` crosses them, `[a-z]` is a class, `\` takes the next character
//! literally, a leading `!` takes back what earlier patterns matched. A pattern that matches a directory matches
//! everything below it. The last pattern that matches decides.

pub mod filter;
mod glob;
mod ignorefile;
mod matcher;
mod paths;

pub use glob::glob_match;
pub use ignorefile::parse as parse_ignore_file;
pub use matcher::{MatchInfo, PatternMatcher};
pub use paths::{clean, join};

/// A pattern that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// A `!` with nothing behind it.
    #[error("illegal exclusion pattern: \"!\"")]
    EmptyException,
    /// Unclosed or empty class, or a `\` at the end.
    #[error("syntax error in pattern {0:?}")]
    Syntax(String),
}
