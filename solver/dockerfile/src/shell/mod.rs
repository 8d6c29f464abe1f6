//! Expands variables in Dockerfile words and splits words, as the Dockerfile reference defines it.
//! Never reads the process environment, and never decides which words are expanded: callers do.
//!
//! Decisions where the reference frontend has accidents:
//! - `${v//p/r}` passes `r` through the regex template language (`$0`, `$1`): kept, results feed cache keys.
//! - When a line is split into words, text in front of a `${v:-w}` stays part of its word: upstream loses it.

mod pattern;
mod word;

use shipway_llb::build::Vars;
use std::collections::BTreeSet;

use self::word::Words;

/// Where variables come from.
pub trait Env {
    /// The value of `name`, if it is set.
    fn get(&self, name: &str) -> Option<&str>;
    /// All names that are set, in declaration order.
    fn names(&self) -> Vec<&str>;
}

/// No variable is set.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEnv;

impl Env for NoEnv {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }

    fn names(&self) -> Vec<&str> {
        Vec::new()
    }
}

impl Env for Vars {
    fn get(&self, name: &str) -> Option<&str> {
        Vars::get(self, name).map(String::as_str)
    }

    fn names(&self) -> Vec<&str> {
        Vars::names(self).collect()
    }
}

/// How quotes are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quotes {
    /// Quotes group and disappear.
    Remove,
    /// Quotes group and stay in the result.
    Keep,
    /// Quotes are ordinary characters.
    Ignore,
}

/// What becomes of a variable that is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unset {
    /// It expands to nothing.
    Empty,
    /// Its reference stays as written.
    Keep,
}

/// One way of reading words: the escape character and what is kept of the source text.
#[derive(Debug, Clone, Copy)]
pub struct Shell {
    escape: char,
    quotes: Quotes,
    unset: Unset,
    raw_escapes: bool,
}

/// A word after expansion, with the names that were looked up on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Variables that were set.
    pub matched: BTreeSet<String>,
    /// Variables that were not set.
    pub unmatched: BTreeSet<String>,
}

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShellError {
    /// A quote, a brace or a slash is missing.
    #[error("unexpected end of statement while looking for matching {0}")]
    Unterminated(&'static str),
    /// `${` is not followed by a name.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// `${name` has no end.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${name/pattern` has no second part.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// An operator that does not exist.
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    /// `${name?message}` and the name is not set, or is empty for `:?`.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The author's message, or the default one.
        message: String,
    },
    /// A wildcard pattern that has no meaning.
    #[error("invalid pattern ({pattern}) in substitution: {reason}")]
    Pattern {
        /// The pattern as written.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Any of these, with the word it happened in.
    #[error("failed to process {word:?}: {source}")]
    In {
        /// The whole word.
        word: String,
        /// The error in it.
        source: Box<ShellError>,
    },
}

impl Shell {
    /// Removes quotes and replaces unset variables by nothing.
    #[must_use]
    pub const fn new(escape: char) -> Self {
        Self {
            escape,
            quotes: Quotes::Remove,
            unset: Unset::Empty,
            raw_escapes: false,
        }
    }

    /// The same with another treatment of quotes.
    #[must_use]
    pub const fn quotes(mut self, quotes: Quotes) -> Self {
        self.quotes = quotes;
        self
    }

    /// The same with another treatment of unset variables.
    #[must_use]
    pub const fn unset(mut self, unset: Unset) -> Self {
        self.unset = unset;
        self
    }

    /// The same, but escape characters stay in the result.
    #[must_use]
    pub const fn keep_escapes(mut self) -> Self {
        self.raw_escapes = true;
        self
    }

    /// Expands `word` and reports which variables it named.
    ///
    /// # Errors
    /// [`ShellError::In`] around the first mistake in `word`.
    pub fn expand(self, word: &str, env: &dyn Env) -> Result<Expanded, ShellError> {
        self.expand_noting(word, env).0
    }

    /// The same, with the variables that were looked up and not set, even if the word then turned out to be wrong.
    pub(crate) fn expand_noting(
        self,
        word: &str,
        env: &dyn Env,
    ) -> (Result<Expanded, ShellError>, BTreeSet<String>) {
        let (result, names) = word::expand(self, word, env, Words::new(false));
        let unmatched = names.unmatched.clone();
        let expanded = result.map(|(text, _)| Expanded { text, ..names });
        (expanded.map_err(|source| inside(word, source)), unmatched)
    }

    /// Expands `word` and splits what it becomes at unquoted whitespace.
    ///
    /// # Errors
    /// As of [`Self::expand`].
    pub fn words(self, word: &str, env: &dyn Env) -> Result<Vec<String>, ShellError> {
        let (result, _) = word::expand(self, word, env, Words::new(true));
        let words = result.map(|(_, words)| words);
        words.map_err(|source| inside(word, source))
    }
}

fn inside(word: &str, source: ShellError) -> ShellError {
    ShellError::In {
        word: word.to_owned(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests;
