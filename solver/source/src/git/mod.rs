//! The `git` source: one commit's tree in one layer, keyed by the commit. It decides what is asked of the remote and when;
//! the `git` command does the work.

mod agent;
mod checkout;
mod command;
mod mirror;
mod resolve;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shipway_cache::key;
use shipway_engine::{CacheMap, OpContext, Operation, VertexInfo};
use shipway_layers::Snapshot;
use shipway_llb::git::GitUrl;
use shipway_model::failure::FailureKind;
use shipway_model::op::Pin;
use shipway_model::{Digest, Failure};
use tokio::sync::OnceCell;

use crate::env::unless_cancelled;
use crate::http::without_password;
use crate::{Env, turns};
use agent::SshFiles;
use command::Git;

pub use resolve::GitRevision;

/// True for a full object name, of either hash that git knows.
#[must_use]
pub fn is_commit(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    matches!(text.len(), 40 | 64) && text.bytes().all(hex)
}

/// What of which repository is wanted, and in which form.
#[expect(
    clippy::struct_excessive_bools,
    reason = "the source's own independent options"
)]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitRepo {
    remote: String,
    /// Branch, tag or commit; empty for the default branch.
    reference: String,
    subdir: String,
    /// Commit, or its beginning, that the reference must have; empty for any.
    checksum: String,
    keep_git_dir: bool,
    skip_submodules: bool,
    fetch_by_commit: bool,
    advice: bool,
    mtime: String,
    token_secret: String,
    header_secret: String,
    agent: String,
    known_hosts: String,
}

/// A commit, and the objects that name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitObjects {
    /// What was resolved.
    pub revision: GitRevision,
    /// The commit object.
    pub commit_object: String,
    /// The tag object, of an annotated tag.
    pub tag_object: Option<String>,
    /// When it was committed, in seconds since 1970.
    pub committed: i64,
}

impl GitRepo {
    /// From the identifier's rest and the attributes.
    pub fn new(identifier: &str, attrs: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let url = parse(identifier)?;
        let mut repo = Self {
            remote: url.remote.clone(),
            reference: url.reference.clone(),
            subdir: url.subdir.clone(),
            ..Self::default()
        };
        for (name, value) in attrs {
            repo.attribute(&url, name, value)?;
        }
        if repo.reference.starts_with('-') {
            return Err(invalid(format!("invalid git ref {:?}", repo.reference)));
        }
        Ok(repo)
    }

    fn attribute(&mut self, url: &GitUrl, name: &str, value: &str) -> Result<(), Failure> {
        let text = match name {
            "git.fullurl" => {
                self.remote = full_remote(url, value)?;
                return Ok(());
            }
            "git.keepgitdir" => return set(&mut self.keep_git_dir, value),
            "git.skipsubmodules" => return set(&mut self.skip_submodules, value),
            "git.advice" => return set(&mut self.advice, value),
            "git.fetchbycommit" => return set(&mut self.fetch_by_commit, value),
            "git.bundle" | "git.checkoutbundle" => return Err(unsupported("a git bundle")),
            _ if name.starts_with("git.sig.") => {
                return Err(unsupported("signature verification of git sources"));
            }
            "git.authheadersecret" => &mut self.header_secret,
            "git.authtokensecret" => &mut self.token_secret,
            "git.knownsshhosts" => &mut self.known_hosts,
            "git.mountsshsock" => &mut self.agent,
            "git.checksum" => &mut self.checksum,
            "git.mtime" => &mut self.mtime,
            _ => return Ok(()),
        };
        value.clone_into(text);
        Ok(())
    }

    /// The remote, to show.
    fn shown(&self) -> String {
        without_password(&self.remote)
    }

    fn key(&self, revision: &GitRevision) -> Digest {
        let commit = revision.commit.as_ref().unwrap_or(&revision.checksum);
        key::git(&key::Git {
            commit,
            keep_git_dir: self.keep_git_dir.then_some(revision.reference.as_str()),
            subdir: &self.subdir,
            skip_submodules: self.skip_submodules,
            mtime: &self.mtime,
            bundle: false,
        })
    }

    /// What the reference names now.
    pub async fn resolve(&self, env: &Env, sessions: &[Arc<str>]) -> Result<GitRevision, Failure> {
        if let Some(revision) = self.pinned()? {
            return Ok(revision);
        }
        let (git, _ssh) = self.git(env, sessions).await?;
        self.ask(&git).await
    }

    /// What the reference names now, with its objects: fetches them.
    pub async fn objects(&self, env: &Env, sessions: &[Arc<str>]) -> Result<GitObjects, Failure> {
        let mut revision = self.resolve(env, sessions).await?;
        let (git, _ssh) = self.git(env, sessions).await?;
        let _turn = turns::take(format!("git:{}", self.remote)).await;
        let mirror = self.fetch(env, &git, &revision).await?;
        let kind = mirror.run(&["cat-file", "-t", &revision.checksum]).await?;
        let mut tag_object = None;
        if kind.trim() == "tag" {
            let peeled = format!("{}^{{commit}}", revision.checksum);
            let commit = mirror.run(&["rev-parse", &peeled]).await?;
            revision.commit = Some(commit.trim().to_owned());
            tag_object = Some(mirror.run(&["cat-file", "tag", &revision.checksum]).await?);
        } else {
            revision.commit = None;
        }
        let commit = revision.commit.as_ref().unwrap_or(&revision.checksum);
        let commit_object = mirror.run(&["cat-file", "commit", commit]).await?;
        let committed = checkout::commit_time(&mirror, commit).await?;
        Ok(GitObjects {
            revision,
            commit_object,
            tag_object,
            committed,
        })
    }

    /// Git with what this remote needs. The files must be kept while it runs.
    async fn git(&self, env: &Env, sessions: &[Arc<str>]) -> Result<(Git, SshFiles), Failure> {
        let ssh = SshFiles::new(env, sessions, &self.agent, &self.known_hosts).await?;
        let git = Git {
            secret_config: self.authorization(env, sessions).await?,
            agent: ssh.agent.clone(),
            known_hosts: ssh.known_hosts.clone(),
            advice: self.advice,
            ..Git::default()
        };
        Ok((git, ssh))
    }

    /// The header that authorizes, as git's configuration: a secret for the host comes before one for all.
    async fn authorization(
        &self,
        env: &Env,
        sessions: &[Arc<str>],
    ) -> Result<Option<(String, String)>, Failure> {
        let host = GitUrl::parse(&self.remote)
            .map(|url| url.host)
            .unwrap_or_default();
        let secrets = [(&self.header_secret, false), (&self.token_secret, true)];
        let named = secrets.iter().filter(|(name, _)| !name.is_empty());
        let of_host = named
            .clone()
            .map(|(name, token)| (format!("{name}.{host}"), *token));
        let of_all = named.map(|(name, token)| ((*name).clone(), *token));
        for (name, token) in of_host.chain(of_all).collect::<Vec<_>>() {
            let Some(secret) = env.secret(sessions, &name).await? else {
                continue;
            };
            let secret = String::from_utf8_lossy(&secret).into_owned();
            let value = if token {
                format!(
                    "basic {}",
                    STANDARD.encode(format!("x-access-token:{secret}"))
                )
            } else {
                secret
            };
            let option = format!("http.{}.extraheader", scope(&self.remote));
            return Ok(Some((option, format!("Authorization: {value}"))));
        }
        Ok(None)
    }
}

fn invalid(message: impl Into<Arc<str>>) -> Failure {
    Failure::of_kind(FailureKind::InvalidArgument, message)
}

fn unsupported(what: &str) -> Failure {
    Failure::of_kind(
        FailureKind::Unimplemented,
        format!("{what} is not supported"),
    )
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "ends a match whose other arms can fail"
)]
fn set(flag: &mut bool, value: &str) -> Result<(), Failure> {
    *flag = value == "true";
    Ok(())
}

/// A remote; one without protocol is https.
fn parse(text: &str) -> Result<GitUrl, Failure> {
    GitUrl::parse(text)
        .or_else(|_| GitUrl::parse(&format!("https://{text}")))
        .map_err(|e| invalid(format!("git source {text:?}: {e}")))
}

/// The remote with protocol and user. It must be the identifier's, which a policy may have checked.
fn full_remote(identifier: &GitUrl, full: &str) -> Result<String, Failure> {
    let full = parse(full).map_err(|_| invalid("failed to parse git.fullurl"))?;
    let path = |url: &GitUrl| {
        let parts: Vec<&str> = url
            .path
            .split('/')
            .filter(|part| !part.is_empty())
            .collect();
        let path = parts.join("/");
        path.strip_suffix(".git").map(str::to_owned).unwrap_or(path)
    };
    if !full.host.eq_ignore_ascii_case(&identifier.host) || path(&full) != path(identifier) {
        return Err(invalid("git.fullurl does not match source identifier"));
    }
    Ok(full.remote)
}

/// Where a token is good for: the remote alone, but all of GitHub, for submodules there.
fn scope(remote: &str) -> &str {
    let hosts = ["https://github.com/", "https://www.github.com/"];
    hosts
        .into_iter()
        .find(|host| remote.starts_with(host))
        .unwrap_or(remote)
}

/// A git repository as a source.
pub struct GitSource {
    info: VertexInfo,
    env: Arc<Env>,
    repo: GitRepo,
    revision: OnceCell<GitRevision>,
}

impl GitSource {
    /// A source from its identifier's rest and its attributes.
    pub fn new(
        info: VertexInfo,
        env: Arc<Env>,
        identifier: &str,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Self, Failure> {
        let repo = GitRepo::new(identifier, attrs)?;
        Ok(Self {
            info,
            env,
            repo,
            revision: OnceCell::new(),
        })
    }

    async fn revision(&self, ctx: &OpContext) -> Result<&GitRevision, Failure> {
        let sessions = ctx.sessions();
        self.revision
            .get_or_try_init(|| self.repo.resolve(&self.env, &sessions))
            .await
    }

    async fn tree(&self, ctx: &OpContext) -> Result<Snapshot, Failure> {
        let revision = self.revision(ctx).await?;
        let (git, _ssh) = self.repo.git(&self.env, &ctx.sessions()).await?;
        let _turn = turns::take(format!("git:{}", self.repo.remote)).await;
        let mirror = self.repo.fetch(&self.env, &git, revision).await?;
        let (tree, told) = self.repo.checkout(&self.env, &mirror, revision).await?;
        if !told.is_empty() {
            ctx.progress().log(2, told.into());
        }
        Ok(tree)
    }
}

#[async_trait]
impl Operation<Snapshot> for GitSource {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, ctx: &OpContext) -> Result<CacheMap<Snapshot>, Failure> {
        let revision = unless_cancelled(ctx, self.revision(ctx)).await?;
        Ok(CacheMap::new(self.repo.key(revision), 0))
    }

    async fn execute(
        &self,
        ctx: &OpContext,
        _inputs: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, Failure> {
        Ok(vec![unless_cancelled(ctx, self.tree(ctx)).await?])
    }

    fn facts(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        let revision = self.revision.get()?;
        let commit = revision.commit.as_ref().unwrap_or(&revision.checksum);
        Some(Arc::new(Pin::Commit(commit.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(identifier: &str, attrs: &[(&str, &str)]) -> Result<GitRepo, Failure> {
        let attrs = attrs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        GitRepo::new(identifier, &attrs)
    }

    #[test]
    fn an_identifier_and_attributes_become_a_repository() {
        let full = ("git.fullurl", "http://u@h.io:8/a/b.git");
        let parsed = repo("h.io:8/a/b.git#v1:s/d", &[full, ("git.keepgitdir", "true")]).unwrap();
        assert_eq!(parsed.remote, "http://u@h.io:8/a/b.git");
        assert_eq!(
            (parsed.reference.as_str(), parsed.subdir.as_str()),
            ("v1", "s/d")
        );
        assert!(parsed.keep_git_dir && !parsed.skip_submodules);
        assert_eq!(repo("h.io/a", &[]).unwrap().remote, "https://h.io/a");
        let ssh = repo("h.io/a/b.git", &[("git.fullurl", "git@h.io:a/b.git")]).unwrap();
        assert_eq!(ssh.remote, "git@h.io:a/b.git");
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (identifier, attr, value) in [
            ("h.io/a", "git.fullurl", "https://other.io/a"),
            ("h.io/a", "git.fullurl", "https://h.io/b"),
            ("h.io/a", "git.bundle", "x"),
            ("h.io/a", "git.sig.pubkey", "x"),
            ("h.io/a#--upload-pack=x", "git.mtime", ""),
        ] {
            assert!(
                repo(identifier, &[(attr, value)]).is_err(),
                "{identifier} {attr}"
            );
        }
    }

    #[test]
    fn a_token_reaches_no_other_host() {
        assert_eq!(scope("https://h.io/a"), "https://h.io/a");
        assert_eq!(scope("https://github.com/a/b"), "https://github.com/");
        assert_eq!(scope("https://github.com.io/a"), "https://github.com.io/a");
    }
}
