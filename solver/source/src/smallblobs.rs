//! Manifests and image configurations that were seen, kept beside the layers so that a build that changes nothing asks no
//! registry for them. One file per blob, named by digest, checked when read; losing one costs a request.

use std::path::PathBuf;

use bytes::Bytes;
use shipway_model::Digest;

#[derive(Clone)]
pub(crate) struct SmallBlobs(PathBuf);

impl SmallBlobs {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Bytes> {
        let bytes = std::fs::read(self.0.join(digest.hex())).ok()?;
        (Digest::of(&bytes) == *digest).then(|| bytes.into())
    }

    pub(crate) fn put(&self, digest: &Digest, bytes: &[u8]) {
        let file = self.0.join(digest.hex());
        let fresh = self.0.join(format!(
            "{}.{:?}",
            digest.hex(),
            std::thread::current().id()
        ));
        let written = std::fs::write(&fresh, bytes).and_then(|()| std::fs::rename(&fresh, &file));
        if let Err(error) = written {
            tracing::warn!(%digest, %error, "keeping a manifest");
        }
    }
}
