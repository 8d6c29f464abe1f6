//! Decides what the device rules of a specification mean, and sets them on cgroup v1. It never makes device files.

use std::fs;
use std::io;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::group::Group;

/// One rule: who may do what with which devices. Later rules override earlier ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceRule {
    pub(crate) allow: bool,
    /// `a`, `b` or `c`.
    pub(crate) kind: char,
    /// None: any.
    pub(crate) major: Option<u32>,
    /// None: any.
    pub(crate) minor: Option<u32>,
    /// Some of `r`, `w` and `m`.
    pub(crate) access: String,
}

impl From<&LinuxDeviceCgroup> for DeviceRule {
    fn from(rule: &LinuxDeviceCgroup) -> Self {
        let kind = match rule.typ() {
            Some(LinuxDeviceType::B) => 'b',
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => 'c',
            Some(LinuxDeviceType::A | LinuxDeviceType::P) | None => 'a',
        };
        let number = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
        Self {
            allow: rule.allow(),
            kind,
            major: number(rule.major()),
            minor: number(rule.minor()),
            access: rule.access().clone().unwrap_or_else(|| "rwm".to_owned()),
        }
    }
}

/// What container runtimes allow by default: to make any device file, and to open the harmless ones.
pub(crate) fn default_rules() -> Vec<DeviceRule> {
    let rule = |kind, major, minor, access: &str| DeviceRule {
        allow: true,
        kind,
        major,
        minor,
        access: access.to_owned(),
    };
    let deny_all = DeviceRule {
        allow: false,
        ..rule('a', None, None, "rwm")
    };
    let opened = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(2)),
        (136, None),
    ];
    [
        deny_all,
        rule('c', None, None, "m"),
        rule('b', None, None, "m"),
    ]
    .into_iter()
    .chain(opened.map(|(major, minor)| rule('c', Some(major), minor, "rwm")))
    .collect()
}

impl Group {
    /// Sets device rules: files of v1, or a program on v2.
    pub(crate) fn allow_devices(&self, rules: &[DeviceRule]) -> io::Result<()> {
        let Some(directory) = self.directory("devices") else {
            return Ok(());
        };
        if self.is_unified() {
            return super::program::attach(directory, rules);
        }
        for rule in rules {
            let file = if rule.allow {
                "devices.allow"
            } else {
                "devices.deny"
            };
            let number = |value: Option<u32>| {
                value.map_or_else(|| "*".to_owned(), |value| value.to_string())
            };
            let text = if rule.kind == 'a' {
                "a".to_owned()
            } else {
                format!(
                    "{} {}:{} {}",
                    rule.kind,
                    number(rule.major),
                    number(rule.minor),
                    rule.access
                )
            };
            fs::write(directory.join(file), text)?;
        }
        Ok(())
    }
}
