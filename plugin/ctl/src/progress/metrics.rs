//! How much of a build the cache answered, as one line of JSON for tools that compare runs.

use std::collections::HashMap;
use std::time::Instant;

use serde_json::json;
use shipway_proto::control::StatusResponse;

/// Counts steps by their outcome.
#[derive(Debug)]
pub(crate) struct Metrics {
    began: Instant,
    steps: HashMap<String, Step>,
}

#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a step may be cached, completed, both or neither"
)]
struct Step {
    name: String,
    cached: bool,
    completed: bool,
}

impl Step {
    /// Whether a Dockerfile's author would call it a step.
    fn is_users(&self) -> bool {
        let others = ["[internal]", "[auth]", "importing cache", "exporting "];
        !others.iter().any(|prefix| self.name.starts_with(prefix))
    }

    /// Whether it only fetches a base image.
    fn is_base(&self) -> bool {
        self.name.starts_with('[') && self.name.contains("] FROM")
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            steps: HashMap::new(),
        }
    }

    pub(super) fn update(&mut self, event: &StatusResponse) {
        for vertex in &event.vertexes {
            let step = self.steps.entry(vertex.digest.clone()).or_default();
            step.name.clone_from(&vertex.name);
            step.completed |= vertex.completed.is_some();
            step.cached |= vertex.cached;
        }
    }

    /// A line for each miss, and the counts as JSON.
    pub(crate) fn report(&self) -> String {
        use std::fmt::Write as _;
        let users: Vec<&Step> = self.steps.values().filter(|step| step.is_users()).collect();
        let count = |wanted: fn(&Step) -> bool| users.iter().filter(|step| wanted(step)).count();
        let mut text = String::new();
        for miss in users.iter().filter(|step| !step.cached && !step.is_base()) {
            writeln!(text, "cache miss: {}", miss.name).expect("a String takes everything");
        }
        let counts = json!({
            "total": self.steps.len(),
            "completed": self.steps.values().filter(|step| step.completed).count(),
            "user_total": users.len(),
            "user_cached": count(|step| step.cached),
            "user_completed": count(|step| step.completed),
            "user_cacheable": count(|step| !step.is_base()),
            "from": count(Step::is_base),
            "miss": count(|step| !step.cached && !step.is_base()),
            "client_duration_ms": u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
        writeln!(text, "{counts}").expect("a String takes everything");
        text
    }
}
