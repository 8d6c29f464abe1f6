//! ADD of URLs and git references: each is a source of its own, from which the file or the tree is copied.

use super::copy::{Transfer, TransferKind};
use super::{Lowering, git};
use crate::error::{Error, InstructionError};
use shipway_llb::VertexOptions;
use shipway_llb::build::{self, Git, Http, State};

/// A source outside of the context, and what is copied from it.
pub(super) struct Remote {
    pub(super) state: State,
    path: String,
    unpack: bool,
}

impl Remote {
    pub(super) fn action(&self, action: build::Copy) -> build::Copy {
        build::Copy {
            src: self.path.clone(),
            unpack: self.unpack,
            ..action
        }
    }
}

impl Lowering<'_> {
    /// The source that `path` names, if it names one.
    pub(super) fn remote_source(
        &mut self,
        path: &str,
        transfer: &Transfer,
        name: &str,
    ) -> Result<Option<Remote>, Error> {
        let repository = git::parse(path)?.filter(|git| !git.maybe_path);
        let web = path.starts_with("http://") || path.starts_with("https://");
        let TransferKind::Add {
            keep_git_dir,
            checksum,
            unpack,
        } = &transfer.kind
        else {
            return match (repository.is_some(), web) {
                (true, _) => Err(InstructionError::CopyGit.into()),
                (false, true) => Err(InstructionError::CopyUrl.into()),
                (false, false) => Ok(None),
            };
        };
        if let Some(repository) = repository {
            let state = self.repository(repository, *keep_git_dir, checksum, name)?;
            return Ok(Some(Remote {
                state,
                path: "/".into(),
                unpack: false,
            }));
        }
        if !web {
            return Ok(None);
        }
        let file = file_name(path);
        let checksum = (!checksum.is_empty())
            .then(|| checked(checksum))
            .transpose()?;
        let http = Http {
            url: path.to_owned(),
            filename: file.clone(),
            checksum,
            ..Http::default()
        };
        let state = self.graph.http(http, described(name));
        Ok(Some(Remote {
            state,
            path: file,
            unpack: *unpack == Some(true),
        }))
    }

    fn repository(
        &mut self,
        git: git::GitRef,
        keep_git_dir: Option<bool>,
        checksum: &str,
        name: &str,
    ) -> Result<State, Error> {
        if let (Some(flag), Some(query)) = (keep_git_dir, git.keep_git_dir)
            && flag != query
        {
            return Err(InstructionError::KeepGitDir.into());
        }
        let differ = !checksum.is_empty() && !git.checksum.is_empty() && checksum != git.checksum;
        if differ {
            let (flag, query) = (checksum.to_owned(), git.checksum);
            return Err(InstructionError::ChecksumMismatch(flag, query).into());
        }
        let checksum = if git.checksum.is_empty() {
            checksum.to_owned()
        } else {
            git.checksum
        };
        let source = Git {
            remote: git.remote,
            reference: git.reference,
            subdir: git.subdir,
            checksum,
            keep_git_dir: git.keep_git_dir.or(keep_git_dir) == Some(true),
            skip_submodules: git.submodules == Some(false),
            fetch_by_commit: git.fetch_by_commit,
            advice: self.options.git_advice,
            ..Git::default()
        };
        Ok(self.graph.git(source, VertexOptions::named(name)))
    }
}

/// Upstream describes the instruction here by a value that has no text; the key alone stays.
fn described(name: &str) -> VertexOptions {
    VertexOptions::named(name).describe(super::meta::COMMAND, "")
}

/// The digest that a file must have.
pub(super) fn checked(text: &str) -> Result<String, InstructionError> {
    let bad = |reason| InstructionError::Checksum(text.to_owned(), reason);
    let (algorithm, hex) = text
        .split_once(':')
        .ok_or_else(|| bad("invalid checksum digest format"))?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(bad("unsupported digest algorithm")),
    };
    let lower = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if hex.len() != length {
        return Err(bad("invalid checksum digest length"));
    }
    if !hex.chars().all(lower) {
        return Err(bad("invalid checksum digest format"));
    }
    Ok(text.to_owned())
}

/// The last element of a URL's path; a name for nameless ones.
pub(super) fn file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let path = shipway_llb::build::clean(&format!("/{path}"));
    match path.rsplit('/').next() {
        None | Some("") => "__unnamed__".into(),
        Some(name) => decoded(name),
    }
}

/// Resolves `%xx` where that gives text.
fn decoded(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, behind @ ..] = rest {
        let hex = behind
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_after_urls() {
        let cases = [
            ("https://h.io/a/b.tar?x=/y", "b.tar"),
            ("https://h.io/a/", "a"),
            ("https://h.io/", "__unnamed__"),
            ("https://h.io", "__unnamed__"),
            ("http://h/a%20b#c", "a b"),
        ];
        for (url, want) in cases {
            assert_eq!(file_name(url), want, "{url}");
        }
    }

    #[test]
    fn checksums_are_digests() {
        assert!(checked(&format!("sha256:{}", "a".repeat(64))).is_ok());
        for text in [
            "x",
            "md5:00",
            "sha256:00",
            &format!("sha256:{}", "A".repeat(64)),
        ] {
            assert!(checked(text).is_err(), "{text}");
        }
    }
}
