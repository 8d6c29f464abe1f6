//! The environment of an image: `NAME=value` pairs as they stand in its configuration, found by name without a search.

use serde::{Deserialize, Serialize, Serializer};
use std::collections::HashMap;

/// Pairs in the order of the configuration. What a base image says twice stays there twice.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(from = "Vec<String>")]
pub struct Environment {
    pairs: Vec<String>,
    /// Where a name stands first.
    places: HashMap<String, usize>,
}

impl From<Vec<String>> for Environment {
    fn from(pairs: Vec<String>) -> Self {
        let mut places = HashMap::with_capacity(pairs.len());
        for (place, pair) in pairs.iter().enumerate() {
            places.entry(split(pair).0.to_owned()).or_insert(place);
        }
        Self { pairs, places }
    }
}

impl Serialize for Environment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.pairs.serialize(serializer)
    }
}

impl Environment {
    /// True where no variable is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|pair| split(pair))
    }

    /// True where the variable is set.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Sets a variable where it stands first, or at the end.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        let pair = format!("{name}={value}");
        if let Some(&place) = self.places.get(name) {
            self.pairs[place] = pair;
            return;
        }
        self.places.insert(name.to_owned(), self.pairs.len());
        self.pairs.push(pair);
    }
}

fn split(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_set_where_it_stands_first() {
        let pairs = ["A=1", "B", "A=2"].map(str::to_owned);
        let mut env = Environment::from(pairs.to_vec());
        env.set("A", "3");
        env.set("B", "4");
        env.set("C", "=");
        let found: Vec<_> = env.iter().collect();
        assert_eq!(found, [("A", "3"), ("B", "4"), ("A", "2"), ("C", "=")]);
        assert!(env.has("C") && !env.has("D"));
    }
}
