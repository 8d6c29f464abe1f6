//! Blobs of records: small ones written, an image's manifests copied from the namespace that it was built in. Layers are
//! never copied: the history tells what was built, it doesn't keep it.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use serde_json::Value;
use shipway_backend::{BackendError, BlobSlot, Blobs, Lease, Namespace};
use shipway_model::descriptor::IN_TOTO;
use shipway_model::{Descriptor, Digest};

/// Largest manifest or configuration that is copied, in bytes.
const SMALL: u64 = 8 << 20;

/// Writes a blob under a lease.
pub(crate) async fn write(
    to: &Namespace,
    lease: &Lease,
    media_type: &str,
    bytes: Bytes,
    labels: BTreeMap<String, String>,
) -> Result<Descriptor, BackendError> {
    let descriptor = Descriptor::of(media_type, &bytes);
    let name = format!("history-{}", descriptor.digest.hex());
    let expected = Some((descriptor.digest, descriptor.size));
    match to
        .blobs
        .write(lease, &name, expected, labels.clone())
        .await?
    {
        BlobSlot::Write(mut writer) => {
            writer.append(bytes).await?;
            writer.commit(descriptor.digest, descriptor.size).await?;
        }
        BlobSlot::Present if labels.is_empty() => {}
        BlobSlot::Present => to.blobs.label(&descriptor.digest, labels).await?,
    }
    Ok(descriptor)
}

/// Copies an image: its index, manifests, configurations and attestations. What is missing is left out.
pub(crate) fn copy<'a>(
    from: &'a Namespace,
    to: &'a Namespace,
    lease: &'a Lease,
    target: &'a Descriptor,
) -> BoxFuture<'a, Result<(), BackendError>> {
    Box::pin(async move {
        if target.size > SMALL || from.blobs.info(&target.digest).await?.is_none() {
            return Ok(());
        }
        let bytes = read(&*from.blobs, &target.digest).await?;
        let mut labels = BTreeMap::new();
        for (at, child) in children(target, &bytes).iter().enumerate() {
            copy(from, to, lease, child).await?;
            let key = format!("containerd.io/gc.ref.content.{at}");
            labels.insert(key, child.digest.to_string());
        }
        write(to, lease, &target.media_type, bytes, labels)
            .await
            .map(drop)
    })
}

/// The whole of a small blob.
pub(crate) async fn read(blobs: &dyn Blobs, digest: &Digest) -> Result<Bytes, BackendError> {
    let mut data = blobs.open(digest, 0).await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = data.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes.freeze())
}

/// What a manifest or an index names, layers apart.
fn children(of: &Descriptor, bytes: &[u8]) -> Vec<Descriptor> {
    if !of.is_index() && !of.is_manifest() {
        return Vec::new();
    }
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else {
        return Vec::new();
    };
    let listed = |key: &str| {
        let list = json.get(key).and_then(Value::as_array);
        list.into_iter().flatten()
    };
    let layers = listed("layers").filter(|layer| layer["mediaType"] == IN_TOTO);
    let named = listed("manifests").chain(json.get("config")).chain(layers);
    named
        .filter_map(|value| serde_json::from_value(value.clone()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use shipway_model::descriptor::{OCI_LAYER, OCI_MANIFEST};

    use super::*;

    #[test]
    fn layers_stay_behind_and_attestations_do_not() {
        let descriptor = |media_type: &str| Descriptor::of(media_type, media_type.as_bytes());
        let manifest = serde_json::json!({
            "config": descriptor("c"),
            "layers": [descriptor(OCI_LAYER), descriptor(IN_TOTO)],
        });
        let bytes = manifest.to_string();
        let manifest = Descriptor::of(OCI_MANIFEST, bytes.as_bytes());
        let named: Vec<String> = children(&manifest, bytes.as_bytes())
            .into_iter()
            .map(|child| child.media_type)
            .collect();
        assert_eq!(
            named,
            [IN_TOTO, "c"]
                .map(str::to_owned)
                .into_iter()
                .rev()
                .collect::<Vec<_>>()
        );
        assert!(children(&descriptor("c"), b"{}").is_empty());
    }
}
