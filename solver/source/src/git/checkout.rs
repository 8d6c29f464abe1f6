//! Puts a revision's tree into a new layer: with submodules, narrowed to a directory, with or without its git directory.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use shipway_layers::Snapshot;
use shipway_model::Failure;

use super::command::Git;
use super::mirror::local;
use super::{GitRepo, GitRevision, is_commit};
use crate::Env;
use crate::http::without_password;

impl GitRepo {
    /// A layer with the tree of a revision that the mirror has, and what git told about it.
    pub(super) async fn checkout(
        &self,
        env: &Env,
        mirror: &Git,
        revision: &GitRevision,
    ) -> Result<(Snapshot, String), Failure> {
        let building = env.layers.begin()?;
        let inner = building.work().join("checkout");
        let told = self
            .checkout_into(mirror, revision, building.fs(), &inner)
            .await?;
        let description = format!("git snapshot for {}#{}", self.shown(), revision.reference);
        let finish = move || building.finish(&description, Timestamp::now());
        let layer = tokio::task::spawn_blocking(finish)
            .await
            .map_err(|e| Failure::from_error(&e))??;
        Ok((Snapshot::new([layer]), told))
    }

    /// Fills `to`; `inner` is a path on the same filesystem for a tree of which only a directory is wanted. Gives what git
    /// told, which has its advice where that is wanted.
    pub(super) async fn checkout_into(
        &self,
        mirror: &Git,
        revision: &GitRevision,
        to: &Path,
        inner: &Path,
    ) -> Result<String, Failure> {
        let narrowed = !self.subdir.is_empty();
        let tree = if narrowed { inner } else { to };
        if narrowed {
            fs::create_dir(inner).map_err(|e| failed(&e, "making", inner))?;
        }
        let (checkout, mut told) = if self.keep_git_dir && !narrowed {
            self.clone_into(mirror, revision, tree).await?
        } else {
            let checkout = mirror.to(tree);
            let args = ["checkout", "--no-overlay", &revision.checksum, "--", "."];
            let (_, told) = self.named(checkout.told(&args).await, "failed to checkout remote")?;
            (checkout, told)
        };
        if !self.skip_submodules && tree.join(".gitmodules").exists() {
            let args = ["submodule", "update", "--init", "--recursive", "--depth=1"];
            let done = checkout.told(&args).await;
            told += &self.named(done, "failed to update submodules for")?.1;
        }
        if narrowed {
            narrow(inner, Path::new(&self.subdir), to)?;
        }
        if self.mtime == "commit" {
            let seconds = commit_time(mirror, &revision.checksum).await?;
            let root = to.to_owned();
            let dated = tokio::task::spawn_blocking(move || set_times(&root, seconds));
            dated.await.map_err(|e| Failure::from_error(&e))??;
        }
        Ok(told)
    }

    /// A repository of its own with this commit alone, that knows the remote but not the mirror.
    async fn clone_into(
        &self,
        mirror: &Git,
        revision: &GitRevision,
        tree: &Path,
    ) -> Result<(Git, String), Failure> {
        let dir = tree.join(".git");
        let checkout = mirror.on(&dir).to(tree);
        let mut init = vec!["-c", "init.defaultBranch=master", "init"];
        if revision.checksum.len() == 64 {
            init.push("--object-format=sha256");
        }
        checkout.run(&init).await?;
        let from = mirror.git_dir.as_deref().unwrap_or(Path::new("/"));
        // Over the file protocol: a local clone would link files of this machine.
        let from = format!("file://{}", from.display());
        checkout.run(&["remote", "add", "origin", &from]).await?;
        let kind = mirror.run(&["cat-file", "-t", &revision.checksum]).await?;
        let spec = match revision.reference.as_str() {
            tag if kind.trim() == "tag" => format!("{}:{}", local(tag), local(tag)),
            commit if is_commit(commit) => {
                let name = format!("refs/shipway/{commit}");
                mirror.run(&["update-ref", &name, commit]).await?;
                name
            }
            name => {
                let held = format!("refs/shipway/{}", revision.checksum);
                mirror
                    .run(&["update-ref", &held, &revision.checksum])
                    .await?;
                format!("{held}:{name}")
            }
        };
        checkout
            // Git would follow to a tag by itself, and then refuse to write it twice.
            .run(&[
                "fetch",
                "-u",
                "--depth=1",
                "--no-tags",
                "--",
                "origin",
                &spec,
            ])
            .await?;
        let done = checkout.told(&["checkout", "FETCH_HEAD"]).await;
        let (_, told) = self.named(done, "failed to checkout remote")?;
        let shown = without_password(&self.remote);
        checkout
            .run(&["remote", "set-url", "origin", &shown])
            .await?;
        checkout
            .run(&["reflog", "expire", "--all", "--expire=now"])
            .await?;
        let fetch_head = dir.join("FETCH_HEAD");
        match fs::remove_file(&fetch_head) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(failed(&e, "removing", &fetch_head))
            }
            _ => Ok((checkout, told)),
        }
    }

    fn named<T>(&self, done: Result<T, Failure>, attempt: &str) -> Result<T, Failure> {
        done.map_err(|e| e.context(format!("{attempt} {}", self.shown())))
    }
}

fn failed(error: &std::io::Error, attempt: &str, path: &Path) -> Failure {
    Failure::from_error(error).context(format!("{attempt} {}", path.display()))
}

/// Seconds since 1970 when a commit, or the one behind a tag, was made.
pub(super) async fn commit_time(git: &Git, object: &str) -> Result<i64, Failure> {
    let commit = format!("{object}^{{commit}}");
    let text = git.run(&["log", "-1", "--format=%ct", &commit]).await?;
    text.trim().parse().map_err(|e: std::num::ParseIntError| {
        Failure::from_error(&e).context(format!("reading the time of commit {object}"))
    })
}

/// Moves what a directory of `tree` holds into `to`. No link may lead there.
fn narrow(tree: &Path, subdir: &Path, to: &Path) -> Result<(), Failure> {
    let mut from = PathBuf::from(tree);
    for part in subdir.components() {
        from.push(part);
        let shown = || format!("invalid subdir {}", subdir.display());
        let meta =
            fs::symlink_metadata(&from).map_err(|e| Failure::from_error(&e).context(shown()))?;
        if !meta.is_dir() {
            let message = format!(
                "git subpath {:?} contains non-directory {part:?}",
                subdir.display()
            );
            return Err(Failure::new(message).context(shown()));
        }
    }
    for entry in fs::read_dir(&from).map_err(|e| failed(&e, "reading", &from))? {
        let entry = entry.map_err(|e| failed(&e, "reading", &from))?;
        fs::rename(entry.path(), to.join(entry.file_name()))
            .map_err(|e| failed(&e, "moving", &entry.path()))?;
    }
    fs::remove_dir_all(tree).map_err(|e| failed(&e, "removing", tree))
}

/// Dates everything in a tree, directories after what they hold.
fn set_times(dir: &Path, seconds: i64) -> Result<(), Failure> {
    for entry in fs::read_dir(dir).map_err(|e| failed(&e, "reading", dir))? {
        let entry = entry.map_err(|e| failed(&e, "reading", dir))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            set_times(&entry.path(), seconds)?;
        } else {
            set_time(&entry.path(), seconds)?;
        }
    }
    set_time(dir, seconds)
}

fn set_time(path: &Path, seconds: i64) -> Result<(), Failure> {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| failed(&e.into(), "setting the time of", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
    use std::process::Command;

    use super::*;

    /// A repository with a branch, an annotated tag on its first commit, and a link out of it.
    fn origin(dir: &Path) {
        let git = |args: &[&str]| {
            let mut command = Command::new("git");
            command
                .args(["-c", "user.name=n", "-c", "user.email=e"])
                .args(args)
                .current_dir(dir);
            command
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_CONFIG_NOSYSTEM", "1");
            command.env("GIT_COMMITTER_DATE", "1700000000 +0000");
            assert!(command.output().unwrap().status.success(), "{args:?}");
        };
        git(&["-c", "init.defaultBranch=main", "init"]);
        fs::create_dir_all(dir.join("sub/dir")).unwrap();
        fs::write(dir.join("sub/dir/f"), "one").unwrap();
        fs::set_permissions(dir.join("sub/dir/f"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("/etc", dir.join("out")).unwrap();
        git(&["add", "."]);
        git(&["commit", "-m", "one"]);
        git(&["tag", "-a", "v1", "-m", "v1"]);
        fs::write(dir.join("g"), "two").unwrap();
        git(&["add", "."]);
        git(&["commit", "-m", "two"]);
    }

    struct Stand {
        dir: tempfile::TempDir,
        repo: GitRepo,
    }

    impl Stand {
        fn new(repo: GitRepo) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("origin")).unwrap();
            origin(&dir.path().join("origin"));
            let remote = format!("file://{}/origin", dir.path().display());
            Self {
                repo: GitRepo { remote, ..repo },
                dir,
            }
        }

        async fn checkout(&self, name: &str) -> Result<(GitRevision, PathBuf), Failure> {
            let (revision, to, _) = self.told(name).await?;
            Ok((revision, to))
        }

        async fn told(&self, name: &str) -> Result<(GitRevision, PathBuf, String), Failure> {
            let git = Git {
                advice: self.repo.advice,
                ..Git::default()
            };
            let revision = match self.repo.pinned()? {
                Some(revision) => revision,
                None => self.repo.ask(&git).await?,
            };
            let mirror = self.dir.path().join("mirror");
            let mirror = self.repo.fetch_into(&mirror, &git, &revision).await?;
            let to = self.dir.path().join(name);
            fs::create_dir(&to).unwrap();
            let inner = self.dir.path().join("inner");
            let told = self
                .repo
                .checkout_into(&mirror, &revision, &to, &inner)
                .await?;
            Ok((revision, to, told))
        }
    }

    #[tokio::test]
    async fn the_default_branch_is_checked_out_without_its_git_directory() {
        let stand = Stand::new(GitRepo::default());
        let (revision, tree) = stand.checkout("tree").await.unwrap();
        assert_eq!(revision.reference, "refs/heads/main");
        assert_eq!(fs::read(tree.join("g")).unwrap(), b"two");
        assert!(!tree.join(".git").exists());
        let mode = |path: &str| fs::symlink_metadata(tree.join(path)).unwrap().mode() & 0o777;
        assert_eq!(
            (mode("sub/dir/f"), mode("g"), mode("sub")),
            (0o755, 0o644, 0o755)
        );
    }

    #[tokio::test]
    async fn a_tag_is_its_commit_and_a_commit_is_found_by_hash() {
        let stand = Stand::new(GitRepo {
            reference: "v1".into(),
            ..GitRepo::default()
        });
        let (tagged, tree) = stand.checkout("tag").await.unwrap();
        assert_eq!(tagged.reference, "refs/tags/v1");
        assert!(tree.join("sub/dir/f").exists() && !tree.join("g").exists());
        let commit = tagged.commit.unwrap();
        let repo = GitRepo {
            reference: commit.clone(),
            ..stand.repo.clone()
        };
        let by_hash = Stand { repo, ..stand };
        let (revision, tree) = by_hash.checkout("commit").await.unwrap();
        assert_eq!((revision.checksum, revision.commit), (commit, None));
        assert!(!tree.join("g").exists());
    }

    #[tokio::test]
    async fn advice_is_told_where_it_is_wanted() {
        for advice in [false, true] {
            let stand = Stand::new(GitRepo {
                keep_git_dir: true,
                advice,
                ..GitRepo::default()
            });
            let (_, _, told) = stand.told("tree").await.unwrap();
            assert_eq!(told.contains("detached HEAD"), advice, "{told}");
        }
    }

    #[tokio::test]
    async fn a_kept_git_directory_names_no_mirror() {
        for reference in ["", "v1"] {
            let repo = GitRepo {
                keep_git_dir: true,
                reference: reference.into(),
                ..GitRepo::default()
            };
            let stand = Stand::new(repo);
            let (_, tree) = stand.checkout("tree").await.unwrap();
            let config = fs::read_to_string(tree.join(".git/config")).unwrap();
            assert!(
                config.contains("/origin") && !config.contains("mirror"),
                "{config}"
            );
            assert!(!tree.join(".git/FETCH_HEAD").exists());
            let status = Git::default().on(tree.join(".git")).to(&tree);
            assert_eq!(status.run(&["status", "--porcelain"]).await.unwrap(), "");
        }
    }

    #[tokio::test]
    async fn a_directory_of_it_becomes_the_root_with_the_commit_s_time() {
        let repo = GitRepo {
            subdir: "sub/dir".into(),
            mtime: "commit".into(),
            ..GitRepo::default()
        };
        let stand = Stand::new(repo);
        let (_, tree) = stand.checkout("tree").await.unwrap();
        assert_eq!(fs::metadata(tree.join("f")).unwrap().mtime(), 1_700_000_000);
        assert_eq!(fs::metadata(&tree).unwrap().mtime(), 1_700_000_000);
        let outside = GitRepo {
            subdir: "out".into(),
            ..GitRepo::default()
        };
        let failure = Stand::new(outside).checkout("tree").await.unwrap_err();
        assert!(
            failure.message.contains("contains non-directory"),
            "{failure:?}"
        );
    }

    #[tokio::test]
    async fn another_commit_than_the_checksum_is_refused() {
        let repo = GitRepo {
            checksum: "00000000".into(),
            ..GitRepo::default()
        };
        let failure = Stand::new(repo).checkout("tree").await.unwrap_err();
        assert!(
            failure
                .message
                .starts_with("expected checksum to match 00000000, got")
        );
        let missing = GitRepo {
            reference: "nowhere".into(),
            ..GitRepo::default()
        };
        let failure = Stand::new(missing).checkout("tree").await.unwrap_err();
        assert!(
            failure
                .message
                .starts_with("repository does not contain ref nowhere")
        );
    }
}
