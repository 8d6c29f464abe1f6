//! How long records stay. Pure: which of them go, given the time.

use std::time::Duration;

use jiff::Timestamp;

use crate::Record;

/// Bounds of the history. A record goes only where it is beyond both, as in BuildKit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Younger ones stay; `None` spares none for its age.
    pub max_age: Option<Duration>,
    /// That many of the newest stay; 0 records nothing at all, `None` spares none for its place.
    pub max_entries: Option<u64>,
}

impl Retention {
    /// True where builds are recorded.
    #[must_use]
    pub fn records(&self) -> bool {
        self.max_entries != Some(0)
    }

    /// Ids of the records that go. Pinned ones neither go nor count.
    #[must_use]
    pub(crate) fn surplus(&self, records: &[Record], now: Timestamp) -> Vec<(String, String)> {
        let mut loose: Vec<(Timestamp, &Record)> = records
            .iter()
            .filter(|record| !record.pinned)
            .filter_map(|record| Some((record.completed?, record)))
            .collect();
        loose.sort_by_key(|(completed, _)| std::cmp::Reverse(*completed));
        let spared = usize::try_from(self.max_entries.unwrap_or(0)).unwrap_or(usize::MAX);
        let age = i128::try_from(self.max_age.unwrap_or_default().as_nanos()).unwrap_or(i128::MAX);
        let old = |completed: &Timestamp| now.as_nanosecond() - completed.as_nanosecond() > age;
        loose
            .into_iter()
            .skip(spared)
            .filter(|(completed, _)| old(completed))
            .map(|(_, record)| (record.namespace.clone(), record.id.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, completed: i64, pinned: bool) -> Record {
        Record {
            completed: Some(Timestamp::from_second(completed).unwrap()),
            pinned,
            ..Record::begun(id, "n", Timestamp::UNIX_EPOCH)
        }
    }

    fn going(retention: Retention, now: i64) -> Vec<String> {
        let records = [
            record("old", 10, false),
            record("pinned", 5, true),
            record("older", 1, false),
            record("new", 95, false),
        ];
        let now = Timestamp::from_second(now).unwrap();
        let gone = retention.surplus(&records, now);
        gone.into_iter().map(|(_, id)| id).collect()
    }

    #[test]
    fn a_record_goes_when_it_is_beyond_both_bounds() {
        let bounds = |age: Option<u64>, entries| Retention {
            max_age: age.map(Duration::from_secs),
            max_entries: entries,
        };
        assert_eq!(going(bounds(Some(50), Some(1)), 100), ["old", "older"]);
        assert_eq!(going(bounds(Some(95), Some(1)), 100), ["older"]);
        assert_eq!(going(bounds(Some(50), Some(2)), 100), ["older"]);
        assert_eq!(going(bounds(Some(50), Some(9)), 100), [""; 0]);
        assert_eq!(going(bounds(None, None), 100), ["new", "old", "older"]);
    }
}
