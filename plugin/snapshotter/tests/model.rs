//! The store against a model of a few lines: any sequence of calls, with restarts in between, gives the same answers
//! and leaves the same directories. Needs root: opening a store mounts a trial overlay.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use proptest::prelude::*;
use shipway_snapshotter::{
    CommitInfo, Kind, Labels, LayerId, LayerStore, Mount, PinnedLayers, parse_short_name,
};

#[derive(Debug, Clone)]
enum Call {
    Prepare(u8, u8),
    View(u8, u8),
    Commit(u8, u8),
    Remove(u8),
    Label(u8, u8),
    Create,
    CommitLayer(u8, u8),
    Discard(u8),
    Own(u8, u8),
    Disown(u8),
    Pin(u8),
    Unpin,
    Collect,
    Restart,
    Reboot,
}

fn call() -> impl Strategy<Value = Call> {
    let n = 0..6_u8;
    prop_oneof![
        4 => (n.clone(), n.clone()).prop_map(|(a, b)| Call::Prepare(a, b)),
        2 => (n.clone(), n.clone()).prop_map(|(a, b)| Call::View(a, b)),
        4 => (n.clone(), n.clone()).prop_map(|(a, b)| Call::Commit(a, b)),
        3 => n.clone().prop_map(Call::Remove),
        1 => (n.clone(), n.clone()).prop_map(|(a, b)| Call::Label(a, b)),
        2 => Just(Call::Create),
        2 => (n.clone(), n.clone()).prop_map(|(a, b)| Call::CommitLayer(a, b)),
        1 => n.clone().prop_map(Call::Discard),
        1 => (n.clone(), n.clone()).prop_map(|(a, b)| Call::Own(a, b)),
        1 => n.clone().prop_map(Call::Disown),
        1 => n.prop_map(Call::Pin),
        1 => Just(Call::Unpin),
        1 => Just(Call::Collect),
        1 => Just(Call::Restart),
        1 => Just(Call::Reboot),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    kind: Kind,
    parent: String,
    labels: Labels,
    layer: Option<LayerId>,
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<String, Entry>,
    /// Committed or active layers that have not been collected, with their owners.
    layers: BTreeMap<LayerId, BTreeSet<String>>,
    written: BTreeSet<LayerId>,
    open: Vec<LayerId>,
    pinned: Vec<(LayerId, PinnedLayers)>,
}

impl Model {
    fn may_create(&self, key: &str, parent: &str) -> bool {
        let parent_fits = self
            .entries
            .get(parent)
            .is_some_and(|e| e.kind == Kind::Committed);
        !self.entries.contains_key(key) && (parent.is_empty() || parent_fits)
    }

    fn may_remove(&self, key: &str) -> bool {
        self.entries.contains_key(key) && self.entries.values().all(|e| e.parent != key)
    }

    fn needed(&self, id: LayerId) -> bool {
        !self.layers[&id].is_empty()
            || self.entries.values().any(|e| e.layer == Some(id))
            || self.pinned.iter().any(|(pinned, _)| *pinned == id)
    }

    /// Layers that are immutable; the rest is written by an active entry, or was until that was removed.
    fn committed(&self) -> Vec<LayerId> {
        self.layers
            .keys()
            .copied()
            .filter(|id| !self.written.contains(id))
            .collect()
    }
}

struct Test {
    root: tempfile::TempDir,
    boot: u32,
    store: LayerStore,
    model: Model,
}

impl Test {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = LayerStore::open_in_boot(root.path(), "0").unwrap();
        Self {
            root,
            boot: 0,
            store,
            model: Model::default(),
        }
    }

    fn apply(&mut self, call: &Call) {
        match call {
            Call::Prepare(a, b) => self.prepare(&key(*a), &parent(*b)),
            Call::View(a, b) => self.view(&key(*a), &parent(*b)),
            Call::Commit(a, b) => self.commit(&name(*a), &key(*b)),
            Call::Remove(a) => self.remove(&if a % 2 == 0 { key(*a) } else { name(*a) }),
            Call::Label(a, b) => self.label(&name(*a), *b),
            Call::Create => self.model.open.push(self.store.create().unwrap().id),
            Call::CommitLayer(a, b) => self.commit_layer(*a, &owner(*b)),
            Call::Discard(a) => self.discard(*a),
            Call::Own(a, b) => self.own(*a, &owner(*b)),
            Call::Disown(a) => self.disown(&owner(*a)),
            Call::Pin(a) => self.pin(*a),
            Call::Unpin => drop(self.model.pinned.pop()),
            Call::Collect => self.collect(),
            Call::Restart => self.restart(),
            Call::Reboot => {
                self.store.sync().unwrap();
                self.boot += 1;
                self.restart();
            }
        }
    }

    fn prepare(&mut self, key: &str, parent: &str) {
        let labels: Labels = [("made".to_owned(), key.to_owned())].into();
        let mounts = self.store.prepare(key, parent, labels.clone());
        assert_eq!(
            mounts.is_ok(),
            self.model.may_create(key, parent),
            "{mounts:?}"
        );
        if let Ok(mounts) = mounts {
            let layer = upper(&mounts);
            self.model.layers.insert(layer, BTreeSet::new());
            self.model.written.insert(layer);
            let entry = Entry {
                kind: Kind::Active,
                parent: parent.into(),
                labels,
                layer: Some(layer),
            };
            self.model.entries.insert(key.into(), entry);
        }
    }

    fn view(&mut self, key: &str, parent: &str) {
        let mounts = self.store.view(key, parent, Labels::new());
        assert_eq!(
            mounts.is_ok(),
            self.model.may_create(key, parent),
            "{mounts:?}"
        );
        if mounts.is_ok() {
            let (parent, labels) = (parent.into(), Labels::new());
            self.model.entries.insert(
                key.into(),
                Entry {
                    kind: Kind::View,
                    parent,
                    labels,
                    layer: None,
                },
            );
        }
    }

    fn commit(&mut self, name: &str, key: &str) {
        let active = self
            .model
            .entries
            .get(key)
            .filter(|e| e.kind == Kind::Active)
            .cloned();
        let expected = active.filter(|_| !self.model.entries.contains_key(name));
        let done = self.store.commit_entry(name, key, Labels::new());
        assert_eq!(done.is_ok(), expected.is_some(), "{done:?}");
        if let Some(active) = expected {
            self.model.entries.remove(key);
            self.model.written.remove(&active.layer.unwrap());
            let entry = Entry {
                kind: Kind::Committed,
                labels: Labels::new(),
                ..active
            };
            self.model.entries.insert(name.into(), entry);
        }
    }

    fn remove(&mut self, key: &str) {
        let done = self.store.remove(key);
        assert_eq!(done.is_ok(), self.model.may_remove(key), "{done:?}");
        if done.is_ok() {
            self.model.entries.remove(key);
        }
    }

    fn label(&mut self, name: &str, value: u8) {
        let labels: Labels = [("l".to_owned(), value.to_string())].into();
        let done = self.store.update(name, &labels, &["labels.l".to_owned()]);
        let entry = self.model.entries.get_mut(name);
        assert_eq!(done.is_ok(), entry.is_some());
        if let Some(entry) = entry {
            entry.labels.extend(labels);
        }
    }

    fn commit_layer(&mut self, which: u8, owner: &str) {
        let Some(id) = self.model.open.pop() else {
            return;
        };
        let owners: Vec<String> = if which == 0 {
            vec![]
        } else {
            vec![owner.into()]
        };
        let info = CommitInfo {
            owners: owners.clone(),
            ..CommitInfo::default()
        };
        self.store.commit(id, info).unwrap();
        self.model.layers.insert(id, owners.into_iter().collect());
    }

    fn discard(&mut self, which: u8) {
        let open = &mut self.model.open;
        if !open.is_empty() {
            let id = open.remove(usize::from(which) % open.len());
            self.store.discard(id).unwrap();
        }
    }

    fn some_layer(&self, which: u8) -> Option<LayerId> {
        let layers = self.model.committed();
        (!layers.is_empty()).then(|| layers[usize::from(which) % layers.len()])
    }

    fn own(&mut self, which: u8, owner: &str) {
        let Some(id) = self.some_layer(which) else {
            return;
        };
        self.store.own(&[id], owner).unwrap();
        self.model.layers.get_mut(&id).unwrap().insert(owner.into());
    }

    fn disown(&mut self, owner: &str) {
        self.store.disown(&[owner]).unwrap();
        for owners in self.model.layers.values_mut() {
            owners.remove(owner);
        }
    }

    fn pin(&mut self, which: u8) {
        let Some(id) = self.some_layer(which) else {
            return;
        };
        self.model.pinned.push((id, self.store.pin(&[id]).unwrap()));
    }

    fn collect(&mut self) {
        let needless: Vec<_> = self
            .model
            .layers
            .keys()
            .copied()
            .filter(|id| !self.model.needed(*id))
            .collect();
        assert_eq!(self.store.collect().unwrap().layers, needless);
        for id in needless {
            self.model.layers.remove(&id);
        }
    }

    fn restart(&mut self) {
        self.model.pinned.clear();
        self.model.open.clear();
        // The lock on the database is free only when the old handle is gone.
        let other = tempfile::tempdir().unwrap();
        self.store = LayerStore::open(other.path()).unwrap();
        self.store = LayerStore::open_in_boot(self.root.path(), &self.boot.to_string()).unwrap();
        assert_eq!(
            self.store.recovered(),
            &shipway_snapshotter::Recovered::default()
        );
    }

    fn compare(&self) {
        let entries = self.store.entries(&[]).unwrap();
        let found: BTreeMap<_, _> = entries
            .into_iter()
            .map(|e| (e.name, (e.kind, e.parent, e.labels)))
            .collect();
        let expected: BTreeMap<_, _> = self.model.entries.clone();
        let expected: BTreeMap<_, _> = expected
            .into_iter()
            .map(|(k, e)| (k, (e.kind, e.parent, e.labels)))
            .collect();
        assert_eq!(found, expected);
        let listed: Vec<_> = self
            .store
            .list()
            .into_iter()
            .map(|l| (l.id, l.owners, l.entries.len()))
            .collect();
        let entries_of = |id| {
            self.model
                .entries
                .values()
                .filter(|e| e.layer == Some(id))
                .count()
        };
        let expected: Vec<_> = self
            .model
            .committed()
            .into_iter()
            .map(|id| {
                (
                    id,
                    self.model.layers[&id].iter().cloned().collect::<Vec<_>>(),
                    entries_of(id),
                )
            })
            .collect();
        assert_eq!(listed, expected);
    }

    /// After a collection the disk holds what the model holds and no more.
    fn compare_directories(&mut self) {
        self.collect();
        self.store.empty_trash().unwrap();
        let layers = fs::read_dir(self.root.path().join("layers")).unwrap();
        let found: BTreeSet<_> = layers
            .map(|e| parse_short_name(e.unwrap().file_name().to_str().unwrap()).unwrap())
            .collect();
        let expected: BTreeSet<_> = self
            .model
            .layers
            .keys()
            .chain(&self.model.open)
            .copied()
            .collect();
        assert_eq!(found, expected);
    }
}

fn key(n: u8) -> String {
    format!("k{n}")
}

fn name(n: u8) -> String {
    format!("n{n}")
}

/// Nothing, a committed entry, or one of the wrong kind.
fn parent(n: u8) -> String {
    match n {
        0 | 1 => String::new(),
        5 => key(n),
        _ => name(n),
    }
}

fn owner(n: u8) -> String {
    format!("owner{}", n % 3)
}

fn upper(mounts: &[Mount]) -> LayerId {
    let mount = &mounts[0];
    let option = mount
        .options
        .iter()
        .find_map(|o| o.strip_prefix("upperdir="));
    let path = Path::new(option.unwrap_or(&mount.source));
    parse_short_name(path.file_name().unwrap().to_str().unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_calls_gives_the_models_answers(calls in prop::collection::vec(call(), 1..60)) {
        let mut test = Test::new();
        for call in &calls {
            test.apply(call);
            test.compare();
        }
        test.compare_directories();
    }
}
