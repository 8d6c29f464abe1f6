//! URLs as provenance tells them: without credentials, and git contexts in one form.

/// What stands in a credential's place.
const MASK: &str = "xxxxx";

/// The URL with name and password masked.
#[must_use]
pub fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some((user, host)) = rest[..end].rsplit_once('@') else {
        return url.to_owned();
    };
    let masked = if user.contains(':') {
        format!("{MASK}:{MASK}@")
    } else if user.is_empty() {
        String::new()
    } else {
        format!("{MASK}@")
    };
    format!("{scheme}://{masked}{host}{}", &rest[end..])
}

/// A git context: remote, reference, subdirectory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitContext {
    /// Without fragment.
    pub remote: String,
    /// Branch, tag or commit; empty for the default.
    pub reference: String,
    /// Below the root; empty for it.
    pub subdir: String,
}

impl GitContext {
    /// Reads a context; `None` where it is not a git repository's.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (remote, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (remote, query) = remote.split_once('?').unwrap_or((remote, ""));
        let is_git = remote.starts_with("git@")
            || remote.starts_with("ssh://")
            || remote.starts_with("git://")
            || (remote.starts_with("http://") || remote.starts_with("https://"))
                && remote.strip_suffix(".git").is_some();
        if !is_git {
            return None;
        }
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let asked = |names: &[&str]| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let mut named = pairs.filter(|(key, _)| names.contains(key));
            named.next().map(|(_, value)| value.to_owned())
        };
        let reference = asked(&["ref", "tag", "branch"]).unwrap_or_else(|| reference.to_owned());
        let subdir = asked(&["subdir"]).unwrap_or_else(|| subdir.to_owned());
        Some(Self {
            remote: remote.to_owned(),
            reference,
            subdir: subdir.trim_matches('/').to_owned(),
        })
    }

    /// `remote#reference`, or `remote#reference:subdir`.
    #[must_use]
    pub fn text(&self, with_subdir: bool) -> String {
        let subdir = if with_subdir { &self.subdir } else { "" };
        match (self.reference.as_str(), subdir) {
            ("", "") => self.remote.clone(),
            (reference, "") => format!("{}#{reference}", self.remote),
            (reference, subdir) => format!("{}#{reference}:{subdir}", self.remote),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_masked() {
        for (url, expected) in [
            ("https://u:p@h/x", "https://xxxxx:xxxxx@h/x"),
            ("https://u@h/x", "https://xxxxx@h/x"),
            ("https://h/x@y", "https://h/x@y"),
            ("git@h:x", "git@h:x"),
            ("https://u:p@h/.git#v1:s", "https://xxxxx:xxxxx@h/.git#v1:s"),
        ] {
            assert_eq!(redacted(url), expected);
        }
    }

    #[test]
    fn git_contexts() {
        let parsed = GitContext::parse("https://h/a.git#v1:src/").unwrap();
        assert_eq!(parsed.text(true), "https://h/a.git#v1:src");
        assert_eq!(parsed.text(false), "https://h/a.git#v1");
        let asked = GitContext::parse("https://h/a.git?branch=b&subdir=s").unwrap();
        assert_eq!(asked.text(true), "https://h/a.git#b:s");
        assert_eq!(GitContext::parse("https://h/a.tar"), None);
        assert_eq!(GitContext::parse("git@h:a").unwrap().text(true), "git@h:a");
    }
}
