//! Collects what a key was made of, small enough to keep with every record.

use crate::KeyParts;

/// Longest value that is kept as it is.
const LONGEST: usize = 256;

#[derive(Default)]
pub(super) struct Parts(Vec<(String, String)>);

impl Parts {
    pub(super) fn add(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        if value.is_empty() {
            return;
        }
        let value = if value.len() > LONGEST {
            shipway_model::Digest::of(value).to_string()
        } else {
            value
        };
        self.0.push((name.to_owned(), value));
    }

    pub(super) fn done(self) -> KeyParts {
        KeyParts(self.0)
    }
}
