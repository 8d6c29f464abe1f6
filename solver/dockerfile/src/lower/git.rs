//! Git references as ADD and contexts take them: a remote with a fragment, a query, or both.

use crate::error::InstructionError;
use crate::syntax::go_bool;
use shipway_llb::build::Git;
use shipway_llb::git::GitUrl;

/// A git reference taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a flag, and a doubt")]
pub(super) struct GitRef {
    pub(super) remote: String,
    pub(super) reference: String,
    pub(super) subdir: String,
    pub(super) checksum: String,
    pub(super) mtime: String,
    pub(super) keep_git_dir: Option<bool>,
    pub(super) submodules: Option<bool>,
    pub(super) fetch_by_commit: bool,
    /// `github.com/…` without scheme: could as well be a path.
    pub(super) maybe_path: bool,
}

/// Reads a git reference; `None` for anything else.
///
/// # Errors
/// It is one, but its query cannot be understood.
pub(super) fn parse(text: &str) -> Result<Option<GitRef>, InstructionError> {
    if text.starts_with("./") || text.starts_with("../") {
        return Ok(None);
    }
    let maybe_path = text.starts_with("github.com/");
    let parsed = if maybe_path {
        GitUrl::parse(&format!("https://{text}"))
    } else {
        GitUrl::parse(text)
    };
    let Ok(url) = parsed else { return Ok(None) };
    let web = matches!(url.scheme.as_str(), "http" | "https");
    // The suffix alone tells a repository from a file, and it counts in lower case only.
    let named_git = url.path.as_bytes().ends_with(b".git");
    if web && !maybe_path && !named_git {
        return Ok(None);
    }
    let remote = match url.remote.strip_prefix("https://") {
        Some(bare) if maybe_path => bare.to_owned(),
        _ => url.remote,
    };
    let mut git = GitRef {
        remote,
        reference: url.reference,
        subdir: url.subdir,
        maybe_path,
        ..GitRef::default()
    };
    git.query(&url.query).map_err(InstructionError::Git)?;
    Ok(Some(git))
}

/// A context that is a git repository.
pub(super) fn context(text: &str) -> Result<Option<Git>, InstructionError> {
    let Some(git) = parse(text)? else {
        return Ok(None);
    };
    Ok(Some(Git {
        remote: git.remote,
        reference: git.reference,
        subdir: git.subdir,
        checksum: git.checksum,
        keep_git_dir: git.keep_git_dir == Some(true),
        skip_submodules: git.submodules == Some(false),
        mtime: git.mtime,
        fetch_by_commit: git.fetch_by_commit,
        ..Git::default()
    }))
}

impl GitRef {
    fn query(&mut self, query: &[(String, String)]) -> Result<(), String> {
        let (mut tag, mut branch) = ("", "");
        for (place, (key, value)) in query.iter().enumerate() {
            if query[..place].iter().any(|(other, _)| other == key) {
                return Err(format!("query {key:?} has multiple values"));
            }
            let flag = matches!(
                key.as_str(),
                "submodules" | "keep-git-dir" | "fetch-by-commit"
            );
            if value.is_empty() && !flag {
                return Err(format!("query {key:?} has no value"));
            }
            match key.as_str() {
                "ref" => replace("ref", &mut self.reference, value)?,
                "tag" => tag = value,
                "branch" => branch = value,
                "subdir" => replace("subdir", &mut self.subdir, value)?,
                "checksum" | "commit" => value.clone_into(&mut self.checksum),
                "keep-git-dir" => self.keep_git_dir = Some(boolean(key, value)?),
                "submodules" => self.submodules = Some(boolean(key, value)?),
                "fetch-by-commit" => self.fetch_by_commit = boolean(key, value)?,
                "mtime" if matches!(value.as_str(), "checkout" | "commit") => {
                    value.clone_into(&mut self.mtime);
                }
                "mtime" => {
                    let allowed = "(must be \"checkout\" or \"commit\")";
                    return Err(format!("invalid mtime value: {value:?} {allowed}"));
                }
                _ => return Err(format!("unexpected query {key:?}")),
            }
        }
        if !tag.is_empty() {
            replace("ref", &mut self.reference, &qualified("refs/tags/", tag))?;
        }
        if branch.is_empty() {
            return Ok(());
        }
        if !tag.is_empty() {
            return Err("branch conflicts with tag".into());
        }
        replace(
            "ref",
            &mut self.reference,
            &qualified("refs/heads/", branch),
        )
    }
}

fn qualified(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) {
        name.to_owned()
    } else {
        format!("{prefix}{name}")
    }
}

/// The fragment and the query may both name it, but not differently.
fn replace(what: &str, known: &mut String, value: &str) -> Result<(), String> {
    if !known.is_empty() && known != value {
        return Err(format!("{what} conflicts: {known:?} vs {value:?}"));
    }
    value.clone_into(known);
    Ok(())
}

fn boolean(key: &str, value: &str) -> Result<bool, String> {
    if value.is_empty() {
        return Ok(true);
    }
    go_bool(value).ok_or_else(|| format!("invalid {key} value: {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_come_apart() {
        let git = parse("https://h.io/a.git?tag=v1&subdir=d&keep-git-dir#:d")
            .unwrap()
            .unwrap();
        assert_eq!(
            (git.remote.as_str(), git.reference.as_str()),
            ("https://h.io/a.git", "refs/tags/v1")
        );
        assert_eq!((git.subdir.as_str(), git.keep_git_dir), ("d", Some(true)));
        let git = parse("github.com/a/b#v1").unwrap().unwrap();
        assert_eq!(
            (git.remote.as_str(), git.maybe_path),
            ("github.com/a/b", true)
        );
        for text in [
            "a/b",
            "./git@h:x",
            "https://h.io/a.tar",
            "ftp://h/a.git",
            ".",
        ] {
            assert_eq!(parse(text).unwrap(), None, "{text}");
        }
        let cases = [
            ("?ref=a#b", "ref conflicts: \"b\" vs \"a\""),
            ("?tag=a&branch=b", "branch conflicts with tag"),
            ("?x=1", "unexpected query \"x\""),
            ("?ref=", "query \"ref\" has no value"),
            ("?ref=a&ref=a", "query \"ref\" has multiple values"),
            ("?submodules=x", "invalid submodules value: \"x\""),
        ];
        for (query, want) in cases {
            let error = parse(&format!("https://h.io/a.git{query}")).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
    }
}
