//! Files that one step needs from the daemon: hosts, resolver configuration, secrets, agent sockets. They live in a
//! private directory in memory and go with the step.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use shipway_model::Failure;

/// A step's private directory; removed when dropped.
pub(super) struct StepFiles(PathBuf);

impl StepFiles {
    /// A new directory below `parent`, mode 0700.
    pub(super) fn create(parent: &Path) -> Result<Self, Failure> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let dir = parent.join(format!("step-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let made = std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&dir);
        made.map_err(|e| failed("making", &dir, &e))?;
        Ok(Self(dir))
    }

    /// A file of this name and content.
    pub(super) fn file(&self, name: &str, content: &[u8], mode: u32) -> Result<PathBuf, Failure> {
        let file = self.0.join(name);
        std::fs::write(&file, content)
            .and_then(|()| std::fs::set_permissions(&file, Permissions::from_mode(mode)))
            .map_err(|e| failed("writing", &file, &e))?;
        Ok(file)
    }

    /// A file that belongs to a user of the step.
    pub(super) fn owned_file(
        &self,
        name: &str,
        content: &[u8],
        (uid, gid, mode): (u32, u32, u32),
    ) -> Result<PathBuf, Failure> {
        let file = self.file(name, content, 0o600)?;
        own(&file, uid, gid, mode)?;
        Ok(file)
    }

    /// A path for something that the caller makes.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Gives a file to a user of the step.
pub(super) fn own(file: &Path, uid: u32, gid: u32, mode: u32) -> Result<(), Failure> {
    std::os::unix::fs::chown(file, Some(uid), Some(gid))
        .and_then(|()| std::fs::set_permissions(file, Permissions::from_mode(mode & 0o7777)))
        .map_err(|e| failed("setting the owner of", file, &e))
}

fn failed(attempt: &str, file: &Path, cause: &io::Error) -> Failure {
    Failure::from_error(cause).context(format!("{attempt} {}", file.display()))
}

impl Drop for StepFiles {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "removing a step's files");
        }
    }
}
