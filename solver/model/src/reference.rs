//! Image references in Docker's familiar and canonical forms. It never looks a name up.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

/// A canonical image reference: registry, repository, tag and digest, as in `docker.io/library/busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    /// `docker.io`, `localhost:5000`, …
    pub host: String,
    /// `library/busybox`, …
    pub path: String,
    /// Tag, where given (or implied: `latest` where there is neither tag nor digest).
    pub tag: Option<String>,
    /// Digest, where given.
    pub digest: Option<Digest>,
}

/// Why a string is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse reference {text:?}: {reason}")]
pub struct InvalidReference {
    text: String,
    reason: &'static str,
}

impl ImageRef {
    /// Host and path, without tag or digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The short form that Docker shows: `busybox:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        short.strip_prefix("library/").unwrap_or(short).to_owned()
    }

    /// The same reference pinned to a digest.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// Host that a registry client connects to; Docker Hub's API has a name of its own.
    #[must_use]
    pub fn registry_host(&self) -> &str {
        if self.host == "docker.io" {
            "registry-1.docker.io"
        } else {
            &self.host
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageRef {
    type Err = InvalidReference;

    /// Reads any form that Docker does; the tag `latest` is added where neither tag nor digest is given.
    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |reason| InvalidReference {
            text: text.chars().take(256).collect(),
            reason,
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|_| invalid("invalid digest"))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid("invalid tag"));
        }
        let (host, path) = split_host(name);
        if path.is_empty() || path.len() > 255 || !path.split('/').all(is_component) {
            let upper = path.chars().any(char::is_uppercase);
            let lower = "repository name must be lowercase";
            return Err(invalid(if upper {
                lower
            } else {
                "invalid reference format"
            }));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self {
            host,
            path,
            tag,
            digest,
        })
    }
}

fn split_host(name: &str) -> (String, String) {
    let (host, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first != first.to_lowercase() =>
        {
            (first, rest)
        }
        _ => ("docker.io", name),
    };
    let host = if host == "index.docker.io" {
        "docker.io"
    } else {
        host
    };
    let official = host == "docker.io" && !path.contains('/') && !path.is_empty();
    (
        host.to_owned(),
        if official {
            format!("library/{path}")
        } else {
            path.to_owned()
        },
    )
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// One path component: runs of `[a-z0-9]` joined by `.`, `_`, `__` or dashes (distribution's reference grammar).
fn is_component(component: &str) -> bool {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = component.split(alnum).filter(|part| !part.is_empty());
    component.starts_with(alnum)
        && component.ends_with(alnum)
        && separators
            .into_iter()
            .all(|s| matches!(s, "." | "_" | "__") || s.chars().all(|c| c == '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn familiar_names_become_canonical() {
        let digest = Digest::of("x");
        let pinned = format!("a/b@{digest}");
        for (given, canonical) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x/y:z", "localhost:5000/x/y:z"),
            ("index.docker.io/library/x", "docker.io/library/x:latest"),
            (pinned.as_str(), &format!("docker.io/{pinned}")),
        ] {
            assert_eq!(given.parse::<ImageRef>().unwrap().to_string(), canonical);
        }
        assert_eq!(
            "busybox".parse::<ImageRef>().unwrap().familiar(),
            "busybox:latest"
        );
    }

    #[test]
    fn bad_names_are_refused() {
        for text in [
            "",
            "Upper",
            "a//b",
            "a:",
            "x@sha256:1",
            "-a",
            "a/b:c d",
            "host.io/",
        ] {
            assert!(text.parse::<ImageRef>().is_err(), "{text}");
        }
    }
}
