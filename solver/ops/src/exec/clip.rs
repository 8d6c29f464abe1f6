//! How much of a step's output is shown: BuildKit's limits of 2 MiB in all and 200 KiB a second, per stream. The last
//! pieces that were withheld are kept, to be shown if the step fails.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

/// Limits of one stream; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes in all.
    pub total: Option<usize>,
    /// Bytes per started second.
    pub per_second: Option<usize>,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            total: Some(2 << 20),
            per_second: Some(200 << 10),
        }
    }
}

/// Withheld output that is kept for a failure, in bytes.
const TAIL: usize = 256 << 10;

/// The clipper of one stream.
#[derive(Debug, Default)]
pub(super) struct Clip {
    limits: LogLimits,
    shown: usize,
    clipped: bool,
    tail: VecDeque<Bytes>,
    tail_bytes: usize,
}

impl Clip {
    pub(super) fn new(limits: LogLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// What to show of a piece that came `since` the step's start.
    pub(super) fn take(&mut self, piece: Bytes, since: Duration) -> Vec<Bytes> {
        let seconds = usize::try_from(since.as_secs())
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        let by_speed = self
            .limits
            .per_second
            .map(|limit| limit.saturating_mul(seconds));
        let after = self.shown + piece.len();
        let fits = |limit: Option<usize>| limit.is_none_or(|limit| after <= limit);
        if fits(self.limits.total) && fits(by_speed) {
            self.shown += piece.len();
            self.clipped = false;
            return vec![piece];
        }
        let reason = if fits(self.limits.total) {
            self.speed()
        } else {
            self.total()
        };
        self.keep(piece);
        if std::mem::replace(&mut self.clipped, true) {
            return Vec::new();
        }
        vec![format!("\n[output clipped, log limit {reason} reached]\n").into()]
    }

    /// What was withheld last, for a step that failed.
    pub(super) fn withheld(&mut self) -> Vec<Bytes> {
        self.tail_bytes = 0;
        self.tail.drain(..).collect()
    }

    fn keep(&mut self, piece: Bytes) {
        self.tail_bytes += piece.len();
        self.tail.push_back(piece);
        while self.tail_bytes > TAIL {
            let Some(oldest) = self.tail.pop_front() else {
                break;
            };
            self.tail_bytes -= oldest.len();
        }
    }

    fn speed(&self) -> String {
        format!("{}KiB/s", self.limits.per_second.unwrap_or_default() >> 10)
    }

    fn total(&self) -> String {
        format!("{}MiB", self.limits.total.unwrap_or_default() >> 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(size: usize) -> Bytes {
        vec![b'x'; size].into()
    }

    #[test]
    fn a_fast_stream_is_clipped_once_and_goes_on_later() {
        let mut clip = Clip::new(LogLimits::default());
        let now = Duration::ZERO;
        assert_eq!(clip.take(piece(150 << 10), now).len(), 1);
        let note = clip.take(piece(100 << 10), now);
        assert_eq!(note, ["\n[output clipped, log limit 200KiB/s reached]\n"]);
        assert!(clip.take(piece(100 << 10), now).is_empty());
        assert_eq!(
            clip.take(piece(1 << 10), Duration::from_secs(2)),
            [piece(1 << 10)]
        );
        assert_eq!(clip.withheld().len(), 2);
    }

    #[test]
    fn the_kept_tail_is_bounded() {
        let limits = LogLimits {
            total: Some(0),
            per_second: None,
        };
        let mut clip = Clip::new(limits);
        for _ in 0..100 {
            clip.take(piece(64 << 10), Duration::ZERO);
        }
        assert_eq!(clip.withheld().len(), 4);
    }
}
