//! Shows what a build does. Decides when to show and in which form; `trace` decides what there is to show.

mod json;
mod metrics;
mod plain;
mod trace;
mod tty;
mod units;

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use shipway_proto::control::StatusResponse;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

pub(crate) use json::time as format_time;
pub(crate) use metrics::Metrics;
pub(crate) use units::{bytes as format_bytes, short_bytes as format_short_bytes};

use crate::error::Error;

/// Shortest time between two repaints.
const REPAINT: Duration = Duration::from_millis(100);

/// Longest time between two repaints.
const TICK: Duration = Duration::from_millis(150);

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Live on a terminal, plain otherwise.
    #[default]
    Auto,
    /// Lines of text.
    Plain,
    /// A repainted list; needs a terminal.
    Tty,
    /// Each event as a line of JSON.
    Rawjson,
    /// Nothing.
    Quiet,
}

/// One form of showing progress.
trait Display: Send {
    /// Takes an event in; may show nothing yet.
    fn update(&mut self, event: &StatusResponse);
    /// Shows the state as it is.
    fn repaint(&mut self);
    /// Shows the last state, and what failed.
    fn finish(&mut self);
}

struct Nothing;

impl Display for Nothing {
    fn update(&mut self, _: &StatusResponse) {}
    fn repaint(&mut self) {}
    fn finish(&mut self) {}
}

/// Where progress goes: to the eye, and to files that were asked for.
pub(crate) struct Progress {
    display: Box<dyn Display>,
    record: Option<json::Lines<std::fs::File>>,
    pub(crate) metrics: Option<Metrics>,
}

impl Progress {
    /// Sets up a display on standard error.
    pub(crate) fn new(mode: Mode) -> Result<Self, Error> {
        let terminal = std::io::stderr().is_terminal();
        let display: Box<dyn Display> = match (mode, terminal) {
            (Mode::Auto | Mode::Tty, true) => Box::new(tty::Tty::new(std::io::stderr())),
            (Mode::Tty, false) => {
                return Err(Error::flag(
                    "--progress",
                    "tty needs a terminal on standard error",
                ));
            }
            (Mode::Auto | Mode::Plain, _) => Box::new(plain::Plain::new(std::io::stderr())),
            (Mode::Rawjson, _) => Box::new(json::Lines::new(std::io::stderr())),
            (Mode::Quiet, _) => Box::new(Nothing),
        };
        Ok(Self {
            display,
            record: None,
            metrics: None,
        })
    }

    /// Also appends each event to a file.
    pub(crate) fn record_to(&mut self, path: &Path) -> Result<(), Error> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let opened = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path);
        self.record = Some(json::Lines::new(
            opened.map_err(Error::file("opening", path))?,
        ));
        Ok(())
    }

    /// Shows events until there are no more.
    pub(crate) async fn show(&mut self, mut events: mpsc::Receiver<StatusResponse>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut painted: Option<Instant> = None;
        loop {
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { break };
                    self.take(&event);
                    if painted.is_none_or(|at| at.elapsed() >= REPAINT) {
                        self.display.repaint();
                        painted = Some(Instant::now());
                    }
                }
                _ = tick.tick() => {
                    self.display.repaint();
                    painted = Some(Instant::now());
                }
            }
        }
        self.display.finish();
    }

    fn take(&mut self, event: &StatusResponse) {
        self.display.update(event);
        if let Some(record) = &mut self.record {
            record.update(event);
        }
        if let Some(metrics) = &mut self.metrics {
            metrics.update(event);
        }
    }
}

/// Writes to a stream whose reader may be gone: progress is not worth failing a build for.
fn put(to: &mut impl Write, text: &str) {
    let _gone = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}
