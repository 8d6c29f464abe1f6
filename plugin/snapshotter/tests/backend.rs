//! The domain's traits over the store keep their laws. Needs root: opening a store mounts a trial overlay.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use shipway_backend::{ErrorKind, LayerId, LayerStore, Usage, layers::LayerUpkeep};
use shipway_model::Digest;

const USAGE: Usage = Usage {
    bytes: 4096,
    inodes: 1,
};

fn layer(store: &dyn LayerStore, owner: &str) -> LayerId {
    let layer = store.create().unwrap();
    assert_eq!(fs::read_dir(&layer.fs).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&layer.work).unwrap().count(), 0);
    store.commit(layer.id, USAGE, owner).unwrap();
    layer.id
}

#[test]
fn layers_live_while_an_owner_or_a_pin_needs_them() {
    let root = tempfile::tempdir().unwrap();
    let store = shipway_snapshotter::LayerStore::open(root.path()).unwrap();
    let (layers, upkeep): (&dyn LayerStore, &dyn LayerUpkeep) = (&store, &store);
    let open = layers.create().unwrap();
    let id = layer(layers, "first");
    assert_eq!(layers.usage(id).unwrap(), USAGE);
    layers.own(&[id], "second").unwrap();
    let pin = layers.pin(&[id]).unwrap();
    for owner in ["first", "second", "unknown"] {
        layers.disown(owner).unwrap();
    }
    assert_eq!(upkeep.collect().unwrap(), Usage::default());
    assert!(layers.path(id).unwrap().is_dir());
    drop(pin);
    assert_eq!(upkeep.collect().unwrap(), USAGE);
    assert!(layers.path(id).unwrap_err().is_not_found());
    assert!(layers.pin(&[id]).unwrap_err().is_not_found());
    assert!(layers.own(&[id], "late").unwrap_err().is_not_found());
    assert!(open.fs.is_dir(), "an open layer is not collected");
    layers.discard(open.id).unwrap();
    assert_eq!(
        layers.discard(open.id).unwrap_err().kind,
        ErrorKind::FailedPrecondition
    );
    upkeep.sync().unwrap();
}

#[test]
fn what_lies_elsewhere_and_what_is_offered_is_found_by_its_chain() {
    let root = tempfile::tempdir().unwrap();
    let base = tempfile::tempdir().unwrap();
    let store = shipway_snapshotter::LayerStore::open(root.path()).unwrap();
    let upkeep: &dyn LayerUpkeep = &store;
    let digest = |text: &str| text.parse::<Digest>().unwrap();
    let [below, above] = ["a", "b"].map(|c| digest(&format!("sha256:{}", c.repeat(64))));
    let foreign = upkeep.adopt(base.path(), "base").unwrap();
    let top = layer(&store, "cache");
    assert_eq!(upkeep.find_chain(&above).unwrap(), None);

    let offer = upkeep
        .offer("ns", &[(below, foreign), (above, top)])
        .unwrap();
    let mut parent = String::new();
    for chain_id in [&below, &above] {
        let reference = shipway_snapshotter::REFERENCE_LABEL.to_owned();
        let labels = [(reference, chain_id.to_string())].into();
        store
            .prepare(&format!("ns/1/adopt-{chain_id}"), &parent, labels)
            .unwrap_err();
        let entries = store.entries(&[]).unwrap();
        parent = entries
            .into_iter()
            .find(|e| e.parent == parent)
            .unwrap()
            .name;
    }
    drop(offer);
    assert_eq!(upkeep.find_chain(&above).unwrap(), Some(vec![foreign, top]));
    assert_eq!(
        store.path(foreign).unwrap(),
        base.path().canonicalize().unwrap()
    );

    let scratch = upkeep.scratch_dir("context").unwrap();
    assert!(scratch.is_dir() && scratch == upkeep.scratch_dir("context").unwrap());
    for name in ["", "..", "a/b", ".hidden"] {
        assert!(upkeep.scratch_dir(name).is_err(), "{name}");
    }
}
