//! Rules of [`Registry`](crate::Registry).

use bytes::Bytes;
use shipway_model::descriptor::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use shipway_model::{Descriptor, Digest, ImageRef};

use super::{broken_stream, bytes, collect, stream};
use crate::{BackendError, ErrorKind, Registry, RegistryAccess};

/// Every rule, on an empty registry that asks nobody for credentials.
pub async fn all(registry: &dyn Registry, host: &str) {
    an_image_is_pushed_resolved_and_fetched(registry, host).await;
    a_blob_is_mounted_from_another_repository(registry, host).await;
    what_is_not_there_is_not_found_under_its_name(registry, host).await;
    what_is_wrong_is_not_taken(registry, host).await;
}

/// Access without credentials.
#[must_use]
pub fn anonymous() -> RegistryAccess {
    RegistryAccess {
        auth: Vec::new(),
        insecure: false,
    }
}

fn image(host: &str, rest: &str) -> ImageRef {
    format!("{host}/{rest}").parse().unwrap()
}

async fn push(registry: &dyn Registry, image: &ImageRef, blob: &[u8]) -> Descriptor {
    let descriptor = Descriptor::of(OCI_LAYER, blob);
    let pieces = blob.chunks(300_000).map(Bytes::copy_from_slice);
    let pushed = registry
        .push_blob(image, &descriptor, stream(pieces), &anonymous())
        .await;
    pushed.unwrap();
    descriptor
}

async fn fetch(
    registry: &dyn Registry,
    image: &ImageRef,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, BackendError> {
    collect(registry.fetch(image, descriptor, &anonymous()).await?).await
}

/// A manifest of one layer.
fn manifest(config: &Descriptor, layer: &Descriptor) -> Bytes {
    let of = |descriptor: &Descriptor| {
        format!(
            r#"{{"mediaType":"{}","digest":"{}","size":{}}}"#,
            descriptor.media_type, descriptor.digest, descriptor.size
        )
    };
    let (config, layer) = (of(config), of(layer));
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[{layer}]}}"#
    )
    .into()
}

async fn an_image_is_pushed_resolved_and_fetched(registry: &dyn Registry, host: &str) {
    let access = anonymous();
    let image = image(host, "suite/a:1");
    let data = bytes(3_000_001);
    let absent = Digest::of(&data);
    assert!(
        !registry
            .has_blob(&image, &absent, None, &access)
            .await
            .unwrap()
    );
    let layer = push(registry, &image, &data).await;
    assert!(
        registry
            .has_blob(&image, &absent, None, &access)
            .await
            .unwrap()
    );
    let mut config = push(registry, &image, b"{}").await;
    config.media_type = OCI_CONFIG.into();
    let manifest = manifest(&config, &layer);
    let descriptor = Descriptor::of(OCI_MANIFEST, &manifest);
    for _ in 0..2 {
        let pushed = registry.push_manifest(&image, &descriptor, manifest.clone(), &access);
        pushed.await.unwrap();
    }
    assert_eq!(registry.resolve(&image, &access).await.unwrap(), descriptor);
    let pinned = image.clone().with_digest(descriptor.digest);
    assert_eq!(
        registry.resolve(&pinned, &access).await.unwrap(),
        descriptor
    );
    assert_eq!(
        fetch(registry, &image, &descriptor).await.unwrap(),
        manifest
    );
    assert!(fetch(registry, &image, &layer).await.unwrap() == data);
}

async fn a_blob_is_mounted_from_another_repository(registry: &dyn Registry, host: &str) {
    let access = anonymous();
    let from = image(host, "suite/from");
    let to = image(host, "suite/to");
    let layer = push(registry, &from, b"mounted").await;
    let digest = &layer.digest;
    let mounted = registry.has_blob(&to, digest, Some("no/such"), &access);
    assert!(!mounted.await.unwrap());
    let mounted = registry.has_blob(&to, digest, Some("suite/from"), &access);
    assert!(mounted.await.unwrap());
    assert_eq!(fetch(registry, &to, &layer).await.unwrap(), b"mounted");
}

async fn what_is_not_there_is_not_found_under_its_name(registry: &dyn Registry, host: &str) {
    let image = image(host, "suite/absent:1");
    let error = registry.resolve(&image, &anonymous()).await.unwrap_err();
    assert!(error.is_not_found());
    let whole = format!("{error}: {}", error.cause.as_ref().unwrap());
    assert_eq!(whole, format!("{image}: not found"));
    let blob = Descriptor::of(OCI_LAYER, b"absent");
    assert!(
        fetch(registry, &image, &blob)
            .await
            .unwrap_err()
            .is_not_found()
    );
}

async fn what_is_wrong_is_not_taken(registry: &dyn Registry, host: &str) {
    let access = anonymous();
    let image = image(host, "suite/wrong:1");
    let told = Descriptor::new(OCI_LAYER, Digest::of(b"told"), 4);
    let lie = registry.push_blob(&image, &told, stream(["lie!".into()]), &access);
    assert_eq!(lie.await.unwrap_err().kind, ErrorKind::Corrupt);
    let broken = broken_stream(["to".into()]);
    let broken = registry.push_blob(&image, &told, broken, &access).await;
    assert_eq!(broken.unwrap_err().to_string(), "reading");
    let digest = &told.digest;
    assert!(
        !registry
            .has_blob(&image, digest, None, &access)
            .await
            .unwrap()
    );
    let lie = registry.push_manifest(&image, &told, "lie!".into(), &access);
    assert_eq!(lie.await.unwrap_err().kind, ErrorKind::Corrupt);
}
