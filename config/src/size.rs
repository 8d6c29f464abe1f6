//! An amount of storage: bytes, or a part of the disk. Units are binary whatever their spelling, as in BuildKit.

use std::str::FromStr;

use serde::Deserialize;

/// An amount of disk space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawSize")]
pub enum DiskSpace {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the disk's size.
    Percent(u8),
}

/// The text is neither a number of bytes, nor one with a unit, nor a percentage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid disk space {0:?}: expected bytes, a number with a unit (\"512MB\") or a percentage (\"10%\")"
)]
pub struct InvalidSize(String);

/// BuildKit takes this much when the disk's size is not known.
const WITHOUT_DISK: u64 = 2_000_000_000;

impl DiskSpace {
    /// In bytes, on a disk of `total` bytes; percentages are rounded up to the next GB, as BuildKit does.
    #[must_use]
    pub fn bytes(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(0) => 0,
            Self::Percent(_) if total == 0 => WITHOUT_DISK,
            Self::Percent(percent) => {
                let part = u128::from(total) * u128::from(percent) / 100;
                u64::try_from((part / (1 << 30) + 1) * 1_000_000_000).unwrap_or(u64::MAX)
            }
        }
    }
}

impl FromStr for DiskSpace {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let invalid = || InvalidSize(text.to_owned());
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.trim().parse::<u8>().map_err(|_| invalid())?;
            return if percent <= 100 {
                Ok(Self::Percent(percent))
            } else {
                Err(invalid())
            };
        }
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = unit_shift(unit.trim()).ok_or_else(invalid)?;
        scaled(number, shift).map(Self::Bytes).ok_or_else(invalid)
    }
}

/// Powers of two: `k` and `kB` and `KiB` are all 1024.
fn unit_shift(unit: &str) -> Option<u32> {
    let unit = unit.to_ascii_lowercase();
    let prefix = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(&unit);
    match prefix {
        "" => Some(0),
        "k" => Some(10),
        "m" => Some(20),
        "g" => Some(30),
        "t" => Some(40),
        "p" => Some(50),
        _ => None,
    }
}

/// `number` (decimal, at most nine digits after the point) times two to the power of `shift`.
fn scaled(number: &str, shift: u32) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<u128>().ok()?.checked_mul(1 << shift)?;
    let part = match fraction {
        "" => 0,
        digits if digits.len() <= 9 => {
            let unit = 10_u128.pow(u32::try_from(digits.len()).ok()?);
            (digits.parse::<u128>().ok()? << shift) / unit
        }
        _ => return None,
    };
    u64::try_from(whole.checked_add(part)?).ok()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawSize {
    Bytes(u64),
    Text(String),
}

impl TryFrom<RawSize> for DiskSpace {
    type Error = InvalidSize;

    fn try_from(raw: RawSize) -> Result<Self, InvalidSize> {
        match raw {
            RawSize::Bytes(bytes) => Ok(Self::Bytes(bytes)),
            RawSize::Text(text) => text.parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_buildkit_reads_them() {
        for (text, want) in [
            ("512000000", DiskSpace::Bytes(512_000_000)),
            ("512MB", DiskSpace::Bytes(512 << 20)),
            ("512MiB", DiskSpace::Bytes(512 << 20)),
            ("1.5 GB", DiskSpace::Bytes(3 << 29)),
            ("20g", DiskSpace::Bytes(20 << 30)),
            ("10%", DiskSpace::Percent(10)),
        ] {
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "MB",
            "12XB",
            "-1",
            "101%",
            "1..2",
            "99999999999999999999",
        ] {
            assert_eq!(
                text.parse::<DiskSpace>(),
                Err(InvalidSize(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn a_percentage_is_rounded_up_to_the_next_gigabyte() {
        assert_eq!(DiskSpace::Percent(10).bytes(100 << 30), 11_000_000_000);
        assert_eq!(DiskSpace::Percent(10).bytes(0), WITHOUT_DISK);
    }
}
