//! Platforms as the OCI image specification names them, and their normal form. It never detects the host's CPU.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system and machine architecture. Empty strings mean "not given".
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, … as Go names them.
    pub architecture: String,
    /// `linux`, …
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Features of the operating system (Windows).
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// CPU variant, such as `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// Why a string names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {0:?}: give os/architecture[/variant]")]
pub struct InvalidPlatform(String);

impl Platform {
    /// The platform that this program was compiled for, in normal form.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self::new("linux", architecture, "").normalized()
    }

    /// A platform from its three usual parts, as given.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self {
            architecture: architecture.into(),
            os: os.into(),
            variant: variant.into(),
            ..Self::default()
        }
    }

    /// The normal form: aliases resolved, default variants made explicit or dropped as containerd does
    /// (`x86_64` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`, `amd64/v1` is `amd64`).
    #[must_use]
    pub fn normalized(&self) -> Self {
        let os = match self.os.to_lowercase().as_str() {
            "macos" => "darwin".into(),
            other => other.to_owned(),
        };
        let (architecture, variant) = normal_cpu(
            &self.architecture.to_lowercase(),
            &self.variant.to_lowercase(),
        );
        Self {
            architecture,
            os,
            variant,
            ..self.clone()
        }
    }

    /// The name by which results for several platforms are told apart: with the operating system's version, where it has
    /// one, as in `windows(10.0.1)/amd64`.
    #[must_use]
    pub fn key(&self) -> String {
        if self.os_version.is_empty() {
            return self.to_string();
        }
        let version: Vec<&str> = std::iter::once(self.os_version.as_str())
            .chain(self.os_features.iter().map(String::as_str))
            .collect();
        let os = format!("{}({})", self.os, version.join("+"));
        Self { os, ..self.clone() }.to_string()
    }

    /// True where an image for `self` runs on `host` natively: same normal form, or an older variant of it.
    #[must_use]
    pub fn runs_on(&self, host: &Self) -> bool {
        let (mine, host) = (self.normalized(), host.normalized());
        if mine.os != host.os {
            return false;
        }
        match (mine.architecture.as_str(), host.architecture.as_str()) {
            ("amd64", "amd64") | ("arm64", "arm64") | ("arm", "arm") => {
                mine.variant <= host.variant
            }
            ("386", "amd64") => true,
            ("arm", "arm64") => mine.variant.as_str() <= "v8",
            (a, b) => a == b && mine.variant == host.variant,
        }
    }
}

fn normal_cpu(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64" | "arm64", v) => ("arm64", v),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        (a, v) => (a, v),
    };
    (architecture.into(), variant.into())
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.os)?;
        for part in [&self.architecture, &self.variant] {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    /// Reads `os/arch[/variant]`, or one word that is an operating system or an architecture; normalizes.
    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let invalid = || InvalidPlatform(text.chars().take(64).collect());
        let ok = |c: char| c.is_ascii_alphanumeric() || "_-.()".contains(c);
        let parts: Vec<&str> = text.split('/').collect();
        if parts
            .iter()
            .any(|part| part.is_empty() || !part.chars().all(ok))
        {
            return Err(invalid());
        }
        let host = Self::host();
        let platform = match parts[..] {
            [os @ ("linux" | "windows" | "darwin" | "freebsd" | "macos")] => {
                Self::new(os, &host.architecture, &host.variant)
            }
            [word] => {
                let known = [
                    "amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "loong64",
                ];
                let (architecture, _) = normal_cpu(&word.to_lowercase(), "");
                if !known.contains(&architecture.as_str()) {
                    return Err(invalid());
                }
                Self::new(&host.os, word, "")
            }
            [os, arch] => Self::new(os, arch, ""),
            [os, arch, variant] => Self::new(os, arch, variant),
            _ => return Err(invalid()),
        };
        Ok(platform.normalized())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_platforms_have_one_normal_form() {
        for (given, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
        ] {
            assert_eq!(
                given.parse::<Platform>().unwrap().to_string(),
                normal,
                "{given}"
            );
        }
    }

    #[test]
    fn nonsense_is_no_platform() {
        for text in ["", "linux/", "a/b/c/d", "nonsense", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_older_variant_runs_on_a_newer_host() {
        let host = Platform::new("linux", "amd64", "v3");
        assert!(Platform::new("linux", "amd64", "").runs_on(&host));
        assert!(!Platform::new("linux", "amd64", "v4").runs_on(&host));
        assert!(!Platform::new("linux", "arm64", "").runs_on(&host));
    }
}
