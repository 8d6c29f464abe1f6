//! Durations as Go writes them (`48h`, `1h30m`, `250ms`) or as whole seconds.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

/// The text is neither a duration in Go's notation nor a number of seconds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {0:?}: expected seconds or a text such as \"48h\" or \"1h30m\"")]
pub struct InvalidDuration(String);

/// Reads `text`.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let invalid = || InvalidDuration(text.to_owned());
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let number = number.parse::<f64>().map_err(|_| invalid())?;
        let part = Duration::try_from_secs_f64(number * unit_seconds(unit).ok_or_else(invalid)?)
            .map_err(|_| invalid())?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = tail;
    }
    Ok(total)
}

fn unit_seconds(unit: &str) -> Option<f64> {
    match unit {
        "ns" => Some(1e-9),
        "us" | "µs" | "μs" => Some(1e-6),
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Raw {
    Seconds(u64),
    Text(String),
}

/// For `#[serde(deserialize_with)]` on an optional key.
pub(crate) fn optional<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    match Option::<Raw>::deserialize(from)? {
        None => Ok(None),
        Some(Raw::Seconds(seconds)) => Ok(Some(Duration::from_secs(seconds))),
        Some(Raw::Text(text)) if text.is_empty() => Ok(None),
        Some(Raw::Text(text)) => parse_duration(&text).map(Some).map_err(D::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, seconds) in [
            ("172800", 172_800.0),
            ("48h", 172_800.0),
            ("1h30m", 5400.0),
            ("1.5h", 5400.0),
            ("250ms", 0.25),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_secs_f64(seconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "h", "12 h", "-1h", "3d", "1h30"] {
            assert_eq!(
                parse_duration(text),
                Err(InvalidDuration(text.to_owned())),
                "{text}"
            );
        }
    }
}
