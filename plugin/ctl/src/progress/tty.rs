//! Progress on a terminal: a list that is repainted in place, with the last output of steps that run.

use std::fmt::Write as _;
use std::io::Stderr;

use shipway_proto::control::StatusResponse;

use super::trace::{Step, Trace};
use super::units::{bytes, nanos, now, seconds};
use super::{Display, put};

/// How many lines of output are shown under a running step.
const OUTPUT_LINES: usize = 6;

const GREEN_OFF: &str = "\x1b[0m";
const BLUE: &str = "\x1b[34m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const FAINT: &str = "\x1b[2m";

/// A repainted list.
pub(super) struct Tty {
    to: Stderr,
    trace: Trace,
    painted: usize,
}

impl Tty {
    pub(super) fn new(to: Stderr) -> Self {
        Self {
            to,
            trace: Trace::default(),
            painted: 0,
        }
    }

    fn paint(&mut self, last: bool) {
        let size = rustix::termios::tcgetwinsize(&self.to).ok();
        let (width, height) = size
            .map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)))
            .filter(|(width, height)| *width > 0 && *height > 0)
            .unwrap_or((80, 24));
        let limit = if last {
            usize::MAX
        } else {
            height.saturating_sub(1)
        };
        let lines = lines(&self.trace, now(), width, limit, last);
        let mut out = String::from("\x1b[?25l");
        if self.painted > 0 {
            write!(out, "\x1b[{}A", self.painted).expect("a String takes everything");
        }
        for line in &lines {
            write!(out, "\r\x1b[K{line}{GREEN_OFF}\n").expect("a String takes everything");
        }
        out.push_str("\x1b[J\x1b[?25h");
        self.painted = lines.len();
        put(&mut self.to, &out);
    }
}

impl Display for Tty {
    fn update(&mut self, event: &StatusResponse) {
        self.trace.update(event);
        for step in &mut self.trace.steps {
            // Shown from `recent`; kept lines would only grow.
            step.lines.clear();
            step.changed_statuses.clear();
        }
    }

    fn repaint(&mut self) {
        self.paint(false);
    }

    fn finish(&mut self) {
        self.paint(true);
        put(&mut self.to, &self.trace.failures());
    }
}

/// The list as lines no wider than the terminal. Finished steps give way when there is no room for all.
fn lines(trace: &Trace, now: i128, width: usize, limit: usize, last: bool) -> Vec<String> {
    let shown: Vec<&Step> = trace.steps.iter().filter(|step| !step.hidden).collect();
    let completed = shown.iter().filter(|step| step.has_completed()).count();
    let elapsed = trace
        .started
        .map_or(0.0, |start| seconds(now - start).max(0.0));
    let ended = if last && completed == shown.len() {
        " FINISHED"
    } else {
        ""
    };
    let head = format!(
        "[+] Building {elapsed:.1}s ({completed}/{}){ended}",
        shown.len()
    );
    let mut body: Vec<(bool, String)> = Vec::new();
    let mut started: Vec<&&Step> = shown.iter().filter(|step| step.has_started()).collect();
    started.sort_by_key(|step| step.runs.first_key_value().map(|(start, _)| *start));
    for step in started {
        let running = !step.has_completed();
        body.push((running, step_line(step, now, width)));
        for status in &step.statuses {
            body.push((
                running && status.completed.is_none(),
                status_line(status, now, width),
            ));
        }
        for warning in &step.warnings {
            body.push((
                false,
                format!("{YELLOW}{}", fit(&format!(" => => WARN: {warning}"), width)),
            ));
        }
        if running {
            let from = step.recent.len().saturating_sub(OUTPUT_LINES);
            let output = step.recent.iter().skip(from);
            body.extend(output.map(|line| {
                (
                    true,
                    format!(
                        "{FAINT}{}",
                        fit(&format!(" => => # {}", printable(line)), width)
                    ),
                )
            }));
        }
    }
    let mut surplus = (body.len() + 1).saturating_sub(limit);
    body.retain(|(running, _)| {
        let drop = surplus > 0 && !running;
        surplus -= usize::from(drop);
        !drop
    });
    let skip = body.len().saturating_sub(limit.saturating_sub(1));
    let mut lines = vec![fit(&head, width)];
    lines.extend(body.into_iter().skip(skip).map(|(_, line)| line));
    lines
}

fn step_line(step: &Step, now: i128, width: usize) -> String {
    let (mark, color) = match step.error.as_str() {
        "" if step.cached => ("CACHED ", BLUE),
        "" if step.has_completed() => ("", BLUE),
        "" => ("", ""),
        _ if step.was_canceled() => ("CANCELED ", YELLOW),
        _ => ("ERROR ", RED),
    };
    let name = format!(" => {mark}{}", step.name.replace('\t', " "));
    format!("{color}{}", aligned(&name, step.duration(now), width))
}

fn status_line(status: &shipway_proto::control::VertexStatus, now: i128, width: usize) -> String {
    let amount = match (status.current, status.total) {
        (0, 0) => String::new(),
        (current, 0) => format!(" {}", bytes(current)),
        (current, total) => format!(" {} / {}", bytes(current), bytes(total)),
    };
    let start = status.started.as_ref().map_or(now, nanos);
    let took = seconds(status.completed.as_ref().map_or(now, nanos) - start).max(0.0);
    let color = if status.completed.is_some() { BLUE } else { "" };
    format!(
        "{color}{}",
        aligned(&format!(" => => {}{amount}", status.id), took, width)
    )
}

/// Text at the left, a time at the right.
fn aligned(text: &str, took: f64, width: usize) -> String {
    let took = if took < 0.05 { 0.0 } else { took };
    let time = format!(" {took:.1}s");
    let left = width.saturating_sub(time.len());
    let text = fit(text, left);
    let pad = left.saturating_sub(text.chars().count());
    format!("{text}{}{time}", " ".repeat(pad))
}

fn fit(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// Output without what would move the cursor: the last overwrite of a line, escape sequences dropped.
fn printable(line: &str) -> String {
    let line = line
        .rsplit('\r')
        .find(|part| !part.is_empty())
        .unwrap_or_default();
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                let ends = |c: &char| !c.is_ascii_alphabetic();
                if chars.clone().next() == Some('[') {
                    chars.by_ref().take_while(ends).for_each(drop);
                }
            }
            '\t' => out.push(' '),
            control if control.is_control() => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::trace::tests::{log, vertex, vertexes};
    use super::*;

    #[test]
    fn running_steps_stay_when_room_is_short() {
        let mut trace = Trace::default();
        trace.update(&vertexes(vec![
            vertex("a", 0, Some(1000)),
            vertex("b", 0, None),
        ]));
        trace.update(&log("b", 100, "out\x1b[31mput\n"));
        let now = 102_000_000_000;
        let all = lines(&trace, now, 40, 10, false);
        assert_eq!(all.len(), 4);
        assert_eq!(all[0], "[+] Building 2.0s (1/2)");
        assert_eq!(all[1], format!("{BLUE}{:<35} 1.0s", " => name of a"));
        assert_eq!(all[3], format!("{FAINT} => => # 0.100 output"));
        let few = lines(&trace, now, 40, 3, false);
        assert_eq!(few.len(), 3);
        assert!(few[1].starts_with(" => name of b"));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut trace = Trace::default();
        trace.update(&vertexes(vec![vertex(&"x".repeat(200), 0, None)]));
        for line in lines(&trace, 101_000_000_000, 30, 10, true) {
            assert!(line.chars().count() <= 30, "{line}");
        }
    }
}
