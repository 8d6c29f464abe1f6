//! One bare repository per remote, filled with what builds ask for and kept between them. Whoever works in it holds the
//! turn of its remote.

use std::path::{Path, PathBuf};

use shipway_model::{Digest, Failure};

use super::command::Git;
use super::{GitRepo, GitRevision, is_commit};
use crate::Env;

impl GitRepo {
    /// Has the revision in the mirror; gives git on it.
    pub(super) async fn fetch(
        &self,
        env: &Env,
        git: &Git,
        revision: &GitRevision,
    ) -> Result<Git, Failure> {
        let dir = self.mirror_dir(env, revision)?;
        match self.fetch_into(&dir, git, revision).await {
            Err(failure) if is_spoilt(&failure.message) => {
                // A tag was moved, or a branch became another's directory: only a fresh mirror helps.
                std::fs::remove_dir_all(&dir)
                    .map_err(|e| Failure::from_error(&e).context("removing a git mirror"))?;
                self.fetch_into(&dir, git, revision).await
            }
            fetched => fetched,
        }
    }

    fn mirror_dir(&self, env: &Env, revision: &GitRevision) -> Result<PathBuf, Failure> {
        let mut name = Digest::of(&self.remote).hex();
        if revision.checksum.len() == 64 {
            name.push_str("-sha256");
        }
        Ok(env.layers.upkeep().scratch_dir("git")?.join(name))
    }

    pub(super) async fn fetch_into(
        &self,
        dir: &Path,
        git: &Git,
        revision: &GitRevision,
    ) -> Result<Git, Failure> {
        let mirror = git.on(dir);
        self.init(dir, git, &mirror, revision).await?;
        let exists = format!("{}^{{commit}}", revision.checksum);
        // What is named by its hash never changes.
        let by_hash = is_commit(&revision.reference) || self.fetch_by_commit;
        if !(by_hash && mirror.run(&["cat-file", "-e", &exists]).await.is_ok()) {
            self.download(dir, &mirror, revision).await?;
        }
        self.verify(&mirror, revision).await?;
        Ok(mirror)
    }

    async fn init(
        &self,
        dir: &Path,
        git: &Git,
        mirror: &Git,
        revision: &GitRevision,
    ) -> Result<(), Failure> {
        if !dir.join("HEAD").exists() {
            let shown = dir.to_string_lossy();
            let mut args = vec!["-c", "init.defaultBranch=master", "init", "--bare"];
            if revision.checksum.len() == 64 {
                args.push("--object-format=sha256");
            }
            args.push(&shown);
            let made = git.run(&args).await;
            made.map_err(|e| e.context(format!("failed to init repo at {shown}")))?;
        }
        // Submodules may be named relative to it.
        mirror
            .run(&["config", "remote.origin.url", &self.remote])
            .await?;
        // A fetch that was killed leaves its lock.
        match std::fs::remove_file(dir.join("shallow.lock")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::from_error(&e).context("removing a lock of git"))
            }
            _ => Ok(()),
        }
    }

    async fn download(
        &self,
        dir: &Path,
        mirror: &Git,
        revision: &GitRevision,
    ) -> Result<(), Failure> {
        let wanted = if self.fetch_by_commit {
            &revision.checksum
        } else {
            &revision.reference
        };
        let mut args = vec!["fetch"];
        if self.fetch_by_commit || !is_commit(wanted) {
            args.extend(["--depth=1", "--no-tags"]);
        } else {
            args.extend(unshallowing(dir));
        }
        args.push("origin");
        let spec = format!("{wanted}:{}", local(&revision.reference));
        if is_commit(wanted) {
            args.push(wanted);
        } else {
            args.extend(["--force", "--", &spec]);
        }
        self.run_fetch(mirror, &args).await?;
        let object = revision.checksum.as_str();
        if mirror.run(&["cat-file", "-e", object]).await.is_err() {
            // The reference moved on since it was resolved: the commit itself is asked for.
            let mut args = vec!["fetch"];
            args.extend(unshallowing(dir));
            args.extend(["origin", object]);
            self.run_fetch(mirror, &args).await?;
        }
        if mirror.run(&["cat-file", "-e", object]).await.is_err() {
            return Err(Failure::new(format!(
                "fetched ref {} does not match expected commit {object} and commit can not be found in the repository",
                revision.reference
            )));
        }
        if !is_commit(&revision.reference) {
            let name = local(&revision.reference);
            mirror
                .run(&["update-ref", "--no-deref", &name, object])
                .await?;
        }
        Ok(())
    }

    async fn run_fetch(&self, mirror: &Git, args: &[&str]) -> Result<(), Failure> {
        let fetched = mirror.run(args).await;
        let shown = self.shown();
        fetched
            .map(drop)
            .map_err(|e| e.context(format!("failed to fetch remote {shown}")))
    }

    /// The checksum may be a tag's or that of the commit behind it.
    async fn verify(&self, mirror: &Git, revision: &GitRevision) -> Result<(), Failure> {
        let wanted = self.checksum.as_str();
        if revision.checksum.starts_with(wanted) {
            return Ok(());
        }
        let peeled = format!("{}^{{}}", revision.checksum);
        let peeled = mirror.run(&["rev-parse", &peeled]).await?;
        if peeled.trim().starts_with(wanted) {
            return Ok(());
        }
        Err(super::resolve::mismatch(
            wanted,
            &format!("{} or {}", revision.checksum, peeled.trim()),
        ))
    }
}

/// Name of a remote's reference in the mirror, where it is never the name of a branch that is checked out.
pub(super) fn local(reference: &str) -> String {
    match reference.strip_prefix("refs/tags/") {
        Some(_) => reference.to_owned(),
        None => format!("refs/tags/{reference}"),
    }
}

fn unshallowing(dir: &Path) -> Vec<&'static str> {
    let mut args = vec!["--tags"];
    if dir.join("shallow").exists() {
        args.push("--unshallow");
    }
    args
}

fn is_spoilt(message: &str) -> bool {
    (message.contains("rejected") && message.contains("(would clobber existing tag)"))
        || message.contains("unable to update local ref")
        || message.contains("cannot lock ref")
}
