//! Rules of [`Blobs`](crate::Blobs).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use shipway_model::Digest;

use super::{bytes, collect};
use crate::{BlobSlot, BlobWriter, ErrorKind, Lease, Namespace};

const TTL: Duration = Duration::from_mins(10);

/// Every rule. The namespaces are two of one host, and empty.
pub async fn all(one: &Namespace, other: &Namespace) {
    a_committed_blob_is_read_from_any_offset(one).await;
    a_blob_of_unknown_digest_is_named_at_its_end(one).await;
    so_is_a_large_one(one, other).await;
    what_was_announced_and_is_there_is_not_written(one).await;
    another_namespaces_blob_is_shared_but_not_seen(one, other).await;
    a_lie_is_refused_and_leaves_nothing(one).await;
    a_dropped_writer_leaves_nothing(one).await;
    labels_are_added_and_kept(one).await;
    a_deleted_blob_is_gone_and_may_be_deleted_again(one).await;
    an_empty_blob_is_a_blob(one).await;
}

fn label(value: &str) -> BTreeMap<String, String> {
    [("suite".to_owned(), value.to_owned())].into()
}

async fn lease(ns: &Namespace) -> Lease {
    ns.leases.create(TTL).await.unwrap()
}

async fn writer(
    ns: &Namespace,
    lease: &Lease,
    expected: Option<(Digest, u64)>,
) -> Box<dyn BlobWriter> {
    let slot = ns.blobs.write(lease, "suite", expected, label("new")).await;
    match slot.unwrap() {
        BlobSlot::Write(writer) => writer,
        BlobSlot::Present => panic!("a blob is there that nobody wrote"),
    }
}

async fn put(ns: &Namespace, lease: &Lease, data: &[u8]) -> Digest {
    let digest = Digest::of(data);
    let size = data.len() as u64;
    let mut writer = writer(ns, lease, Some((digest, size))).await;
    writer.append(Bytes::copy_from_slice(data)).await.unwrap();
    writer.commit(digest, size).await.unwrap();
    digest
}

async fn a_committed_blob_is_read_from_any_offset(ns: &Namespace) {
    let lease = lease(ns).await;
    let data = bytes(3_500_000);
    let digest = put(ns, &lease, &data).await;
    let info = ns.blobs.info(&digest).await.unwrap().unwrap();
    assert_eq!(info.size, 3_500_000);
    assert_eq!(info.labels["suite"], "new");
    for offset in [0, 1, 3_499_999] {
        let read = ns.blobs.open(&digest, offset).await.unwrap();
        let from = usize::try_from(offset).unwrap();
        assert!(collect(read).await.unwrap() == data[from..]);
    }
}

async fn a_blob_of_unknown_digest_is_named_at_its_end(ns: &Namespace) {
    let lease = lease(ns).await;
    let mut writer = writer(ns, &lease, None).await;
    let data = bytes(70_001);
    for piece in data.chunks(1000) {
        writer.append(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    let digest = Digest::of(&data);
    writer.commit(digest, 70_001).await.unwrap();
    let read = ns.blobs.open(&digest, 0).await.unwrap();
    assert!(collect(read).await.unwrap() == data);
    // Another one with the same result is as good.
    let mut again = self::writer(ns, &lease, None).await;
    again.append(data.into()).await.unwrap();
    again.commit(digest, 70_001).await.unwrap();
}

async fn so_is_a_large_one(one: &Namespace, other: &Namespace) {
    let data = bytes(3_500_001);
    let size = data.len() as u64;
    let digest = Digest::of(&data);
    let mut held = None;
    for (ns, told) in [(one, size - 1), (one, size), (one, size), (other, size)] {
        // What only the lease before held may be collected while it is written again.
        drop(held.take());
        let lease = held.insert(lease(ns).await);
        let mut writer = writer(ns, lease, None).await;
        for piece in data.chunks(300_000) {
            writer.append(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        let committed = writer.commit(digest, told).await;
        if told != size {
            assert_eq!(committed.unwrap_err().kind, ErrorKind::Corrupt);
            assert_eq!(ns.blobs.info(&digest).await.unwrap(), None);
            continue;
        }
        committed.unwrap();
        let info = ns.blobs.info(&digest).await.unwrap().unwrap();
        assert_eq!((info.size, &*info.labels["suite"]), (size, "new"));
        let read = ns.blobs.open(&digest, 1).await.unwrap();
        assert!(collect(read).await.unwrap() == data[1..]);
    }
    one.blobs.delete(&digest).await.unwrap();
    let read = other.blobs.open(&digest, 0).await.unwrap();
    assert!(collect(read).await.unwrap() == data);
}

async fn what_was_announced_and_is_there_is_not_written(ns: &Namespace) {
    let first = lease(ns).await;
    let digest = put(ns, &first, b"announced").await;
    let second = lease(ns).await;
    let slot = ns
        .blobs
        .write(&second, "suite", Some((digest, 9)), label("again"));
    assert!(matches!(slot.await.unwrap(), BlobSlot::Present));
    let info = ns.blobs.info(&digest).await.unwrap().unwrap();
    assert_eq!(info.labels["suite"], "again");
}

async fn another_namespaces_blob_is_shared_but_not_seen(one: &Namespace, other: &Namespace) {
    let theirs = lease(one).await;
    let data = bytes(100_000);
    let digest = put(one, &theirs, &data).await;
    assert_eq!(other.blobs.info(&digest).await.unwrap(), None);
    let unseen = other.blobs.open(&digest, 0).await.err();
    assert!(unseen.unwrap().is_not_found());
    let ours = lease(other).await;
    let expected = Some((digest, 100_000));
    let slot = other.blobs.write(&ours, "suite", expected, label("shared"));
    match slot.await.unwrap() {
        BlobSlot::Present => {}
        // A host may keep its namespaces apart; then the data has to be sent.
        BlobSlot::Write(mut writer) => {
            writer.append(data.clone().into()).await.unwrap();
            writer.commit(digest, 100_000).await.unwrap();
        }
    }
    let info = other.blobs.info(&digest).await.unwrap().unwrap();
    assert_eq!(info.labels["suite"], "shared");
    one.blobs.delete(&digest).await.unwrap();
    let read = other.blobs.open(&digest, 0).await.unwrap();
    assert!(collect(read).await.unwrap() == data);
}

async fn a_lie_is_refused_and_leaves_nothing(ns: &Namespace) {
    let lease = lease(ns).await;
    let told = Digest::of(b"told");
    let lies = [(told, 4), (Digest::of(b"lie!"), 5)];
    for (digest, size) in lies {
        let mut writer = writer(ns, &lease, None).await;
        writer.append("lie!".into()).await.unwrap();
        let error = writer.commit(digest, size).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{error:?}");
        assert_eq!(ns.blobs.info(&digest).await.unwrap(), None);
    }
    let mut writer = writer(ns, &lease, Some((told, 4))).await;
    writer.append("lie!".into()).await.unwrap();
    let error = writer.commit(told, 4).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt, "{error:?}");
}

async fn a_dropped_writer_leaves_nothing(ns: &Namespace) {
    let lease = lease(ns).await;
    let digest = Digest::of(b"dropped");
    let mut first = writer(ns, &lease, Some((digest, 7))).await;
    first.append("dropped".into()).await.unwrap();
    drop(first);
    assert_eq!(ns.blobs.info(&digest).await.unwrap(), None);
    // The name is free again.
    put(ns, &lease, b"dropped").await;
}

async fn labels_are_added_and_kept(ns: &Namespace) {
    let lease = lease(ns).await;
    let digest = put(ns, &lease, b"labelled").await;
    let more = [
        ("more".to_owned(), "1".to_owned()),
        ("containerd.io/gc.ref.content.0".to_owned(), "x".to_owned()),
    ];
    ns.blobs.label(&digest, more.into()).await.unwrap();
    let info = ns.blobs.info(&digest).await.unwrap().unwrap();
    assert_eq!(info.labels["suite"], "new");
    assert_eq!(info.labels["more"], "1");
    assert_eq!(info.labels["containerd.io/gc.ref.content.0"], "x");
    let absent = ns.blobs.label(&Digest::of(b"absent"), label("x")).await;
    assert!(absent.unwrap_err().is_not_found());
}

async fn a_deleted_blob_is_gone_and_may_be_deleted_again(ns: &Namespace) {
    let lease = lease(ns).await;
    let digest = put(ns, &lease, b"deleted").await;
    for _ in 0..2 {
        ns.blobs.delete(&digest).await.unwrap();
        assert_eq!(ns.blobs.info(&digest).await.unwrap(), None);
    }
}

async fn an_empty_blob_is_a_blob(ns: &Namespace) {
    let lease = lease(ns).await;
    let digest = Digest::of(b"");
    writer(ns, &lease, Some((digest, 0)))
        .await
        .commit(digest, 0)
        .await
        .unwrap();
    let read = ns.blobs.open(&digest, 0).await.unwrap();
    assert_eq!(collect(read).await.unwrap(), b"");
}
