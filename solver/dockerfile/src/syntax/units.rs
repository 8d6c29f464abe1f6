//! Durations and sizes as people write them in instructions: `1m30s`, `64m`.

use crate::error::SyntaxError;

/// Nanoseconds of a Go-style duration: a sign, then numbers with units (`h m s ms us µs ns`).
pub(super) fn duration(text: &str) -> Result<i64, SyntaxError> {
    let bad = || SyntaxError::Duration(text.to_owned());
    let (rest, sign) = match text.strip_prefix('-') {
        Some(rest) => (rest, -1),
        None => (text.strip_prefix('+').unwrap_or(text), 1),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = 0_i128;
    let mut rest = rest;
    while !rest.is_empty() {
        let digit = |c: char| c.is_ascii_digit() || c == '.';
        let end = rest.find(|c| !digit(c)).unwrap_or(rest.len());
        let (number, behind) = rest.split_at(end);
        if number.trim_matches('.').is_empty() {
            return Err(bad());
        }
        let end = behind.find(digit).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let scale = scale(unit).ok_or_else(|| match unit {
            "" => SyntaxError::DurationUnit(text.to_owned()),
            unit => SyntaxError::UnknownUnit {
                unit: unit.to_owned(),
                text: text.to_owned(),
            },
        })?;
        total += scaled(number, scale).ok_or_else(bad)?;
        rest = behind;
    }
    i64::try_from(total * sign).map_err(|_| bad())
}

fn scale(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

fn scaled(number: &str, scale: i128) -> Option<i128> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && part.is_empty() || number.len() > 30 {
        return None;
    }
    let digits = |text: &str| {
        if text.is_empty() {
            Some(0)
        } else {
            text.parse::<i128>().ok()
        }
    };
    // More than 12 places are below a nanosecond for every unit.
    let part = part.get(..12).unwrap_or(part);
    let divisor = 10_i128.pow(u32::try_from(part.len()).ok()?);
    Some(digits(whole)?.checked_mul(scale)? + digits(part)? * scale / divisor)
}

/// Bytes of a size with a binary unit: `64`, `64k`, `1.5g`, `2MiB`.
pub(super) fn bytes(text: &str) -> Option<i64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.')? + 1;
    let (number, unit) = text.split_at(end);
    let number: f64 = number.trim().parse().ok().filter(|n: &f64| *n >= 0.0)?;
    let unit = unit.trim().to_ascii_lowercase();
    let power = match unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fractions of a byte do not exist"
    )]
    let bytes = (number * 1024_f64.powi(power)) as i64;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let cases = [
            ("0", Some(0)),
            ("5s", Some(5_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            ("-1ms", Some(-1_000_000)),
            (".5s", Some(500_000_000)),
            ("2\u{b5}s", Some(2_000)),
            ("5", None),
            ("s", None),
            ("", None),
            ("1d", None),
            ("99999999999999h", None),
        ];
        for (text, want) in cases {
            assert_eq!(duration(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        let cases = [
            ("64", Some(64)),
            ("1k", Some(1024)),
            ("1.5 GiB", Some(1_610_612_736)),
            ("2mb", Some(2 << 20)),
            ("x", None),
            ("-1", None),
            ("1x", None),
        ];
        for (text, want) in cases {
            assert_eq!(bytes(text), want, "{text}");
        }
    }
}
