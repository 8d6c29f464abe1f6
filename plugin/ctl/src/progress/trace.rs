//! The state of a build's steps as events leave it. Pure: prints nothing and knows no clock.

use std::collections::{BTreeMap, HashMap, VecDeque};

use shipway_proto::control::{StatusResponse, Vertex, VertexLog, VertexStatus};

use super::units::{nanos, seconds};

/// How many lines of a failed step are shown again at the end.
const RECENT: usize = 10;

/// All steps, in the order of their first appearance.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) steps: Vec<Step>,
    /// Index into `steps` by digest; members of a group lead to the group.
    by_digest: HashMap<String, usize>,
    groups: HashMap<String, Group>,
    /// When the first step started.
    pub(super) started: Option<i128>,
}

/// A step, or a group of steps shown as one.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts that arrive one by one"
)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) error: String,
    pub(super) cached: bool,
    /// A group whose members, so far, are not worth showing.
    pub(super) hidden: bool,
    /// Start to stop, in nanoseconds since 1970. A step may run several times.
    pub(super) runs: BTreeMap<i128, Option<i128>>,
    pub(super) statuses: Vec<VertexStatus>,
    /// Indices of the statuses that changed and were not shown since.
    pub(super) changed_statuses: Vec<usize>,
    pub(super) warnings: Vec<String>,
    /// Complete lines of output that were not shown yet, with their time.
    pub(super) lines: Vec<String>,
    /// The last complete lines.
    pub(super) recent: VecDeque<String>,
    /// Output behind the last line break.
    partial: Vec<u8>,
    /// Something about it changed and was not shown.
    pub(super) changed: bool,
    /// How often it changed since it was shown.
    pub(super) weight: u32,
}

#[derive(Debug, Default)]
struct Group {
    step: usize,
    members: BTreeMap<String, Vertex>,
}

impl Step {
    pub(super) fn has_started(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Whether every run has ended.
    pub(super) fn has_completed(&self) -> bool {
        self.has_started() && self.runs.values().all(Option::is_some)
    }

    pub(super) fn was_canceled(&self) -> bool {
        self.error.ends_with("context canceled")
    }

    /// When its last run ended.
    pub(super) fn completed(&self) -> Option<i128> {
        self.runs.values().copied().max().flatten()
    }

    /// Seconds that it ran, overlapping runs counted once; `now` stands for the end of one that runs still.
    pub(super) fn duration(&self, now: i128) -> f64 {
        let mut total = 0;
        let mut until = i128::MIN;
        for (start, stop) in &self.runs {
            let stop = stop.unwrap_or(now);
            let from = (*start).max(until);
            total += (stop - from).max(0);
            until = until.max(stop);
        }
        seconds(total)
    }

    fn touch(&mut self) {
        self.changed = true;
        self.weight += 1;
    }

    fn vertex(&mut self, vertex: &Vertex) {
        let before = (
            self.name.clone(),
            self.error.clone(),
            self.cached,
            self.runs.clone(),
        );
        // An announcement does not undo a start.
        if !self.has_started() || vertex.started.is_some() {
            self.name.clone_from(&vertex.name);
            self.error.clone_from(&vertex.error);
            self.cached = vertex.cached;
        }
        let Some(started) = &vertex.started else {
            return;
        };
        self.runs
            .insert(nanos(started), vertex.completed.as_ref().map(nanos));
        if self.has_completed() {
            self.end_line();
        }
        if before
            != (
                self.name.clone(),
                self.error.clone(),
                self.cached,
                self.runs.clone(),
            )
        {
            self.touch();
        }
    }

    fn status(&mut self, status: &VertexStatus) {
        let known = self.statuses.iter().position(|known| known.id == status.id);
        let at = known.unwrap_or(self.statuses.len());
        if known.is_some() {
            self.statuses[at] = status.clone();
        } else {
            self.statuses.push(status.clone());
        }
        if !self.changed_statuses.contains(&at) {
            self.changed_statuses.push(at);
        }
        self.touch();
    }

    fn log(&mut self, log: &VertexLog) {
        let since = self.runs.last_key_value().map(|(start, _)| *start);
        let at = log.timestamp.as_ref().map(nanos);
        let elapsed = match (at, since) {
            (Some(at), Some(since)) => seconds(at - since),
            _ => 0.0,
        };
        for piece in log.msg.split_inclusive(|byte| *byte == b'\n') {
            if self.partial.is_empty() {
                self.partial.extend_from_slice(stamp(elapsed).as_bytes());
            }
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
        self.touch();
    }

    fn end_line(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        let line = std::mem::take(&mut self.partial);
        let line = String::from_utf8_lossy(&line)
            .trim_end_matches(['\n', '\r'])
            .to_owned();
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(line.clone());
        self.lines.push(line);
    }
}

/// Seconds with fewer decimals the more there are.
fn stamp(elapsed: f64) -> String {
    match elapsed {
        short if short < 10.0 => format!("{short:.3} "),
        medium if medium < 100.0 => format!("{medium:.2} "),
        long => format!("{long:.1} "),
    }
}

impl Trace {
    /// Takes an event in.
    pub(super) fn update(&mut self, event: &StatusResponse) {
        for vertex in &event.vertexes {
            if self.started.is_none() {
                self.started = vertex.started.as_ref().map(nanos);
            }
            if let Some(group) = &vertex.progress_group {
                self.member(&group.id, &group.name, vertex);
            } else {
                let at = self.step(&vertex.digest);
                self.steps[at].vertex(vertex);
            }
        }
        for status in &event.statuses {
            if let Some(at) = self.by_digest.get(&status.vertex) {
                self.steps[*at].status(status);
            }
        }
        for warning in &event.warnings {
            if let Some(at) = self.by_digest.get(&warning.vertex) {
                let step = &mut self.steps[*at];
                step.warnings
                    .push(String::from_utf8_lossy(&warning.short).into_owned());
                step.touch();
            }
        }
        for log in &event.logs {
            if let Some(at) = self.by_digest.get(&log.vertex) {
                self.steps[*at].log(log);
            }
        }
    }

    fn step(&mut self, digest: &str) -> usize {
        if let Some(at) = self.by_digest.get(digest) {
            return *at;
        }
        self.steps.push(Step::default());
        let at = self.steps.len() - 1;
        self.by_digest.insert(digest.to_owned(), at);
        at
    }

    fn member(&mut self, id: &str, name: &str, vertex: &Vertex) {
        if !self.groups.contains_key(id) {
            self.steps.push(Step {
                name: name.to_owned(),
                hidden: true,
                ..Step::default()
            });
            let step = self.steps.len() - 1;
            self.groups.insert(
                id.to_owned(),
                Group {
                    step,
                    members: BTreeMap::new(),
                },
            );
        }
        let Some(group) = self.groups.get_mut(id) else {
            return;
        };
        self.by_digest.insert(vertex.digest.clone(), group.step);
        group.members.insert(vertex.digest.clone(), vertex.clone());
        let step = &mut self.steps[group.step];
        for member in group.members.values() {
            if let Some(started) = &member.started {
                step.runs
                    .insert(nanos(started), member.completed.as_ref().map(nanos));
                // Weak members alone, such as the plumbing of a copy, show nothing.
                step.hidden &= member
                    .progress_group
                    .as_ref()
                    .is_some_and(|group| group.weak);
            }
        }
        step.cached = group.members.values().all(|member| member.cached);
        if let Some(failed) = group
            .members
            .values()
            .find(|member| !member.error.is_empty())
        {
            step.error.clone_from(&failed.error);
            step.hidden = false;
        }
        step.touch();
    }

    /// What failed, with its last lines, to be shown again at the end.
    pub(super) fn failures(&self) -> String {
        let mut text = String::new();
        let failed = |step: &&Step| !step.error.is_empty() && !step.was_canceled();
        for step in self.steps.iter().filter(failed) {
            text.push_str("------\n > ");
            text.push_str(&step.name);
            text.push_str(":\n");
            for line in &step.recent {
                text.push_str(line);
                text.push('\n');
            }
            text.push_str("------\n");
        }
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use prost_types::Timestamp;
    use shipway_proto::pb::ProgressGroup;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "messages hold optional times")]
    pub(in crate::progress) fn at(millis: i32) -> Option<Timestamp> {
        Some(Timestamp {
            seconds: 100 + i64::from(millis / 1000),
            nanos: millis % 1000 * 1_000_000,
        })
    }

    pub(in crate::progress) fn vertex(digest: &str, start: i32, stop: Option<i32>) -> Vertex {
        Vertex {
            digest: digest.into(),
            name: format!("name of {digest}"),
            started: at(start),
            completed: stop.and_then(at),
            ..Vertex::default()
        }
    }

    pub(in crate::progress) fn vertexes(vertexes: Vec<Vertex>) -> StatusResponse {
        StatusResponse {
            vertexes,
            ..StatusResponse::default()
        }
    }

    pub(in crate::progress) fn log(digest: &str, time: i32, text: &str) -> StatusResponse {
        let msg = text.to_owned().into();
        let log = VertexLog {
            vertex: digest.into(),
            timestamp: at(time),
            stream: 1,
            msg,
        };
        StatusResponse {
            logs: vec![log],
            ..StatusResponse::default()
        }
    }

    #[test]
    fn overlapping_runs_count_once() {
        let mut trace = Trace::default();
        trace.update(&vertexes(vec![
            vertex("a", 0, Some(1000)),
            vertex("a", 500, Some(2000)),
        ]));
        assert!(trace.steps[0].has_completed());
        assert!((trace.steps[0].duration(0) - 2.0).abs() < 1e-9);
        trace.update(&vertexes(vec![vertex("a", 3000, None)]));
        assert!(!trace.steps[0].has_completed());
    }

    #[test]
    fn lines_are_complete_and_stamped() {
        let mut trace = Trace::default();
        trace.update(&vertexes(vec![vertex("a", 0, None)]));
        trace.update(&log("a", 500, "one\ntw"));
        trace.update(&log("a", 900, "o\nthree"));
        assert_eq!(trace.steps[0].lines, ["0.500 one", "0.500 two"]);
        trace.update(&vertexes(vec![vertex("a", 0, Some(1000))]));
        assert_eq!(trace.steps[0].lines.last().unwrap(), "0.900 three");
    }

    #[test]
    fn groups_of_weak_members_stay_hidden() {
        let group = |weak| {
            Some(ProgressGroup {
                id: "g".into(),
                name: "group".into(),
                weak,
            })
        };
        let mut trace = Trace::default();
        let weak = Vertex {
            progress_group: group(true),
            ..vertex("a", 0, Some(1))
        };
        trace.update(&vertexes(vec![weak]));
        assert!(trace.steps[0].hidden);
        let strong = Vertex {
            progress_group: group(false),
            ..vertex("b", 1, Some(2))
        };
        trace.update(&vertexes(vec![strong]));
        assert!(!trace.steps[0].hidden);
        assert_eq!(trace.steps.len(), 1);
    }
}
