//! Git remotes as people write them: URLs and `user@host:path`. It never contacts one.

use std::fmt::Write as _;

/// A git remote taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitUrl {
    /// `http`, `https`, `ssh` or `git`.
    pub scheme: String,
    /// Host, with port where given.
    pub host: String,
    /// Path on the host, decoded.
    pub path: String,
    /// The remote for git itself: no query, no fragment.
    pub remote: String,
    /// Query pairs in order, decoded.
    pub query: Vec<(String, String)>,
    /// Part of the fragment before `:`.
    pub reference: String,
    /// Part of the fragment behind `:`, cleaned, without leading slash.
    pub subdir: String,
}

/// Why a string is no git remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGitUrl {
    /// Neither a URL nor `user@host:path`.
    #[error("unknown protocol")]
    UnknownProtocol,
    /// A URL of another kind.
    #[error("invalid protocol")]
    InvalidProtocol,
    /// A URL that cannot be read.
    #[error("invalid git URL")]
    Malformed,
}

impl GitUrl {
    /// Takes a remote apart.
    ///
    /// # Errors
    /// What it is not.
    pub fn parse(remote: &str) -> Result<Self, InvalidGitUrl> {
        let Some((scheme, rest)) = remote.split_once("://") else {
            return scp(remote);
        };
        if scheme.is_empty() || !scheme.chars().all(|c| c.is_ascii_alphanumeric()) {
            return scp(remote);
        }
        let scheme = scheme.to_ascii_lowercase();
        if !matches!(scheme.as_str(), "http" | "https" | "ssh" | "git") {
            return Err(InvalidGitUrl::InvalidProtocol);
        }
        if rest.contains(|c: char| c.is_ascii_control()) {
            return Err(InvalidGitUrl::Malformed);
        }
        let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let slash = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(slash);
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        if host.contains(' ') {
            return Err(InvalidGitUrl::Malformed);
        }
        let path = decode(path).ok_or(InvalidGitUrl::Malformed)?;
        let remote = format!("{scheme}://{authority}{}", encode_path(&path));
        let fragment = decode(fragment).ok_or(InvalidGitUrl::Malformed)?;
        let (reference, subdir) = fragment_parts(&fragment);
        let (host, query) = (host.to_owned(), pairs(query));
        Ok(Self {
            scheme,
            host,
            path,
            remote,
            query,
            reference,
            subdir,
        })
    }

    /// True for remotes that need keys.
    #[must_use]
    pub fn is_ssh(&self) -> bool {
        self.scheme == "ssh"
    }
}

/// `user@host:path[?query][#fragment]`.
fn scp(remote: &str) -> Result<GitUrl, InvalidGitUrl> {
    let unknown = InvalidGitUrl::UnknownProtocol;
    let word = |extra: char| move |c: char| c.is_ascii_alphanumeric() || c == '-' || c == extra;
    let (user, rest) = remote.split_once('@').ok_or(unknown)?;
    let (host, rest) = rest.split_once(':').ok_or(unknown)?;
    if user.is_empty() || host.is_empty() || remote.contains('\n') {
        return Err(unknown);
    }
    if !user.chars().all(word('_')) || !host.chars().all(word('.')) {
        return Err(unknown);
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (reference, subdir) = fragment_parts(fragment);
    Ok(GitUrl {
        scheme: "ssh".into(),
        host: host.to_owned(),
        path: path.to_owned(),
        remote: format!("{user}@{host}:{path}"),
        query: pairs(query),
        reference,
        subdir,
    })
}

fn fragment_parts(fragment: &str) -> (String, String) {
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let subdir = crate::build::clean(&format!("/{subdir}"));
    (
        reference.to_owned(),
        subdir.trim_start_matches('/').to_owned(),
    )
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let plain = |text: &str| decode(&text.replace('+', " "));
        Some((plain(name)?, plain(value)?))
    };
    parts.filter_map(pair).collect()
}

/// Resolves `%xx`; `None` where that is malformed or no UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex = [rest.next()?, rest.next()?];
        let hex = std::str::from_utf8(&hex).ok()?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn encode_path(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"$&+,/:;=@-_.~!*'()".contains(&byte);
        if plain {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a string succeeds");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_come_apart() {
        let url = GitUrl::parse("https://u:p@h.io:8/a%20b/c.git?tag=v1&x#main:/s/../d").unwrap();
        assert_eq!(
            (url.scheme.as_str(), url.host.as_str()),
            ("https", "h.io:8")
        );
        assert_eq!(url.path, "/a b/c.git");
        assert_eq!(url.remote, "https://u:p@h.io:8/a%20b/c.git");
        assert_eq!(
            url.query,
            [("tag".into(), "v1".into()), ("x".into(), String::new())]
        );
        assert_eq!((url.reference.as_str(), url.subdir.as_str()), ("main", "d"));
        let url = GitUrl::parse("git@h.io:a/b.git#v1").unwrap();
        assert_eq!(
            (url.scheme.as_str(), url.remote.as_str()),
            ("ssh", "git@h.io:a/b.git")
        );
        assert_eq!(
            (url.path.as_str(), url.reference.as_str()),
            ("a/b.git", "v1")
        );
    }

    #[test]
    fn other_strings_are_no_remotes() {
        for text in ["", "a/b", "h.io/a.git", "./x@y:z", "C:\\x", "a b@h:x"] {
            assert_eq!(
                GitUrl::parse(text),
                Err(InvalidGitUrl::UnknownProtocol),
                "{text}"
            );
        }
        assert_eq!(
            GitUrl::parse("ftp://h/a"),
            Err(InvalidGitUrl::InvalidProtocol)
        );
    }
}
