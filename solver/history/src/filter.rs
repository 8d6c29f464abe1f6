//! Which records a query asks for: BuildKit's filters of the history (`ref==X`, `status==error`, `repository~=…`,
//! `startedAt>1h`, `duration>=2m`), fields of one joined by commas that mean "and", several of them meaning "or". Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use shipway_patterns::filter::{Filters, InvalidFilter};

use crate::Record;

/// Why a query is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuery {
    /// A field's time cannot be read.
    #[error("invalid time {0}")]
    Time(String),
    /// A field's duration cannot be read.
    #[error("invalid duration {0}")]
    Duration(String),
    /// A field is no filter.
    #[error("failed to parse history filters")]
    Filter(#[source] InvalidFilter),
    /// Below zero.
    #[error("invalid limit {0}")]
    Limit(i32),
}

/// A filter that was read.
#[derive(Debug)]
pub(crate) struct RecordFilter {
    times: Vec<TimeTest>,
    fields: Filters,
}

#[derive(Debug, Clone, Copy)]
enum Measure {
    Started,
    Completed,
    Duration,
}

#[derive(Debug)]
struct TimeTest {
    measure: Measure,
    sign: &'static str,
    than: i128,
}

impl RecordFilter {
    /// Reads one filter; times are relative to `now`.
    pub(crate) fn parse(text: &str, now: Timestamp) -> Result<Self, InvalidQuery> {
        let mut times = Vec::new();
        let mut fields = Vec::new();
        for field in text.split(',') {
            match time_test(field, now)? {
                Some(test) => times.push(test),
                None => fields.push(field),
            }
        }
        let fields = fields.join(",");
        let fields = Filters::parse([fields.as_str()]).map_err(InvalidQuery::Filter)?;
        Ok(Self { times, fields })
    }

    pub(crate) fn matches(&self, record: &Record) -> bool {
        self.times.iter().all(|test| test.holds(record))
            && self.fields.matches(|path| field(record, path))
    }
}

impl TimeTest {
    fn holds(&self, record: &Record) -> bool {
        let seconds = |at: Timestamp| i128::from(at.as_second());
        let completed = record.completed;
        let value = match self.measure {
            Measure::Started => seconds(record.created),
            Measure::Completed => completed.map_or(0, seconds),
            Measure::Duration => completed.map_or(0, |completed| {
                completed.as_nanosecond() - record.created.as_nanosecond()
            }),
        };
        match self.sign {
            ">=" => value >= self.than,
            "<=" => value <= self.than,
            ">" => value > self.than,
            _ => value < self.than,
        }
    }
}

/// The test of a field that compares times; `None` for any other field.
fn time_test(field: &str, now: Timestamp) -> Result<Option<TimeTest>, InvalidQuery> {
    let signs = [">=", "<=", ">", "<"];
    let split = signs.into_iter().find_map(|sign| {
        field
            .split_once(sign)
            .map(|(key, value)| (key, sign, value))
    });
    let Some((key, sign, value)) = split else {
        return Ok(None);
    };
    let measure = match key {
        "startedAt" => Measure::Started,
        "completedAt" => Measure::Completed,
        "duration" => Measure::Duration,
        _ => return Ok(None),
    };
    let than = match (measure, go_duration(value)) {
        (Measure::Duration, Some(duration)) => i128::try_from(duration.as_nanos())
            .map_err(|_| InvalidQuery::Duration(value.to_owned()))?,
        (Measure::Duration, None) => return Err(InvalidQuery::Duration(value.to_owned())),
        (_, Some(ago)) => {
            let ago = SignedDuration::try_from(ago).unwrap_or(SignedDuration::MAX);
            let at = now.checked_sub(ago).unwrap_or(Timestamp::MIN);
            i128::from(at.as_second())
        }
        (_, None) => {
            let at: Result<Timestamp, _> = value.parse();
            i128::from(
                at.map_err(|_| InvalidQuery::Time(value.to_owned()))?
                    .as_second(),
            )
        }
    };
    Ok(Some(TimeTest {
        measure,
        sign,
        than,
    }))
}

/// A duration as Go writes one: `1h30m`, `1.5s`, `300ms`.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum += number * unit;
        rest = &rest[end..];
    }
    (!text.is_empty())
        .then(|| Duration::try_from_secs_f64(sum).ok())
        .flatten()
}

fn field(record: &Record, path: &[&str]) -> Option<String> {
    match *path.first()? {
        "ref" => Some(record.id.clone()).filter(|id| !id.is_empty()),
        "status" => Some(status(record).to_owned()),
        "repository" => repository(record),
        _ => None,
    }
}

fn status(record: &Record) -> &'static str {
    match (&record.completed, &record.error) {
        (None, _) => "running",
        (Some(_), None) => "completed",
        (Some(_), Some(error)) if error.message.contains("context canceled") => "canceled",
        (Some(_), Some(_)) => "error",
    }
}

/// Where the sources come from: what the client says, else the git repository that is the context.
fn repository(record: &Record) -> Option<String> {
    if let Some(source) = record.options.get("vcs:source") {
        return Some(source.clone());
    }
    let context = record.options.get("context")?;
    let remote = context.split(['#', '?']).next().unwrap_or_default();
    let is_git = context.starts_with("git@")
        || context.starts_with("ssh://")
        || context.starts_with("git://")
        || remote.strip_suffix(".git").is_some();
    is_git.then(|| remote.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;

    fn record() -> Record {
        Record {
            completed: Timestamp::from_second(1_100).ok(),
            error: Some(Outcome {
                code: 2,
                message: "boom".into(),
            }),
            options: [("context".to_owned(), "https://x.y/z.git#main".to_owned())].into(),
            ..Record::begun("abc", "n", Timestamp::from_second(1_000).unwrap())
        }
    }

    #[test]
    fn filters_of_the_history() {
        let now = Timestamp::from_second(2_000).unwrap();
        for (filter, matched) in [
            ("", true),
            ("ref==abc", true),
            ("ref==abd", false),
            ("status==error,ref~=^a", true),
            ("status==completed", false),
            ("repository==https://x.y/z.git", true),
            ("duration>1m", true),
            ("duration>=1m41s", false),
            ("startedAt>20m", true),
            ("startedAt>10m", false),
            ("completedAt<1970-01-01T00:20:00Z,status==error", true),
        ] {
            let parsed = RecordFilter::parse(filter, now).unwrap();
            assert_eq!(parsed.matches(&record()), matched, "{filter}");
        }
        for filter in ["duration>soon", "startedAt>soon", "ref=x"] {
            assert!(RecordFilter::parse(filter, now).is_err(), "{filter}");
        }
    }
}
