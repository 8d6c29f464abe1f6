//! Keeps a build's progress events and replays them to any number of readers, also late ones. It decides no display.

use std::sync::Arc;

use parking_lot::Mutex;
use shipway_model::progress::{Event, Sink};
use tokio::sync::Notify;

/// Most bytes of step output that one build keeps for replay. BuildKit clips each step at 2 MiB; this bounds the sum.
const LOG_BUDGET: usize = 64 << 20;

/// Events of one build.
#[derive(Default)]
pub struct Progress {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    log_bytes: usize,
    closed: bool,
}

/// Reads a [`Progress`] from its beginning.
pub struct Reader {
    progress: Arc<Progress>,
    next: usize,
}

impl Progress {
    /// No more events will come; readers end.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_waiters();
    }

    /// A reader that sees every event from the first on.
    #[must_use]
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader {
            progress: Arc::clone(self),
            next: 0,
        }
    }

    /// Every event so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.state.lock().events.clone()
    }
}

impl Sink for Progress {
    fn send(&self, event: Event) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        if let Event::Log(log) = &event {
            state.log_bytes += log.data.len();
            if state.log_bytes > LOG_BUDGET {
                return;
            }
        }
        state.events.push(event);
        drop(state);
        self.changed.notify_waiters();
    }
}

impl Reader {
    /// The events since the last call, at least one; `None` after the last.
    pub async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            let changed = self.progress.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.progress.state.lock();
                if self.next < state.events.len() {
                    let batch = state.events[self.next..].to_vec();
                    self.next = state.events.len();
                    return Some(batch);
                }
                if state.closed {
                    return None;
                }
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use shipway_model::Digest;
    use shipway_model::progress::Log;

    use super::*;

    fn log(text: &'static str) -> Event {
        Event::Log(Log {
            vertex: Digest::of("v"),
            timestamp: jiff::Timestamp::UNIX_EPOCH,
            stream: 1,
            data: bytes::Bytes::from_static(text.as_bytes()),
        })
    }

    #[tokio::test]
    async fn a_late_reader_sees_everything_and_then_the_end() {
        let progress = Arc::new(Progress::default());
        progress.send(log("a"));
        let mut reader = progress.reader();
        assert_eq!(reader.next().await, Some(vec![log("a")]));
        progress.send(log("b"));
        progress.close();
        progress.send(log("after the end"));
        assert_eq!(reader.next().await, Some(vec![log("b")]));
        assert_eq!(reader.next().await, None);
        assert_eq!(
            progress.reader().next().await,
            Some(vec![log("a"), log("b")])
        );
    }
}
