//! Rules of the store as containerd sees it. Needs root: opening a store mounts a trial overlay.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use shipway_snapshotter::{
    CommitInfo, Error, Kind, Labels, LayerId, LayerStore, Mount, REFERENCE_LABEL, Result,
    disk_usage,
};

fn open(root: &Path) -> LayerStore {
    LayerStore::open_in_boot(root, "boot-1").unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn upper(mounts: &[Mount]) -> String {
    let [mount] = mounts else {
        panic!("one mount, not {mounts:?}")
    };
    match mount.fs_type {
        "bind" => mount.source.clone(),
        _ => option(mount, "upperdir=").to_owned(),
    }
}

fn option<'a>(mount: &'a Mount, prefix: &str) -> &'a str {
    mount
        .options
        .iter()
        .find_map(|o| o.strip_prefix(prefix))
        .unwrap()
}

fn commit(store: &LayerStore, name: &str, parent: &str) -> String {
    let dir = upper(
        &store
            .prepare(&format!("{name}-key"), parent, Labels::new())
            .unwrap(),
    );
    fs::write(Path::new(&dir).join("file"), name).unwrap();
    store
        .commit_entry(name, &format!("{name}-key"), Labels::new())
        .unwrap();
    dir
}

fn built_layer(store: &LayerStore, owner: &str) -> LayerId {
    let layer = store.create().unwrap();
    store
        .commit(
            layer.id,
            CommitInfo {
                owners: vec![owner.into()],
                ..CommitInfo::default()
            },
        )
        .unwrap();
    layer.id
}

#[test]
fn mounts_are_binds_for_one_directory_and_overlays_for_more() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let bottom = commit(&store, "bottom", "");
    let top = commit(&store, "top", "bottom");

    let alone = store.prepare("alone", "", Labels::new()).unwrap();
    assert_eq!(
        (alone[0].fs_type, alone[0].options.clone()),
        ("bind", vec!["rw".into(), "rbind".into()])
    );
    let one = store.view("one", "bottom", Labels::new()).unwrap();
    assert_eq!(
        (one[0].source.as_str(), one[0].options[0].as_str()),
        (bottom.as_str(), "ro")
    );
    let none = store.view("none", "", Labels::new()).unwrap();
    assert!(none[0].source.ends_with("/empty"));

    let both = store.view("both", "top", Labels::new()).unwrap();
    assert_eq!(option(&both[0], "lowerdir="), format!("{top}:{bottom}"));
    assert!(
        both[0]
            .options
            .iter()
            .all(|o| !o.starts_with("upperdir=") && o != "userxattr")
    );
    let active = store.prepare("active", "top", Labels::new()).unwrap();
    assert_eq!(option(&active[0], "index="), "off");
    assert_eq!(option(&active[0], "metacopy="), "off");
    assert_eq!(option(&active[0], "redirect_dir="), "off");
    assert_eq!(active, store.mounts("active").unwrap());
    assert!(matches!(store.mounts("top"), Err(Error::WrongKind { .. })));
}

#[test]
fn a_new_root_directory_is_like_its_parents() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let base = commit(&store, "base", "");
    std::os::unix::fs::chown(&base, Some(12), Some(34)).unwrap();
    fs::set_permissions(&base, std::os::unix::fs::PermissionsExt::from_mode(0o1711)).unwrap();
    let child = upper(&store.prepare("child", "base", Labels::new()).unwrap());
    let meta = fs::metadata(child).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o7777),
        (12, 34, 0o1711)
    );
}

#[test]
fn five_hundred_layers_fit_a_page_when_mounted_from_their_directory() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    // Ids as large as they get after a million layers.
    let mut parent = String::new();
    for n in 0..500 {
        let name = format!("n{n}");
        store.prepare("key", &parent, Labels::new()).unwrap();
        store.commit_entry(&name, "key", Labels::new()).unwrap();
        parent = name;
    }
    let mounts = store.prepare("top", &parent, Labels::new()).unwrap();
    let layers = format!(
        "{}/",
        root.path().canonicalize().unwrap().join("layers").display()
    );
    let relative = option(&mounts[0], "lowerdir=").replace(&layers, "");
    assert!(
        !relative.contains('/') && relative.len() + 3 * 500 < 3500,
        "{}",
        relative.len()
    );
    store
        .commit_entry("too-deep", "top", Labels::new())
        .unwrap();
    let refused = store.prepare("one-more", "too-deep", Labels::new());
    assert!(matches!(refused, Err(Error::TooDeep { depth: 501, .. })));
}

/// A refused request and how its refusal is recognised.
type Case = (Result<()>, fn(&Error) -> bool);

#[test]
fn requests_that_make_no_sense_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    commit(&store, "base", "");
    store.prepare("active", "base", Labels::new()).unwrap();
    let none = Labels::new;
    let cases: Vec<Case> = vec![
        (store.prepare("active", "base", none()).map(drop), |e| {
            matches!(e, Error::EntryExists(_))
        }),
        (store.view("active", "base", none()).map(drop), |e| {
            matches!(e, Error::EntryExists(_))
        }),
        (store.prepare("x", "missing", none()).map(drop), |e| {
            matches!(e, Error::NoParent(_))
        }),
        (store.prepare("x", "active", none()).map(drop), |e| {
            matches!(e, Error::ParentNotCommitted(_))
        }),
        (store.prepare("", "base", none()).map(drop), |e| {
            matches!(e, Error::Invalid(_))
        }),
        (store.commit_entry("base", "active", none()), |e| {
            matches!(e, Error::EntryExists(_))
        }),
        (store.commit_entry("x", "missing", none()), |e| {
            matches!(e, Error::NoEntry(_))
        }),
        (store.commit_entry("x", "base", none()), |e| {
            matches!(e, Error::WrongKind { .. })
        }),
        (store.remove("base"), |e| matches!(e, Error::HasChildren(_))),
        (store.remove("missing"), |e| matches!(e, Error::NoEntry(_))),
        (store.stat("missing").map(drop), |e| {
            matches!(e, Error::NoEntry(_))
        }),
        (store.entries(&["name=".into()]).map(drop), |e| {
            matches!(e, Error::Invalid(_))
        }),
    ];
    for (n, (outcome, expected)) in cases.into_iter().enumerate() {
        let error = outcome.unwrap_err();
        assert!(expected(&error), "case {n}: {error}");
    }
}

#[test]
fn commit_replaces_labels_and_keeps_the_parent() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    commit(&store, "base", "");
    store.prepare("key", "base", labels(&[("a", "1")])).unwrap();
    store
        .commit_entry("name", "key", labels(&[("b", "2")]))
        .unwrap();
    let info = store.stat("name").unwrap();
    assert_eq!((info.kind, info.parent.as_str()), (Kind::Committed, "base"));
    assert_eq!(info.labels, labels(&[("b", "2")]));
    assert!(matches!(store.stat("key"), Err(Error::NoEntry(_))));
}

#[test]
fn update_changes_labels_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    store
        .prepare("key", "", labels(&[("a", "1"), ("b", "2")]))
        .unwrap();
    let fields = |f: &[&str]| f.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let some = store.update(
        "key",
        &labels(&[("a", "x"), ("c", "3")]),
        &fields(&["labels.a", "labels.b"]),
    );
    assert_eq!(some.unwrap().labels, labels(&[("a", "x")]));
    let all = store.update("key", &labels(&[("d", "4")]), &[]);
    assert_eq!(all.unwrap().labels, labels(&[("d", "4")]));
    for field in ["parent", "kind", "name"] {
        assert!(matches!(
            store.update("key", &Labels::new(), &fields(&[field])),
            Err(Error::Invalid(_))
        ));
    }
    assert_eq!(store.stat("key").unwrap().labels, labels(&[("d", "4")]));
}

#[test]
fn usage_of_a_committed_entry_is_that_of_its_directory() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let dir = commit(&store, "base", "");
    assert_eq!(
        store.entry_usage("base").unwrap(),
        disk_usage(Path::new(&dir)).unwrap()
    );
    store.view("view", "base", Labels::new()).unwrap();
    assert_eq!(store.entry_usage("view").unwrap().inodes, 0);
}

#[test]
fn removed_entries_free_their_layers_at_the_next_collection() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let dir = commit(&store, "base", "");
    store.remove("base").unwrap();
    assert!(Path::new(&dir).exists());
    assert_eq!(store.collect().unwrap().layers.len(), 1);
    assert!(!Path::new(&dir).exists());
}

#[test]
fn active_entries_survive_restart_and_reboot_and_keep_their_data() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let dir = upper(&store.prepare("key", "", Labels::new()).unwrap());
    fs::write(Path::new(&dir).join("file"), "data").unwrap();
    drop(store);
    let store = LayerStore::open_in_boot(root.path(), "boot-2").unwrap();
    assert_eq!(upper(&store.mounts("key").unwrap()), dir);
    assert_eq!(fs::read(Path::new(&dir).join("file")).unwrap(), b"data");
}

#[test]
fn an_entry_lost_with_the_power_takes_what_stands_on_it() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    commit(&store, "safe", "");
    store.sync().unwrap();
    commit(&store, "lost", "safe");
    store.prepare("child", "lost", Labels::new()).unwrap();
    store.view("view", "lost", Labels::new()).unwrap();
    drop(store);
    let store = LayerStore::open_in_boot(root.path(), "boot-2").unwrap();
    let (gone, left) = (&store.recovered().entries, store.entries(&[]).unwrap());
    assert_eq!(gone.last().unwrap(), "lost");
    assert_eq!(gone.len(), 3);
    assert_eq!(
        left.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(),
        ["safe"]
    );
}

#[test]
fn an_offer_is_answered_by_one_alias_per_parent_that_any_namespace_can_fetch() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let layer = built_layer(&store, "cache:a");
    let wanted = labels(&[
        (REFERENCE_LABEL, "sha256:top"),
        ("containerd.io/snapshot/x", "kept"),
        ("private", "dropped"),
    ]);
    let offers: Vec<_> = ["a", "b"]
        .iter()
        .map(|ns| store.offer(ns, [("sha256:top".to_owned(), layer)]).unwrap())
        .collect();
    for key in ["a/1/k", "b/7/k", "a/2/k"] {
        let answer = store.prepare(key, "", wanted.clone());
        assert!(matches!(answer, Err(Error::EntryExists(_))), "{answer:?}");
    }
    let fetch = |parent: &str| {
        let filter = format!(r#"labels."{REFERENCE_LABEL}"==sha256:top,parent=="{parent}""#);
        store.entries(&[filter]).unwrap()
    };
    let [alias] = &fetch("")[..] else {
        panic!("one alias")
    };
    let shared = labels(&[
        (REFERENCE_LABEL, "sha256:top"),
        ("containerd.io/snapshot/x", "kept"),
    ]);
    assert_eq!((alias.kind, &alias.labels), (Kind::Committed, &shared));
    assert_eq!(store.find_chain("sha256:top"), Some(vec![layer]));

    commit(&store, "a/3/base", "");
    store
        .prepare("a/4/k", "a/3/base", wanted.clone())
        .unwrap_err();
    assert_eq!(fetch("a/3/base").len(), 1);
    assert_eq!(store.entries(&[]).unwrap().len(), 3);

    // Neither reference nor parent can be updated away, and strangers' labels do not stick.
    let update = labels(&[(REFERENCE_LABEL, "sha256:other"), ("private", "x")]);
    assert_eq!(
        store.update(&alias.name, &update, &[]).unwrap().labels,
        labels(&[(REFERENCE_LABEL, "sha256:top")])
    );

    // The alias keeps the layer after cache record and offer are gone.
    drop(offers);
    store.disown(&["cache:a"]).unwrap();
    assert!(store.collect().unwrap().layers.is_empty());
    drop(store);
    let store = open(root.path());
    assert_eq!(store.find_chain("sha256:top"), Some(vec![layer]));
}

#[test]
fn without_an_offer_and_for_pulls_a_reference_is_extracted_as_usual() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let layer = built_layer(&store, "cache:a");
    let wanted = labels(&[(REFERENCE_LABEL, "sha256:top")]);
    store.prepare("b/1/k", "", wanted.clone()).unwrap();
    let offer = store
        .offer("b", [("sha256:top".to_owned(), layer)])
        .unwrap();
    store.prepare("a/1/k", "", wanted.clone()).unwrap();
    store
        .prepare("b/2/extract-123 sha256:top", "", wanted.clone())
        .unwrap();
    store.prepare("b/3/k", "", wanted.clone()).unwrap_err();
    drop(offer);
    store.prepare("b/4/k", "", wanted).unwrap();
}

#[test]
fn what_a_pull_extracted_is_found_by_its_chain() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    for (seq, name, parent) in [(1, "sha256:a", ""), (2, "sha256:b", "k8s.io/1/sha256:a")] {
        store.prepare("key", parent, Labels::new()).unwrap();
        store
            .commit_entry(&format!("k8s.io/{seq}/{name}"), "key", Labels::new())
            .unwrap();
    }
    assert_eq!(store.find_chain("sha256:b").unwrap().len(), 2);
    assert_eq!(
        store.find_chain("sha256:a").unwrap()[..],
        store.find_chain("sha256:b").unwrap()[..1]
    );
    assert_eq!(store.find_chain("sha256:c"), None);
}

#[test]
fn foreign_layers_are_mounted_through_short_links() {
    let root = tempfile::tempdir().unwrap();
    let base = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let layer = store.adopt_foreign(base.path(), "cache:base").unwrap();
    let _offer = store
        .offer("a", [("sha256:base".to_owned(), layer)])
        .unwrap();
    store
        .prepare("a/1/k", "", labels(&[(REFERENCE_LABEL, "sha256:base")]))
        .unwrap_err();
    let name = store.entries(&[]).unwrap()[0].name.clone();
    let mount = &store.view("view", &name, Labels::new()).unwrap()[0];
    assert!(
        mount
            .source
            .starts_with(root.path().canonicalize().unwrap().to_str().unwrap())
    );
    assert_eq!(
        fs::canonicalize(&mount.source).unwrap(),
        base.path().canonicalize().unwrap()
    );
}

#[test]
fn of_many_that_prepare_one_key_at_once_one_gets_it_and_nothing_is_left_of_the_others() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    for round in 0..10 {
        let key = format!("key{round}");
        let won = std::thread::scope(|scope| {
            let prepare = || store.prepare(&key, "", Labels::new()).is_ok();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(prepare)).collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap())
                .filter(|won| *won)
                .count()
        });
        assert_eq!(won, 1);
    }
    assert_eq!(
        fs::read_dir(root.path().join("layers")).unwrap().count(),
        10
    );
    assert_eq!(fs::read_dir(root.path().join("work")).unwrap().count(), 10);
}

#[test]
fn many_namespaces_that_land_one_chain_at_once_share_one_alias() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let layer = built_layer(&store, "cache:a");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let store = &store;
            scope.spawn(move || {
                let namespace = format!("ns{n}");
                let _offer = store
                    .offer(&namespace, [("sha256:top".to_owned(), layer)])
                    .unwrap();
                let wanted = labels(&[(REFERENCE_LABEL, "sha256:top")]);
                let answer = store.prepare(&format!("{namespace}/1/key"), "", wanted);
                assert!(matches!(answer, Err(Error::EntryExists(_))));
            });
        }
    });
    assert_eq!(store.entries(&[]).unwrap().len(), 1);
}
