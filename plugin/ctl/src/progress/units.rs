//! Sizes and times as text.

/// A size in decimal units, with two decimals from 1 kB on.
#[must_use]
pub(crate) fn bytes(size: i64) -> String {
    match scaled(size) {
        (_, "B") => format!("{size}B"),
        (value, unit) => format!("{value:.2}{unit}"),
    }
}

/// A size in decimal units, with as many decimals as it needs.
#[must_use]
pub(crate) fn short_bytes(size: i64) -> String {
    let (value, unit) = scaled(size);
    format!("{value}{unit}")
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sizes that large are rounded anyway"
)]
fn scaled(size: i64) -> (f64, &'static str) {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = size as f64;
    let mut unit = 0;
    while value.abs() >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    (value, units[unit])
}

/// Nanoseconds since 1970 of a wire time.
pub(super) fn nanos(time: &prost_types::Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

/// Nanoseconds since 1970.
pub(super) fn now() -> i128 {
    nanos(&std::time::SystemTime::now().into())
}

/// Nanoseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "milliseconds are shown")]
pub(super) fn seconds(nanos: i128) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal() {
        assert_eq!(bytes(0), "0B");
        assert_eq!(bytes(999), "999B");
        assert_eq!(bytes(1000), "1.00kB");
        assert_eq!(bytes(3_623_807), "3.62MB");
        assert_eq!(bytes(12_345_678_901), "12.35GB");
        assert_eq!(short_bytes(512_000_000), "512MB");
    }
}
