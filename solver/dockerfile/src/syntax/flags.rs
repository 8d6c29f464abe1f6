//! `--name=value` flags of instructions: which exist, which repeat, which need a value.

use crate::error::{Error, SyntaxError};
use crate::suggest::{Case, nearest};

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// `true`, `false` or nothing.
    Bool,
    /// One value.
    One,
    /// A value each time it is given.
    Many,
}

/// The flags of one instruction.
#[derive(Debug, Default)]
pub(super) struct Flags {
    given: Vec<(&'static str, String)>,
}

impl Flags {
    /// Reads `words` against the flags that the instruction knows.
    pub(super) fn parse(words: &[String], known: &[(&'static str, Takes)]) -> Result<Self, Error> {
        let mut flags = Self::default();
        for word in words {
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (word.as_str(), None),
            };
            let name = flag.trim_start_matches("--");
            let Some(&(name, takes)) = known.iter().find(|(known, _)| *known == name) else {
                let names = known.iter().map(|(name, _)| *name);
                let suggestion = nearest(name, names, Case::Exact);
                let error = SyntaxError::UnknownFlag(flag.to_owned());
                return Err(Error::new(error).suggest(suggestion));
            };
            if takes != Takes::Many && flags.get(name).is_some() {
                return Err(SyntaxError::DuplicateFlag(flag.to_owned()).into());
            }
            let value = read(flag, value, takes)?;
            flags.given.push((name, value));
        }
        Ok(flags)
    }

    /// The value of a flag that was given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.given
            .iter()
            .find(|(given, _)| *given == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of a flag, empty where it was not given.
    pub(super) fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// The value of a bool that was given.
    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| value == "true")
    }

    /// All values of a flag that repeats.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        let given = self.given.iter().filter(|(given, _)| *given == name);
        given.map(|(_, value)| value.clone()).collect()
    }
}

fn read(flag: &str, value: Option<&str>, takes: Takes) -> Result<String, SyntaxError> {
    let missing = || SyntaxError::FlagValue(flag.to_owned());
    if takes != Takes::Bool {
        return value.map(str::to_owned).ok_or_else(missing);
    }
    match value.map(str::to_lowercase).as_deref() {
        None | Some("true") => Ok("true".into()),
        Some("false") => Ok("false".into()),
        Some("") => Err(missing()),
        Some(_) => Err(SyntaxError::FlagBool {
            flag: flag.to_owned(),
            value: value.unwrap_or_default().to_owned(),
        }),
    }
}
