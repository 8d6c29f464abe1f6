//! Where people read: lines on standard output, and durations in the form that fits them.

use std::{fmt::Display, io::Write as _, time::Duration};

/// Writes a line to standard output. A reader that went away is no error here.
pub fn say(line: impl Display) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        // Whoever read our output is gone; the work goes on so that everything is cleaned up.
    }
}

/// `duration` in milliseconds below a second, else in seconds.
#[must_use]
pub fn readable(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}
