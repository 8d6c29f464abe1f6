//! Attestations as files beside a result's own, in local and tar exports: statements about every file of the result.

use std::collections::BTreeSet;
use std::fs::{OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use shipway_model::{Digest, Failure};
use shipway_tree::{Kind, Stack};

use crate::attest::{self, Attestation};
use crate::image::pretty;
use crate::{ExportEnv, Exportable, Options, PlatformResult};

/// How much of a file is read at once.
const CHUNK: usize = 1 << 20;

/// A file that says something about a result.
pub(crate) struct Note {
    /// Path in the export.
    path: String,
    content: Bytes,
    epoch: Option<i64>,
}

/// The files of all results' attestations; `place` gives the directory of a result in the export, `split` tells whether
/// each has its own.
pub(crate) async fn notes(
    options: &Options,
    what: &Exportable,
    split: bool,
    place: impl Fn(&PlatformResult) -> String,
    env: &ExportEnv,
) -> Result<Vec<Note>, Failure> {
    let mut notes = Vec::new();
    let mut taken = BTreeSet::new();
    for result in &what.results {
        let outside = |note: &&Attestation| !note.head.is_inline_only();
        let of = what.attestations_of(result).iter().filter(outside);
        let of: Vec<Attestation> = of.cloned().collect();
        if of.is_empty() {
            continue;
        }
        let all = attest::unbundled(&of, env).await?;
        let about = files(result, env).await?;
        for (head, statement) in attest::statements(&all, &about)? {
            let platform = (what.multi_platform && !split).then_some(result);
            let name = name(options, &head.path, platform);
            let path = format!("{}{name}", place(result));
            if !taken.insert(path.clone()) {
                let message = format!("duplicate attestation path name {name}");
                return Err(Failure::new(message));
            }
            notes.push(Note {
                path,
                content: pretty(&statement)?,
                epoch: options.epoch.or(what.epoch),
            });
        }
    }
    Ok(notes)
}

/// Name of an attestation's file, with its platform where results share a directory.
fn name(options: &Options, path: &str, platform: Option<&PlatformResult>) -> String {
    let base = path.rsplit('/').next().unwrap_or(path);
    let name = format!("{}{base}", options.attestation_prefix);
    let Some(result) = platform else {
        return name;
    };
    let platform = result.key.replace('/', "_");
    match name.rsplit_once('.') {
        Some((stem, extension)) => format!("{stem}.{platform}.{extension}"),
        None => format!("{name}.{platform}"),
    }
}

/// Every regular file of a result, with its digest.
async fn files(result: &PlatformResult, env: &ExportEnv) -> Result<Vec<(String, Digest)>, Failure> {
    let paths = result.snapshot.materialise(&env.layers, &env.need).await?;
    let hashed = tokio::task::spawn_blocking(move || {
        let tree = Stack::open(paths)?;
        let mut files = Vec::new();
        tree.walk(&tree.root(), &mut |rel, item| {
            if item.kind == Kind::File {
                let mut file = tree.layers()[item.layer].open_file(rel)?;
                let digest = hash(&mut file)
                    .map_err(|e| shipway_tree::Error::io("read", Path::new("/").join(rel), e))?;
                files.push((rel.to_string_lossy().into_owned(), digest));
            }
            Ok(())
        })?;
        Ok::<_, shipway_tree::Error>(files)
    });
    let hashed = hashed.await.map_err(|e| Failure::from_error(&e))?;
    hashed.map_err(|e| Failure::from_error(&e).context("hashing files for an attestation"))
}

fn hash(file: &mut std::fs::File) -> std::io::Result<Digest> {
    let mut sha256 = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok(Digest::from_bytes(sha256.finalize().into()));
        }
        sha256.update(&chunk[..count]);
    }
}

impl Note {
    /// Writes the file below `root`, whose directories are there. What the result has under this name is replaced, not
    /// written to: it may be a link to a layer's file.
    pub(crate) fn write(&self, root: &Path) -> std::io::Result<()> {
        let path = root.join(&self.path);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(&self.content)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        if let Some(seconds) = self.epoch.and_then(|seconds| u64::try_from(seconds).ok()) {
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use shipway_layers::Snapshot;
    use shipway_model::Platform;

    use super::*;

    #[test]
    fn files_are_named_by_prefix_and_shared_directories_by_platform() {
        let options = Options {
            attestation_prefix: "x.".into(),
            ..Options::default()
        };
        let result = PlatformResult {
            key: "linux/amd64".into(),
            platform: Platform::host(),
            snapshot: Snapshot::default(),
            config: None,
            cache: None,
        };
        assert_eq!(name(&options, "a/sbom.spdx.json", None), "x.sbom.spdx.json");
        assert_eq!(
            name(&Options::default(), "provenance.json", Some(&result)),
            "provenance.linux_amd64.json"
        );
    }

    #[test]
    fn a_file_of_that_name_is_replaced_and_its_links_are_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let (own, link) = (dir.path().join("own"), dir.path().join("note"));
        std::fs::write(&own, "layer").unwrap();
        std::fs::hard_link(&own, &link).unwrap();
        let note = Note {
            path: "note".into(),
            content: Bytes::from_static(b"said"),
            epoch: Some(1),
        };
        note.write(dir.path()).unwrap();
        assert_eq!(std::fs::read(&own).unwrap(), b"layer");
        assert_eq!(std::fs::read(&link).unwrap(), b"said");
    }
}
