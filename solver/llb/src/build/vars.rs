//! Environment variables in the order in which a process gets them. Setting one again moves it to the end, which must not
//! cost a look at all the others.

use std::collections::{BTreeMap, HashMap};

/// Variables with unique names; one that is set again moves to the end.
#[derive(Debug, Clone, Default)]
pub struct Vars {
    /// By the time of setting.
    pairs: BTreeMap<u64, (String, String)>,
    times: HashMap<String, u64>,
    next: u64,
}

impl Vars {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&String> {
        let pair = self.pairs.get(self.times.get(name)?)?;
        Some(&pair.1)
    }

    /// True where the variable is set.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.times.contains_key(name)
    }

    /// Sets a variable; it is the last one then.
    pub fn set(&mut self, name: &str, value: &str) {
        let time = self.next;
        self.next += 1;
        if let Some(before) = self.times.get_mut(name) {
            self.pairs.remove(before);
            *before = time;
        } else {
            self.times.insert(name.to_owned(), time);
        }
        self.pairs.insert(time, (name.to_owned(), value.to_owned()));
    }

    /// Takes a variable away.
    pub fn remove(&mut self, name: &str) {
        if let Some(time) = self.times.remove(name) {
            self.pairs.remove(&time);
        }
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.pairs
            .values()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.iter().map(|(name, _)| name)
    }
}

impl FromIterator<(String, String)> for Vars {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        let mut vars = Self::new();
        for (name, value) in pairs {
            vars.set(&name, &value);
        }
        vars
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_set_again_is_the_last() {
        let mut vars: Vars = [("A", "1"), ("B", "2"), ("C", "3")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect();
        vars.set("A", "4");
        vars.remove("B");
        assert_eq!(vars.iter().collect::<Vec<_>>(), [("C", "3"), ("A", "4")]);
        assert_eq!(vars.get("A").map(String::as_str), Some("4"));
        assert!(!vars.contains("B") && vars.get("B").is_none());
    }
}
