//! Progress as lines of text: steps are numbered, and one step at a time has the floor. Decides who has it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, Instant};

use shipway_proto::control::{StatusResponse, VertexStatus};

use super::trace::{Step, Trace};
use super::units::{bytes, nanos, now, seconds};
use super::{Display, put};

/// A step with news waits at most this long while another has the floor.
const PATIENCE: Duration = Duration::from_secs(10);

/// Least time between two lines about the same status, unless it moved by `LEAP`.
const STATUS_PAUSE: f64 = 5.0;

/// Share of the whole by which a status must move to be worth a line.
const LEAP: f64 = 0.05;

/// Plain text.
pub(super) struct Plain<W> {
    to: W,
    trace: Trace,
    floor: Floor,
}

/// Who is shown, and what was shown of them.
#[derive(Default)]
struct Floor {
    /// The step that was shown last, if it goes on.
    holder: Option<usize>,
    /// Numbers by index of the step.
    numbers: HashMap<usize, usize>,
    /// Since when a step has news that were not shown.
    waiting: HashMap<usize, Instant>,
    statuses: HashMap<(usize, usize), (i64, i128)>,
    /// Warnings shown, by index of the step.
    warned: HashMap<usize, usize>,
    out: String,
}

impl<W: Write + Send> Plain<W> {
    pub(super) fn new(to: W) -> Self {
        Self {
            to,
            trace: Trace::default(),
            floor: Floor::default(),
        }
    }
}

impl<W: Write + Send> Display for Plain<W> {
    fn update(&mut self, event: &StatusResponse) {
        self.trace.update(event);
    }

    fn repaint(&mut self) {
        self.floor.show(&mut self.trace.steps);
        put(&mut self.to, &std::mem::take(&mut self.floor.out));
    }

    fn finish(&mut self) {
        self.floor.show_all(&mut self.trace.steps);
        put(&mut self.to, &std::mem::take(&mut self.floor.out));
        put(&mut self.to, &self.trace.failures());
    }
}

impl Floor {
    fn show_all(&mut self, steps: &mut [Step]) {
        self.show(steps);
        for at in 0..steps.len() {
            if steps[at].changed && !steps[at].hidden && steps[at].has_started() {
                self.step(steps, at);
            }
        }
    }

    fn show(&mut self, steps: &mut [Step]) {
        let news = |steps: &[Step], completed: bool| -> Vec<usize> {
            let wanted = |step: &Step| {
                step.changed
                    && !step.hidden
                    && step.has_started()
                    && step.has_completed() == completed
            };
            (0..steps.len()).filter(|at| wanted(&steps[*at])).collect()
        };
        let mut completed = news(steps, true);
        completed.sort_by_key(|at| (self.holder != Some(*at), steps[*at].completed()));
        for at in completed {
            self.step(steps, at);
        }
        let running = news(steps, false);
        for at in &running {
            self.waiting.entry(*at).or_insert_with(Instant::now);
        }
        if let Some(next) = self.next(steps, &running) {
            self.step(steps, next);
        }
    }

    /// Who is shown next: the holder while it has news and nobody waits too long, else whoever has most to say.
    fn next(&self, steps: &[Step], running: &[usize]) -> Option<usize> {
        let overdue = |at: &&usize| {
            self.waiting
                .get(*at)
                .is_some_and(|since| since.elapsed() > PATIENCE)
        };
        let Some(holder) = self.holder.filter(|at| !steps[*at].has_completed()) else {
            let loudest = running.iter().copied().max_by_key(|at| steps[*at].weight);
            let open = |step: &Step| step.has_started() && !step.has_completed() && !step.hidden;
            return loudest.or_else(|| steps.iter().position(open));
        };
        let others = running.iter().filter(|at| **at != holder);
        let kept = || running.iter().find(|at| **at == holder);
        others.clone().find(overdue).or_else(kept).copied()
    }

    fn line(&mut self, number: usize, text: &str) {
        writeln!(self.out, "#{number} {text}").expect("a String takes everything");
    }

    fn step(&mut self, steps: &mut [Step], at: usize) {
        let count = self.numbers.len();
        let number = *self.numbers.entry(at).or_insert(count + 1);
        if self.holder != Some(at) {
            if let Some(old) = self.holder {
                let old = self.numbers[&old];
                self.line(old, "...");
            }
            if count > 0 {
                self.out.push('\n');
            }
            self.line(number, &steps[at].name);
        }
        let open = self.news(&mut steps[at], at, number);
        self.holder = Some(at);
        self.waiting.remove(&at);
        let step = &mut steps[at];
        step.changed = false;
        step.weight = 0;
        if step.has_completed() && !open {
            self.holder = None;
            let text = ending(step);
            self.line(number, &text);
        }
    }

    /// Statuses, warnings and output. True if a status goes on although the step is over.
    fn news(&mut self, step: &mut Step, at: usize, number: usize) -> bool {
        let mut open = false;
        for index in std::mem::take(&mut step.changed_statuses) {
            let status = &step.statuses[index];
            open |= status.completed.is_none();
            if self.worth_a_line((at, index), status) {
                self.line(number, &status_line(status));
            }
        }
        let shown = self.warned.insert(at, step.warnings.len()).unwrap_or(0);
        for warning in &step.warnings[shown..] {
            self.line(number, &format!("WARN: {warning}"));
        }
        for line in std::mem::take(&mut step.lines) {
            self.line(number, &line);
        }
        open
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a share is compared with a rough limit"
    )]
    fn worth_a_line(&mut self, key: (usize, usize), status: &VertexStatus) -> bool {
        let time = status.timestamp.as_ref().map_or(0, nanos);
        if let (Some((current, shown)), None) = (self.statuses.get(&key), &status.completed) {
            let moved = match status.total {
                0 => 0.0,
                total => (status.current - current) as f64 / total as f64,
            };
            if moved < LEAP && seconds(time - shown) < STATUS_PAUSE {
                return false;
            }
        }
        self.statuses.insert(key, (status.current, time));
        true
    }
}

fn status_line(status: &VertexStatus) -> String {
    let mut text = status.id.clone();
    match (status.current, status.total) {
        (0, 0) => {}
        (current, 0) => text = format!("{text} {}", bytes(current)),
        (current, total) => text = format!("{text} {} / {}", bytes(current), bytes(total)),
    }
    let end = status.completed.as_ref().or(status.timestamp.as_ref());
    if let (Some(start), Some(end)) = (&status.started, end) {
        let took = seconds(nanos(end) - nanos(start));
        if took > 0.01 {
            text = format!("{text} {took:.1}s");
        }
    }
    if status.completed.is_some() {
        text.push_str(" done");
    }
    text
}

fn ending(step: &Step) -> String {
    match step.error.as_str() {
        "" if step.cached => "CACHED".to_owned(),
        "" => format!("DONE {:.1}s", step.duration(now())),
        _ if step.was_canceled() => "CANCELED".to_owned(),
        error => format!("ERROR: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use shipway_proto::control::Vertex;

    use super::super::trace::tests::{at, log, vertex, vertexes};
    use super::*;

    fn shown(events: &[StatusResponse]) -> String {
        let mut out = Vec::new();
        let mut plain = Plain::new(&mut out);
        for event in events {
            plain.update(event);
            plain.repaint();
        }
        plain.finish();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn steps_are_numbered_and_ended() {
        let failed = Vertex {
            error: "exit code: 1".into(),
            ..vertex("c", 0, Some(10))
        };
        let cached = Vertex {
            cached: true,
            ..vertex("b", 3, Some(3))
        };
        let text = shown(&[
            vertexes(vec![vertex("a", 0, None)]),
            log("a", 100, "hello\n"),
            vertexes(vec![vertex("a", 0, Some(1500))]),
            vertexes(vec![cached]),
            vertexes(vec![vertex("c", 0, None)]),
            log("c", 5, "bad\n"),
            vertexes(vec![failed]),
        ]);
        let expected = "#1 name of a\n#1 0.100 hello\n#1 DONE 1.5s\n\n#2 name of b\n#2 CACHED\n\n\
            #3 name of c\n#3 0.005 bad\n#3 ERROR: exit code: 1\n------\n > name of c:\n0.005 bad\n------\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn statuses_are_shown_when_they_move() {
        let status = |current, done: Option<i32>| {
            let status = VertexStatus {
                id: "sha256:x".into(),
                vertex: "a".into(),
                current,
                total: 1000,
                timestamp: at(100),
                started: at(0),
                completed: done.and_then(at),
                ..VertexStatus::default()
            };
            StatusResponse {
                statuses: vec![status],
                ..StatusResponse::default()
            }
        };
        let text = shown(&[
            vertexes(vec![vertex("a", 0, None)]),
            status(0, None),
            status(10, None),
            status(500, None),
            status(1000, Some(200)),
            vertexes(vec![vertex("a", 0, Some(200))]),
        ]);
        let expected = "#1 name of a\n#1 sha256:x 0B / 1.00kB 0.1s\n#1 sha256:x 500B / 1.00kB 0.1s\n\
            #1 sha256:x 1.00kB / 1.00kB 0.2s done\n#1 DONE 0.2s\n";
        assert_eq!(text, expected);
    }
}
