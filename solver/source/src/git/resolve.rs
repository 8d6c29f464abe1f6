//! Finds the commit that a reference names at its remote. It fetches nothing.

use shipway_model::Failure;

use super::command::Git;
use super::{GitRepo, is_commit};

/// What a reference names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRevision {
    /// The full reference, or a commit where that was asked for.
    pub reference: String,
    /// The object: a commit, or an annotated tag.
    pub checksum: String,
    /// The commit that an annotated tag points to, unless the git directory is kept.
    pub commit: Option<String>,
}

impl GitRepo {
    /// The revision, without the network where it is pinned.
    pub(super) fn pinned(&self) -> Result<Option<GitRevision>, Failure> {
        let checksum = &self.checksum;
        if !checksum.is_empty() && !checksum.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Failure::new(format!(
                "invalid checksum {checksum} for Git URL, expected hex commit hash"
            )));
        }
        if is_commit(&self.reference) {
            if !self.reference.starts_with(checksum.as_str()) {
                return Err(mismatch(checksum, &self.reference));
            }
            return Ok(Some(GitRevision {
                reference: self.reference.clone(),
                checksum: self.reference.clone(),
                commit: None,
            }));
        }
        if !self.fetch_by_commit {
            return Ok(None);
        }
        if !is_commit(checksum) {
            return Err(Failure::new(format!(
                "fetch-by-commit requires a full commit SHA checksum, got {checksum:?}"
            )));
        }
        let reference = match self.reference.as_str() {
            "" => checksum.clone(),
            full if full.starts_with("refs/") => full.to_owned(),
            branch => format!("refs/heads/{branch}"),
        };
        Ok(Some(GitRevision {
            reference,
            checksum: checksum.clone(),
            commit: None,
        }))
    }

    /// Asks the remote.
    pub(super) async fn ask(&self, git: &Git) -> Result<GitRevision, Failure> {
        let reference = self.reference_at(git).await?;
        let peeled = format!("{reference}^{{}}");
        let listed = git
            .run(&["ls-remote", "--", &self.remote, &reference, &peeled])
            .await;
        let listed =
            listed.map_err(|e| e.context(format!("failed to fetch remote {}", self.shown())))?;
        let mut found = choose(&listed, &reference).ok_or_else(|| {
            Failure::new(format!(
                "repository does not contain ref {reference}, output: {listed:?}"
            ))
        })?;
        if !is_commit(&found.checksum) {
            return Err(Failure::new(format!(
                "invalid commit sha {:?}",
                found.checksum
            )));
        }
        let wanted = self.checksum.as_str();
        let peeled = found.commit.as_deref().unwrap_or_default();
        if !found.checksum.starts_with(wanted) && !peeled.starts_with(wanted) {
            let got = if peeled.is_empty() {
                &found.checksum
            } else {
                peeled
            };
            return Err(mismatch(wanted, got));
        }
        if self.keep_git_dir {
            found.commit = None;
        }
        Ok(found)
    }

    /// The reference that was asked for, or the remote's default branch.
    pub(super) async fn reference_at(&self, git: &Git) -> Result<String, Failure> {
        if !self.reference.is_empty() {
            return Ok(self.reference.clone());
        }
        let listed = git
            .run(&["ls-remote", "--symref", "--", &self.remote, "HEAD"])
            .await;
        let shown = self.shown();
        let listed = listed.map_err(|e| {
            e.context(format!(
                "error fetching default branch for repository {shown}"
            ))
        })?;
        let branch = listed
            .split_whitespace()
            .find_map(|word| word.strip_prefix("refs/heads/"));
        let branch = branch.filter(|branch| !branch.is_empty() && !branch.starts_with('-'));
        branch.map(str::to_owned).ok_or_else(|| {
            Failure::new(format!(
                "could not find default branch for repository: {shown}"
            ))
        })
    }
}

pub(super) fn mismatch(wanted: &str, got: &str) -> Failure {
    Failure::new(format!("expected checksum to match {wanted}, got {got}"))
}

/// What `ls-remote` found: the full name as written first, then a branch, then a tag, as git itself prefers.
fn choose(listed: &str, reference: &str) -> Option<GitRevision> {
    let with = |prefix: &str| {
        format!(
            "{prefix}{}",
            reference.strip_prefix(prefix).unwrap_or(reference)
        )
    };
    let (partial, head, tag) = (with("refs/"), with("refs/heads/"), with("refs/tags/"));
    let sha = |wanted: &str| {
        let mut lines = listed.lines().filter_map(|line| line.split_once('\t'));
        lines
            .find(|(_, name)| *name == wanted)
            .map(|(sha, _)| sha.to_owned())
    };
    let peeled = sha(&format!("{tag}^{{}}"));
    // A reference written in full as a tag is one.
    for name in [&partial, &head].into_iter().filter(|name| **name != tag) {
        if let Some(checksum) = sha(name) {
            return Some(GitRevision {
                reference: name.clone(),
                checksum,
                commit: None,
            });
        }
    }
    let checksum = sha(&tag)?;
    Some(GitRevision {
        reference: tag,
        checksum,
        commit: peeled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_comes_before_a_tag() {
        let [a, b, c] = ["a", "b", "c"].map(|letter| letter.repeat(40));
        let listed = format!("{a}\trefs/heads/v1\n{b}\trefs/tags/v1\n{c}\trefs/tags/v1^{{}}\n");
        let chosen = |listed: &str, reference: &str| {
            choose(listed, reference).map(|r| (r.reference, r.checksum, r.commit))
        };
        let branch = Some(("refs/heads/v1".to_owned(), a.clone(), None));
        assert_eq!(chosen(&listed, "v1"), branch);
        assert_eq!(chosen(&listed, "heads/v1"), branch);
        assert_eq!(chosen(&listed, "refs/heads/v1"), branch);
        let tag = Some(("refs/tags/v1".to_owned(), b.clone(), Some(c.clone())));
        assert_eq!(chosen(&listed, "refs/tags/v1"), tag);
        let tags = listed.lines().skip(1).collect::<Vec<_>>().join("\n");
        assert_eq!(chosen(&tags, "v1"), tag);
        assert_eq!(chosen(&listed, "v2"), None);
    }

    #[test]
    fn a_commit_needs_no_remote() {
        let sha = "0123456789abcdef0123456789abcdef01234567";
        let repo = |reference: &str, checksum: &str| GitRepo {
            reference: reference.into(),
            checksum: checksum.into(),
            ..GitRepo::default()
        };
        let revision = repo(sha, "0123").pinned().unwrap().unwrap();
        assert_eq!(
            (revision.reference.as_str(), revision.checksum.as_str()),
            (sha, sha)
        );
        let failure = repo(sha, "4321").pinned().unwrap_err();
        assert_eq!(
            &*failure.message,
            format!("expected checksum to match 4321, got {sha}")
        );
        assert_eq!(repo("main", "0123").pinned().unwrap(), None);
        assert!(repo("main", "xyz").pinned().is_err());
        let by_commit = GitRepo {
            fetch_by_commit: true,
            ..repo("main", sha)
        };
        assert_eq!(
            by_commit.pinned().unwrap().unwrap().reference,
            "refs/heads/main"
        );
        assert!(
            GitRepo {
                fetch_by_commit: true,
                ..repo("main", "0123")
            }
            .pinned()
            .is_err()
        );
    }
}
