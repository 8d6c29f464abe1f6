//! One suite over the store in memory and the one on disk, and the two against each other.

use futures::executor::block_on;
use jiff::Timestamp;
use proptest::prelude::*;
use shipway_cache::export::{Exported, add_other_ways};
use shipway_cache::{
    KeyId, KeyIndex as _, KeyParts, KeyStore, Link, LinkRow, ResultId, ResultInfo, Update, step,
};
use shipway_model::Digest;

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("small numbers are times")
}

fn root(name: &str) -> KeyId {
    KeyId::root(&Digest::of(name), 0)
}

fn link(input: u32, op: &str, selector: Option<&str>) -> Link {
    Link {
        input,
        step: step(&Digest::of(op), 0),
        selector: selector.map(Digest::of),
    }
}

fn row(from: KeyId, link: Link, to: KeyId) -> LinkRow {
    LinkRow { from, link, to }
}

fn result(key: KeyId, name: &str, second: i64) -> (KeyId, ResultId, ResultInfo) {
    let info = ResultInfo::new(time(second), format!("made {name}"));
    (key, ResultId::new(name), info)
}

fn record(store: &KeyStore, update: &Update) {
    block_on(store.record(update)).expect("the store is open");
}

/// Runs a test over every kind of store.
fn each(test: impl Fn(KeyStore)) {
    test(KeyStore::memory());
    let directory = tempfile::tempdir().expect("there is room");
    test(KeyStore::open(&directory.path().join("cache.db")).expect("a new file opens"));
}

fn chain(store: &KeyStore) -> [KeyId; 3] {
    let keys = [root("base"), root("step"), root("top")];
    let update = Update {
        results: vec![
            result(keys[0], "r-base", 1),
            result(keys[1], "r-step", 2),
            result(keys[2], "r-top", 3),
        ],
        links: vec![
            row(keys[0], link(0, "step", None), keys[1]),
            row(keys[1], link(0, "top", Some("/src")), keys[2]),
        ],
        parts: vec![(keys[2], KeyParts(vec![("args".into(), "make".into())]))],
    };
    record(store, &update);
    keys
}

#[test]
fn what_is_recorded_is_found() {
    each(|store| {
        let [base, step, top] = chain(&store);
        assert_eq!(store.targets(&base, &link(0, "step", None)), [step]);
        assert_eq!(store.targets(&base, &link(1, "step", None)), []);
        assert_eq!(store.targets(&base, &link(0, "step", Some("/src"))), []);
        assert_eq!(store.targets(&step, &link(0, "top", Some("/src"))), [top]);
        assert_eq!(store.targets(&step, &link(0, "top", None)), []);
        assert_eq!(
            store.backlinks(&top),
            [(step, link(0, "top", Some("/src")))]
        );
        assert!(store.contains(&base) && store.contains(&top));
        assert!(!store.contains(&root("other")));
        assert_eq!(store.parts(&top).unwrap().0[0].1, "make");
        assert_eq!(store.parts(&step), None);
        assert_eq!(store.keys_of(&ResultId::new("r-top")), [top]);
        assert_eq!(store.usages().len(), 3);
    });
}

#[test]
fn records_come_newest_first() {
    each(|store| {
        let key = root("x");
        for (name, second) in [("old", 1), ("newest", 9), ("new", 5)] {
            let results = vec![result(key, name, second)];
            record(
                &store,
                &Update {
                    results,
                    ..Update::default()
                },
            );
        }
        let records = store.records(&key);
        let names: Vec<_> = records.iter().map(|r| r.result.as_str()).collect();
        assert_eq!(names, ["newest", "new", "old"]);
        assert_eq!(records[0].created_at, time(9));
    });
}

#[test]
fn a_released_result_takes_what_leads_nowhere_with_it() {
    each(|store| {
        let [base, step, top] = chain(&store);
        // A key in the middle stays while something follows it.
        block_on(store.release(&ResultId::new("r-step"))).unwrap();
        assert!(store.records(&step).is_empty() && store.contains(&step));
        block_on(store.release(&ResultId::new("r-top"))).unwrap();
        assert!(!store.contains(&step) && !store.contains(&top));
        assert_eq!(store.targets(&base, &link(0, "step", None)), []);
        assert!(store.backlinks(&top).is_empty() && store.parts(&top).is_none());
        assert!(store.contains(&base));
        block_on(store.release(&ResultId::new("r-base"))).unwrap();
        assert!(!store.contains(&base) && store.usages().is_empty());
        // A link to itself keeps no key.
        let links = vec![row(base, link(0, "copy", None), base)];
        let results = vec![result(base, "r-copy", 4)];
        record(
            &store,
            &Update {
                results,
                links,
                ..Update::default()
            },
        );
        assert_eq!(store.targets(&base, &link(0, "copy", None)), [base]);
        block_on(store.release(&ResultId::new("r-copy"))).unwrap();
        assert!(!store.contains(&base) && store.backlinks(&base).is_empty());
        block_on(store.release(&ResultId::new("never was"))).unwrap();
    });
}

#[test]
fn one_result_may_have_several_keys() {
    each(|store| {
        let (a, b) = (root("a"), root("b"));
        let results = vec![result(a, "r", 1), result(b, "r", 1)];
        record(
            &store,
            &Update {
                results,
                ..Update::default()
            },
        );
        let mut keys = store.keys_of(&ResultId::new("r"));
        keys.sort_unstable();
        let mut expected = [a, b];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        // Another result, whose name begins alike, is not it.
        let results = vec![result(a, "r2", 2)];
        record(
            &store,
            &Update {
                results,
                ..Update::default()
            },
        );
        assert_eq!(store.keys_of(&ResultId::new("r")).len(), 2);
        block_on(store.release(&ResultId::new("r"))).unwrap();
        assert!(store.contains(&a) && !store.contains(&b));
    });
}

#[test]
fn use_is_counted() {
    each(|store| {
        chain(&store);
        let id = ResultId::new("r-top");
        assert_eq!(store.usage(&id).unwrap().usage_count, 0);
        store.touch(&id, time(10));
        store.touch(&id, time(11));
        store.touch(&ResultId::new("unknown"), time(11));
        let usage = store.usage(&id).unwrap();
        assert_eq!((usage.usage_count, usage.last_used_at), (2, Some(time(11))));
        assert_eq!(usage.info.description, "made r-top");
        // Recording it again keeps the count.
        let results = vec![result(root("again"), "r-top", 3)];
        record(
            &store,
            &Update {
                results,
                ..Update::default()
            },
        );
        assert_eq!(store.usage(&id).unwrap().usage_count, 2);
    });
}

#[test]
fn an_export_can_tell_of_other_ways() {
    each(|store| {
        let [base, step_key, top] = chain(&store);
        let content = KeyId::content(&Digest::of("content"));
        let links = vec![row(content, link(0, "top", None), top)];
        record(
            &store,
            &Update {
                links,
                ..Update::default()
            },
        );
        let mut exported = vec![Exported {
            key: top,
            digest: step(&Digest::of("top"), 0),
            inputs: Vec::new(),
            records: store.records(&top),
        }];
        add_other_ways(&store, &mut exported);
        let mut keys: Vec<_> = exported.iter().map(|e| e.key).collect();
        assert_eq!(keys.remove(0), top);
        keys.sort_unstable();
        let mut expected = vec![content, step_key, base];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        assert_eq!(exported[0].inputs[0].len(), 2);
        let entry = exported.iter().find(|e| e.key == content).unwrap();
        assert_eq!(entry.digest, Digest::from_bytes(*content.as_bytes()));
    });
}

#[test]
fn a_store_on_disk_is_there_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.db");
    let keys = chain(&KeyStore::open(&path).unwrap());
    let store = KeyStore::open(&path).unwrap();
    assert!(keys.iter().all(|key| store.contains(key)));
    assert!(KeyStore::open(&path).is_err(), "two may not write");
    // What nobody waits for is written at the end.
    store.touch(&ResultId::new("r-top"), time(5));
    drop(store);
    let store = KeyStore::open(&path).unwrap();
    assert_eq!(store.usage(&ResultId::new("r-top")).unwrap().usage_count, 1);
    drop(store);
    std::fs::write(&path, b"not a database").unwrap();
    assert!(KeyStore::open(&path).is_err());
}

#[test]
fn many_at_once_become_durable_together() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.db");
    let store = KeyStore::open(&path).unwrap();
    let waits: Vec<_> = (0..2000)
        .map(|n| {
            let results = vec![result(root(&n.to_string()), &format!("r{n}"), n)];
            store.record(&Update {
                results,
                ..Update::default()
            })
        })
        .collect();
    for wait in waits {
        block_on(wait).unwrap();
    }
    drop(store);
    assert_eq!(KeyStore::open(&path).unwrap().usages().len(), 2000);
}

#[derive(Debug, Clone)]
enum Change {
    Record { key: u8, result: u8 },
    Link { from: u8, to: u8, input: u32 },
    Release(u8),
    Touch(u8),
    Reopen,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..6u8, 0..6u8).prop_map(|(key, result)| Change::Record { key, result }),
        4 => (0..6u8, 0..6u8, 0..2u32).prop_map(|(from, to, input)| Change::Link { from, to, input }),
        2 => (0..6u8).prop_map(Change::Release),
        1 => (0..6u8).prop_map(Change::Touch),
        1 => Just(Change::Reopen),
    ]
}

fn apply(store: &KeyStore, change: &Change, second: i64) {
    let key = |n: &u8| root(&n.to_string());
    let id = |n: &u8| ResultId::new(n.to_string());
    match change {
        Change::Record { key: at, result: n } => {
            let results = vec![result(key(at), &n.to_string(), second)];
            store
                .record(&Update {
                    results,
                    ..Update::default()
                })
                .unawaited();
        }
        Change::Link { from, to, input } => {
            let links = vec![row(key(from), link(*input, "op", None), key(to))];
            store.note(&Update {
                links,
                ..Update::default()
            });
        }
        Change::Release(n) => store.release(&id(n)).unawaited(),
        Change::Touch(n) => store.touch(&id(n), time(second)),
        Change::Reopen => {}
    }
}

fn everything(store: &KeyStore) -> Vec<String> {
    let mut all = vec![format!("{:?}", store.usages())];
    for n in 0..6u8 {
        let key = root(&n.to_string());
        let targets = [0, 1].map(|input| store.targets(&key, &link(input, "op", None)));
        all.push(format!(
            "{n} {} {:?} {:?} {targets:?} {:?}",
            store.contains(&key),
            store.records(&key),
            store.backlinks(&key),
            store.keys_of(&ResultId::new(n.to_string())),
        ));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn disk_and_memory_agree(changes in prop::collection::vec(change(), 0..40)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache.db");
        let memory = KeyStore::memory();
        let mut disk = KeyStore::open(&path).unwrap();
        for (second, change) in (0..).zip(&changes) {
            if matches!(change, Change::Reopen) {
                drop(disk);
                disk = KeyStore::open(&path).unwrap();
            }
            apply(&memory, change, second);
            apply(&disk, change, second);
            prop_assert_eq!(everything(&memory), everything(&disk));
        }
    }
}
