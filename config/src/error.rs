//! What can be wrong with a configuration. Every variant names the file, the key or the flag it is about.

use std::path::PathBuf;

use crate::{InvalidAddress, InvalidDuration, InvalidSize};

/// Why a configuration was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("reading configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML, has a key nobody knows or a value of the wrong type; the source names key and line.
    #[error("parsing configuration {}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Key, line and column.
        source: Box<toml::de::Error>,
    },
    /// The key is known, but what it asks for can't be done.
    #[error("configuration key {key} is not supported: {reason}")]
    Unsupported {
        /// Dotted name of the key, or the flag with its dashes.
        key: String,
        /// Why, and what to do instead.
        reason: &'static str,
    },
    /// The key's value is none of those that it can have.
    #[error("configuration key {key}: invalid value {value:?}: expected {expected}")]
    Value {
        /// Dotted name of the key, or the flag with its dashes.
        key: String,
        /// What was found.
        value: String,
        /// What it can be.
        expected: &'static str,
    },
    /// An amount of storage could not be read.
    #[error("configuration key {key}")]
    Size {
        /// Dotted name of the key, or the flag with its dashes.
        key: String,
        /// What is wrong with it.
        #[source]
        source: InvalidSize,
    },
    /// A duration could not be read.
    #[error("configuration key {key}")]
    Duration {
        /// Dotted name of the key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: InvalidDuration,
    },
    /// A listening address could not be read.
    #[error("configuration key {key}")]
    Address {
        /// Dotted name of the key, or the flag with its dashes.
        key: String,
        /// What is wrong with it.
        #[source]
        source: InvalidAddress,
    },
}

impl ConfigError {
    pub(crate) fn value(key: &str, value: impl Into<String>, expected: &'static str) -> Self {
        Self::Value {
            key: key.to_owned(),
            value: value.into(),
            expected,
        }
    }
}
