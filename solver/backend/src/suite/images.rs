//! Rules of [`Images`](crate::Images) and [`Leases`](crate::Leases).

use std::collections::BTreeMap;
use std::time::Duration;

use shipway_model::Descriptor;
use shipway_model::descriptor::OCI_MANIFEST;

use crate::images::Resource;
use crate::{BlobSlot, Image, Lease, Namespace};

/// Every rule.
pub async fn all(ns: &Namespace) {
    an_image_is_found_by_its_name_and_replaced(ns).await;
    a_lease_may_be_ended_twice_and_hold_what_is_there(ns).await;
    cleaning_up_spares_what_is_in_use(ns).await;
    what_a_kept_lease_held_goes_with_it(ns).await;
    what_an_ended_lease_held_is_collected_on_request(ns).await;
}

async fn what_an_ended_lease_held_is_collected_on_request(ns: &Namespace) {
    let (ended, lasting) = (written(ns, "ended").await, written(ns, "lasting").await);
    ended.0.end().await.unwrap();
    ns.leases.collect().await.unwrap();
    assert_eq!(ns.blobs.info(&ended.1.digest).await.unwrap(), None);
    assert!(ns.blobs.info(&lasting.1.digest).await.unwrap().is_some());
}

/// A blob under a lease of its own.
async fn written(ns: &Namespace, text: &'static str) -> (Lease, Descriptor) {
    let lease = ns.leases.create(Duration::from_mins(1)).await.unwrap();
    let descriptor = write(ns, &lease, text).await;
    (lease, descriptor)
}

/// Writes a blob under a lease.
async fn write(ns: &Namespace, lease: &Lease, text: &'static str) -> Descriptor {
    let slot = ns.blobs.write(lease, text, None, BTreeMap::new()).await;
    let BlobSlot::Write(mut writer) = slot.unwrap() else {
        panic!("a blob without a digest cannot be there");
    };
    let descriptor = Descriptor::of("x", text.as_bytes());
    writer.append(text.into()).await.unwrap();
    writer
        .commit(descriptor.digest, descriptor.size)
        .await
        .unwrap();
    descriptor
}

async fn an_image_is_found_by_its_name_and_replaced(ns: &Namespace) {
    let name = "docker.io/library/suite:latest";
    assert_eq!(ns.images.get(name).await.unwrap(), None);
    for text in ["one", "two"] {
        let mut target = Descriptor::of(OCI_MANIFEST, text.as_bytes());
        target.annotations.insert("a".into(), text.into());
        let image = Image {
            name: name.into(),
            target,
            labels: [(text.to_owned(), "1".to_owned())].into(),
        };
        ns.images.put(image.clone()).await.unwrap();
        assert_eq!(ns.images.get(name).await.unwrap(), Some(image));
    }
}

async fn a_lease_may_be_ended_twice_and_hold_what_is_there(ns: &Namespace) {
    let (first, descriptor) = written(ns, "held").await;
    let second = ns.leases.create(Duration::from_mins(1)).await.unwrap();
    assert_ne!(first.id(), second.id());
    let held = [Resource::Blob(descriptor.digest)];
    ns.leases.hold(&second, &held).await.unwrap();
    first.end().await.unwrap();
    first.end().await.unwrap();
    assert!(ns.blobs.info(&descriptor.digest).await.unwrap().is_some());
}

async fn cleaning_up_spares_what_is_in_use(ns: &Namespace) {
    let lease = ns.leases.create(Duration::from_mins(1)).await.unwrap();
    ns.leases.clean_up().await.unwrap();
    let held = [Resource::Snapshot("overlayfs".into(), "no-such".into())];
    // A lease may name what is not there (yet); one that is gone cannot.
    ns.leases.hold(&lease, &held).await.unwrap();
}

async fn what_a_kept_lease_held_goes_with_it(ns: &Namespace) {
    let name = "suite-kept";
    let lease = ns.leases.keep(name).await.unwrap();
    let again = ns.leases.keep(name).await.unwrap();
    assert_eq!((lease.id(), again.id()), (name, name));
    let descriptor = write(ns, &lease, "kept by name").await;
    ns.leases.clean_up().await.unwrap();
    assert_eq!(ns.leases.kept().await.unwrap(), [name]);
    assert!(ns.blobs.info(&descriptor.digest).await.unwrap().is_some());
    ns.leases.forget(name).await.unwrap();
    ns.leases.forget(name).await.unwrap();
    assert_eq!(ns.leases.kept().await.unwrap(), [""; 0]);
    assert_eq!(ns.blobs.info(&descriptor.digest).await.unwrap(), None);
}
