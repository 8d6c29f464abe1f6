//! Platforms as people write them (`linux/arm64/v8`, `windows(10.0)/amd64`), read and shown as containerd does.
//! Unlike the model's own reading, nothing is normalized that containerd leaves as written: names of vertices and
//! the platform arguments show the difference.

use shipway_model::Platform;

/// Why a string names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlatform {
    /// It is none as a whole.
    #[error("{text:?}: {reason}")]
    Whole {
        /// The string, cut off.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// One part of it is none, in containerd's words.
    #[error(
        "{part:?} is an invalid component of {text:?}: platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
    )]
    Component {
        /// The part.
        part: String,
        /// The string, cut off.
        text: String,
    },
}

/// Reads a platform.
///
/// # Errors
/// What it is not.
pub fn parse(text: &str) -> Result<Platform, InvalidPlatform> {
    let shown = || -> String { text.chars().take(100).collect() };
    let invalid = |reason| InvalidPlatform::Whole {
        text: shown(),
        reason,
    };
    if text.contains('*') {
        return Err(invalid("wildcards not yet supported"));
    }
    let parts: Vec<&str> = text.split('/').collect();
    let (os, version) = os_and_version(parts[0]).ok_or_else(|| invalid("invalid OS component"))?;
    if let Some(part) = parts[1..].iter().find(|part| !is_component(part)) {
        return Err(InvalidPlatform::Component {
            part: (*part).to_owned(),
            text: shown(),
        });
    }
    let mut platform = Platform {
        os,
        os_version: version,
        ..Platform::default()
    };
    match parts[1..] {
        [] => return alone(platform, parts[0]).ok_or_else(|| invalid(UNKNOWN)),
        [architecture] => {
            set_cpu(&mut platform, architecture, "");
            if platform.architecture == "arm" && platform.variant == "v7" {
                platform.variant.clear();
            }
        }
        [architecture, variant] => {
            set_cpu(&mut platform, architecture, variant);
            if platform.architecture == "arm64" && platform.variant.is_empty() {
                platform.variant = "v8".into();
            }
        }
        _ => return Err(invalid("cannot parse platform specifier")),
    }
    Ok(platform)
}

const UNKNOWN: &str = "unknown operating system or architecture: invalid argument";

/// One word: an operating system or an architecture; the host gives the rest.
fn alone(mut platform: Platform, word: &str) -> Option<Platform> {
    const SYSTEMS: [&str; 17] = [
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "hurd",
        "illumos",
        "ios",
        "js",
        "linux",
        "nacl",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "windows",
        "zos",
    ];
    const CPUS: [&str; 24] = [
        "386",
        "amd64",
        "amd64p32",
        "arm",
        "armbe",
        "arm64",
        "arm64be",
        "ppc64",
        "ppc64le",
        "loong64",
        "mips",
        "mipsle",
        "mips64",
        "mips64le",
        "mips64p32",
        "mips64p32le",
        "ppc",
        "riscv",
        "riscv64",
        "s390",
        "s390x",
        "sparc",
        "sparc64",
        "wasm",
    ];
    let host = Platform::host();
    if SYSTEMS.contains(&platform.os.as_str()) {
        platform.architecture = host.architecture;
        return Some(platform);
    }
    set_cpu(&mut platform, word, "");
    if platform.architecture == "arm" && platform.variant == "v7" {
        platform.variant.clear();
    }
    platform.os = host.os;
    CPUS.contains(&platform.architecture.as_str())
        .then_some(platform)
}

fn set_cpu(platform: &mut Platform, architecture: &str, variant: &str) {
    let normal = Platform::new("linux", architecture, variant).normalized();
    platform.architecture = normal.architecture;
    platform.variant = normal.variant;
}

/// `os`, or `os(version)`.
fn os_and_version(text: &str) -> Option<(String, String)> {
    let (os, version) = match text.split_once('(') {
        Some((os, rest)) => (os, rest.strip_suffix(')')?),
        None => (text, ""),
    };
    if !is_component(os) || version.contains(['(', ')']) {
        return None;
    }
    let os = os.to_lowercase();
    let os = if os == "macos" {
        "darwin".to_owned()
    } else {
        os
    };
    Some((os, version.to_owned()))
}

fn is_component(text: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    !text.is_empty() && text.chars().all(ok)
}

/// `os/architecture[/variant]`.
#[must_use]
pub fn format(platform: &Platform) -> String {
    let os = if platform.os.is_empty() {
        return "unknown".into();
    } else {
        &platform.os
    };
    joined(os, platform)
}

/// The same with the version of the operating system.
#[must_use]
pub fn format_all(platform: &Platform) -> String {
    if platform.os.is_empty() {
        return "unknown".into();
    }
    if platform.os_version.is_empty() && platform.os_features.is_empty() {
        return format(platform);
    }
    let mut details = platform.os_version.clone();
    for feature in &platform.os_features {
        details = format!("{details}+{feature}");
    }
    joined(&format!("{}({details})", platform.os), platform)
}

fn joined(os: &str, platform: &Platform) -> String {
    let parts = [os, &platform.architecture, &platform.variant];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_read_and_show() {
        let cases = [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("linux/arm64", "linux/arm64"),
            ("linux/arm", "linux/arm"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("windows(10.0.1)/amd64", "windows(10.0.1)/amd64"),
            ("macos/arm64", "darwin/arm64"),
            ("riscv64", "linux/riscv64"),
        ];
        for (text, want) in cases {
            assert_eq!(format_all(&parse(text).unwrap()), want, "{text}");
        }
        for text in [
            "",
            "linux/",
            "nonsense",
            "a/b/c/d",
            "linux/*",
            "linux(/amd64",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
