//! Counts of a build's steps, from its progress. Pure.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use shipway_model::Digest;
use shipway_model::progress::Event;

/// Counts of a build's steps; a step that was shown several times counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Steps {
    /// All.
    pub total: i32,
    /// Answered by the cache.
    pub cached: i32,
    /// Ended, well or not.
    pub completed: i32,
    /// Advice given.
    pub warnings: i32,
}

/// Counts steps.
#[must_use]
pub fn count<'a>(events: impl IntoIterator<Item = &'a Event>) -> Steps {
    let mut seen: HashMap<Digest, (bool, bool)> = HashMap::new();
    let mut warnings = 0;
    for event in events {
        match event {
            Event::Vertex(vertex) => {
                let (cached, completed) = seen.entry(vertex.digest).or_default();
                *cached |= vertex.cached;
                *completed |= vertex.completed.is_some();
            }
            Event::Warning(_) => warnings += 1,
            Event::Status(_) | Event::Log(_) => {}
        }
    }
    let number = |wanted: fn(&(bool, bool)) -> bool| {
        let number = seen.values().filter(|state| wanted(state)).count();
        i32::try_from(number).unwrap_or(i32::MAX)
    };
    Steps {
        total: number(|_| true),
        cached: number(|(cached, _)| *cached),
        completed: number(|(_, completed)| *completed),
        warnings,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use shipway_model::progress::VertexState;

    use super::*;

    #[test]
    fn a_step_counts_once() {
        let vertex = |name: &str, cached, completed: bool| {
            Event::Vertex(VertexState {
                digest: Digest::of(name),
                inputs: Vec::new(),
                name: name.into(),
                cached,
                started: None,
                completed: completed.then_some(Timestamp::UNIX_EPOCH),
                error: String::new(),
                progress_group: None,
            })
        };
        let events = [
            vertex("a", false, false),
            vertex("a", true, true),
            vertex("a", false, true),
            vertex("b", false, false),
        ];
        let steps = count(&events);
        assert_eq!((steps.total, steps.cached, steps.completed), (2, 1, 1));
    }
}
