//! Rules of [`Snapshots`](crate::Snapshots).

use std::collections::BTreeMap;
use std::time::Duration;

use shipway_model::Digest;

use crate::{Adoption, ErrorKind, Namespace};

/// Every rule, for a snapshotter that has nothing to be adopted.
pub async fn all(ns: &Namespace, snapshotter: &str) {
    an_active_snapshot_is_committed_under_a_name(ns, snapshotter).await;
    what_is_missing_is_named(ns, snapshotter).await;
    nothing_is_adopted_that_is_not_offered(ns, snapshotter).await;
    what_is_there_counts_as_adopted(ns, snapshotter).await;
}

async fn an_active_snapshot_is_committed_under_a_name(ns: &Namespace, snapshotter: &str) {
    let lease = ns.leases.create(Duration::from_mins(1)).await.unwrap();
    let (shots, lease) = (&ns.snapshots, &lease);
    let mounts = shots
        .prepare(lease, snapshotter, "active", None)
        .await
        .unwrap();
    assert_eq!(mounts.len(), 1);
    let taken = shots.prepare(lease, snapshotter, "active", None).await;
    assert_eq!(taken.unwrap_err().kind, ErrorKind::AlreadyExists);
    assert!(shots.exists(snapshotter, "active").await.unwrap());
    let labels = [("suite".to_owned(), "1".to_owned())];
    shots
        .commit(lease, snapshotter, "done", "active", labels.into())
        .await
        .unwrap();
    assert!(shots.exists(snapshotter, "done").await.unwrap());
    assert!(!shots.exists(snapshotter, "active").await.unwrap());
    shots
        .prepare(lease, snapshotter, "second", Some("done"))
        .await
        .unwrap();
    let taken = shots.commit(lease, snapshotter, "done", "second", BTreeMap::new());
    assert_eq!(taken.await.unwrap_err().kind, ErrorKind::AlreadyExists);
    assert!(shots.exists(snapshotter, "second").await.unwrap());
    let view = shots
        .view(lease, snapshotter, "view", "done")
        .await
        .unwrap();
    let read_only = |option: &String| option == "ro" || option.starts_with("lowerdir");
    assert!(view.iter().any(|mount| mount.options.iter().any(read_only)));
    let listed = shots.list(snapshotter).await.unwrap();
    let second = listed.iter().find(|snapshot| snapshot.name == "second");
    assert_eq!(second.unwrap().parent, "done");
    for key in ["view", "second", "done", "done"] {
        shots.remove(snapshotter, key).await.unwrap();
        assert!(!shots.exists(snapshotter, key).await.unwrap());
    }
}

async fn what_is_missing_is_named(ns: &Namespace, snapshotter: &str) {
    let lease = ns.leases.create(Duration::from_mins(1)).await.unwrap();
    let shots = &ns.snapshots;
    assert!(!shots.exists(snapshotter, "no-such").await.unwrap());
    let orphan = shots
        .prepare(&lease, snapshotter, "x", Some("no-such"))
        .await;
    assert!(orphan.unwrap_err().is_not_found());
    let orphan = shots.view(&lease, snapshotter, "x", "no-such").await;
    assert!(orphan.unwrap_err().is_not_found());
    let nothing = shots.commit(&lease, snapshotter, "x", "no-such", BTreeMap::new());
    assert!(nothing.await.unwrap_err().is_not_found());
}

async fn nothing_is_adopted_that_is_not_offered(ns: &Namespace, snapshotter: &str) {
    let lease = ns.leases.create(Duration::from_mins(1)).await.unwrap();
    let chain = Digest::of(b"chain");
    let adopted = ns.snapshots.adopt(&lease, snapshotter, &chain, None).await;
    assert_eq!(adopted.unwrap(), Adoption::NotOffered);
    let parent = Digest::of(b"parent");
    let orphan = ns
        .snapshots
        .adopt(&lease, snapshotter, &chain, Some(&parent))
        .await;
    assert!(orphan.unwrap_err().is_not_found());
}

async fn what_is_there_counts_as_adopted(ns: &Namespace, snapshotter: &str) {
    let lease = ns.leases.create(Duration::from_mins(1)).await.unwrap();
    let shots = &ns.snapshots;
    let chain = Digest::of(b"there");
    shots.prepare(&lease, snapshotter, "a", None).await.unwrap();
    let name = chain.to_string();
    let committed = shots.commit(&lease, snapshotter, &name, "a", BTreeMap::new());
    committed.await.unwrap();
    let adopted = shots
        .adopt(&lease, snapshotter, &chain, None)
        .await
        .unwrap();
    assert_eq!(adopted, Adoption::Adopted);
    shots.remove(snapshotter, &name).await.unwrap();
}
