//! Platforms as people write them (`linux/arm64/v8`, `windows(10.0)/amd64`), read and shown as containerd does.
//! Unlike the model's own reading, nothing is normalized that containerd leaves as written: names of vertices and
//! the platform arguments show the difference.

use shipway_model::Platform;

/// What one component of a platform may be made of, as error texts show it.
const COMPONENT: &str = "^[A-Za-z0-9_.-]+$";
/// What the first one may be made of.
const SYSTEM: &str = "^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.%-]*)((?:\\+[A-Za-z0-9_.%-]+)*)\\))?$";

/// Why a string names no platform, in containerd's words: clients and tests look for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: invalid argument")]
pub struct InvalidPlatform {
    reason: String,
}

/// Reads a platform.
///
/// # Errors
/// What it is not.
pub fn parse(text: &str) -> Result<Platform, InvalidPlatform> {
    let shown: String = text.chars().take(100).collect();
    let invalid = |reason: &str| InvalidPlatform {
        reason: format!("{shown:?}: {reason}"),
    };
    if text.contains('*') {
        return Err(invalid("wildcards not yet supported"));
    }
    let parts: Vec<&str> = text.splitn(4, '/').collect();
    let mut platform = system(parts[0]).ok_or_else(|| InvalidPlatform {
        reason: format!(
            "{:?} is an invalid OS component of {shown:?}: OSAndVersion specifier component must match {SYSTEM:?}",
            parts[0]
        ),
    })?;
    if let Some(part) = parts[1..].iter().find(|part| !is_component(part)) {
        return Err(InvalidPlatform {
            reason: format!(
                "{part:?} is an invalid component of {shown:?}: platform specifier component must match {COMPONENT:?}"
            ),
        });
    }
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

const UNKNOWN: &str = "unknown operating system or architecture";

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

/// `os`, `os(version)`, or `os(version+feature+feature)`.
fn system(text: &str) -> Option<Platform> {
    let (os, details) = match text.split_once('(') {
        Some((os, rest)) => (os, rest.strip_suffix(')')?),
        None => (text, ""),
    };
    let mut details = details.split('+');
    let version = details.next().unwrap_or_default();
    let features: Vec<&str> = details.collect();
    let allowed = |text: &str, more: &str| {
        let ok = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        text.chars().all(ok)
    };
    let good = !os.is_empty()
        && allowed(os, "_-")
        && allowed(version, "_.%-")
        && features
            .iter()
            .all(|feature| !feature.is_empty() && allowed(feature, "_.%-"));
    if !good {
        return None;
    }
    let os = match os.to_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        os => os.to_owned(),
    };
    Some(Platform {
        os,
        os_version: unescaped(version)?,
        os_features: features.into_iter().map(unescaped).collect::<Option<_>>()?,
        ..Platform::default()
    })
}

/// Takes back `%41`.
fn unescaped(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        bytes.extend(piece.as_bytes().get(2..)?);
    }
    String::from_utf8(bytes).ok()
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
            (
                "windows(10+win32k+a%2Bb)/amd64",
                "windows(10+win32k+a+b)/amd64",
            ),
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
            "linux(1+)/amd64",
            "linux(%4)/amd64",
            "li.nux/amd64",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(
            parse("linux/").unwrap_err().to_string(),
            "\"\" is an invalid component of \"linux/\": platform specifier component must match \
             \"^[A-Za-z0-9_.-]+$\": invalid argument"
        );
    }
}
