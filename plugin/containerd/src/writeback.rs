//! Has a large upload written to disk while it is under way: containerd waits for the disk when a blob is committed, and by
//! then little is left to wait for. A hint to the kernel and nothing else; where containerd's files are out of reach there
//! is none, and the upload is as good without.

use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use containerd_client::services::v1::PluginsRequest;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use rustix::fs::{Advice, fadvise};

use crate::connection::Connection;
use crate::scope::Scope;

/// Bytes that are written at once.
pub(crate) const PIECE: u64 = 64 << 20;

impl Connection {
    /// The directory of containerd's content store, as containerd says; `None` where it says nothing.
    pub(crate) async fn content_root(&self) -> Option<&Path> {
        let root = self.content_root.get_or_init(|| async {
            let request = PluginsRequest {
                filters: vec!["type==io.containerd.content.v1".to_owned()],
            };
            let mut client = IntrospectionClient::new(self.channel.clone());
            let answer = client.plugins(request).await;
            let plugins = answer.map(|answer| answer.into_inner().plugins);
            let mut plugins = plugins.unwrap_or_default().into_iter();
            plugins.find_map(|mut plugin| plugin.exports.remove("root").map(PathBuf::from))
        });
        root.await.as_deref()
    }
}

/// Has the piece of this upload that begins at `from` written.
pub(crate) async fn begin(scope: Scope, reference: String, from: u64) {
    let Some(root) = scope.connection.content_root().await else {
        return;
    };
    let root = root.to_owned();
    let hinted = tokio::task::spawn_blocking(move || hint(&root, &reference, from)).await;
    if let Ok(Err(error)) = hinted {
        tracing::debug!(%error, "an upload is written to disk at its end only");
    }
}

fn hint(root: &Path, reference: &str, from: u64) -> io::Result<()> {
    let Some(dir) = ingest(&root.join("ingest"), reference)? else {
        return Ok(());
    };
    let data = std::fs::File::open(dir.join("data"))?;
    // Dirty pages stay until they are written, which is begun by this.
    fadvise(&data, from, NonZeroU64::new(PIECE), Advice::DontNeed)?;
    Ok(())
}

/// The directory of an upload: its file `ref` ends with the reference, behind the namespace.
fn ingest(ingests: &Path, reference: &str) -> io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(ingests)? {
        let dir = entry?.path();
        // Another upload may end at any moment.
        let of = std::fs::read(dir.join("ref")).unwrap_or_default();
        if of.ends_with(reference.as_bytes()) {
            return Ok(Some(dir));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_found_by_its_reference() {
        let root = tempfile::tempdir().unwrap();
        let ingests = root.path().join("ingest");
        for (name, reference) in [("a", "1/default/x"), ("b", "2/default/y")] {
            std::fs::create_dir_all(ingests.join(name)).unwrap();
            std::fs::write(ingests.join(name).join("ref"), reference).unwrap();
            std::fs::write(ingests.join(name).join("data"), name).unwrap();
        }
        std::fs::create_dir(ingests.join("c")).unwrap();
        assert_eq!(ingest(&ingests, "y").unwrap(), Some(ingests.join("b")));
        assert_eq!(ingest(&ingests, "z").unwrap(), None);
        hint(root.path(), "x", 0).unwrap();
        assert!(hint(&ingests, "x", 0).is_err());
    }
}
