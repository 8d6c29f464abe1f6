//! Rules of the store as build steps see it. Needs root: opening a store mounts a trial overlay.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{env, fs, path::Path, process::Command};

use shipway_snapshotter::{CommitInfo, Error, LayerId, LayerStore, Usage, disk_usage};

/// Tells the test that runs in a mount namespace of its own which directory to try.
const REFUSED: &str = "SHIPWAY_REFUSED_ROOT";

fn open(root: &Path) -> LayerStore {
    LayerStore::open_in_boot(root, "boot-1").unwrap()
}

fn committed(store: &LayerStore, owner: &str) -> LayerId {
    let layer = store.create().unwrap();
    fs::write(layer.fs.join("file"), "content").unwrap();
    let info = CommitInfo {
        owners: vec![owner.into()],
        ..CommitInfo::default()
    };
    store.commit(layer.id, info).unwrap();
    layer.id
}

#[test]
fn a_committed_layer_survives_a_restart_and_an_open_one_does_not() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let kept = committed(&store, "cache:a");
    let dropped = store.create().unwrap();
    drop(store);
    let store = open(root.path());
    assert_eq!(
        fs::read(store.path(kept).unwrap().join("file")).unwrap(),
        b"content"
    );
    assert!(matches!(store.path(dropped.id), Err(Error::NoLayer(_))));
    store.empty_trash().unwrap();
    assert!(!dropped.fs.exists() && !dropped.work.exists());
    assert!(store.recovered().layers.is_empty());
}

#[test]
fn ids_are_never_used_twice() {
    let root = tempfile::tempdir().unwrap();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..3 {
        let store = open(root.path());
        for _ in 0..20 {
            let layer = store.create().unwrap();
            assert!(seen.insert(layer.id));
            store.discard(layer.id).unwrap();
        }
    }
}

#[test]
fn unsynced_layers_are_lost_with_the_power_and_synced_ones_are_not() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let synced = committed(&store, "cache:synced");
    store.sync().unwrap();
    let unsynced = committed(&store, "cache:unsynced");
    drop(store);
    let store = LayerStore::open_in_boot(root.path(), "boot-2").unwrap();
    assert_eq!(store.recovered().layers, [unsynced]);
    assert_eq!(store.recovered().owners, ["cache:unsynced"]);
    assert!(store.path(synced).is_ok());
    assert!(matches!(store.path(unsynced), Err(Error::NoLayer(_))));
    assert!(store.owned_by("cache:unsynced").is_empty());
}

#[test]
fn a_layer_whose_directory_vanished_is_dropped_at_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let lost = committed(&store, "cache:lost");
    fs::remove_dir_all(store.path(lost).unwrap()).unwrap();
    drop(store);
    assert_eq!(open(root.path()).recovered().layers, [lost]);
}

#[test]
fn collect_takes_only_what_no_owner_and_no_pin_needs() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let (owned, pinned, free) = (
        committed(&store, "a"),
        committed(&store, "b"),
        committed(&store, "c"),
    );
    let open = store.create().unwrap();
    let pin = store.pin(&[pinned]).unwrap();
    store.disown(&["b", "c", "unknown"]).unwrap();
    assert_eq!(store.collect().unwrap().layers, [free]);
    assert!(matches!(store.pin(&[free]), Err(Error::NoLayer(_))));
    assert!(store.path(owned).is_ok() && store.path(pinned).is_ok() && open.fs.exists());
    drop(pin);
    assert_eq!(store.collect().unwrap().layers, [pinned]);
    store.empty_trash().unwrap();
    assert_eq!(fs::read_dir(root.path().join("trash")).unwrap().count(), 0);
}

#[test]
fn several_owners_hold_a_layer_until_the_last_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let layer = committed(&store, "a");
    store.own(&[layer], "b").unwrap();
    store.disown(&["a"]).unwrap();
    drop(store);
    let store = open(root.path());
    assert!(store.collect().unwrap().layers.is_empty());
    assert_eq!(store.list()[0].owners, ["b"]);
    store.disown(&["b"]).unwrap();
    assert_eq!(store.collect().unwrap().layers, [layer]);
}

#[test]
fn an_open_layer_is_committed_or_discarded_once() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let layer = store.create().unwrap();
    store.commit(layer.id, CommitInfo::default()).unwrap();
    assert!(matches!(
        store.commit(layer.id, CommitInfo::default()),
        Err(Error::NotOpen(_))
    ));
    assert!(matches!(store.discard(layer.id), Err(Error::NotOpen(_))));
}

#[test]
fn usage_is_the_committers_or_counted() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let layer = store.create().unwrap();
    let told = Usage {
        bytes: 123,
        inodes: 4,
    };
    let info = CommitInfo {
        usage: Some(told),
        ..CommitInfo::default()
    };
    store.commit(layer.id, info).unwrap();
    assert_eq!(store.usage(layer.id).unwrap(), told);

    let layer = store.create().unwrap();
    fs::write(layer.fs.join("a"), vec![1; 10_000]).unwrap();
    fs::hard_link(layer.fs.join("a"), layer.fs.join("b")).unwrap();
    store.commit(layer.id, CommitInfo::default()).unwrap();
    assert_eq!(
        store.usage(layer.id).unwrap(),
        Usage {
            bytes: 4096 + 12_288,
            inodes: 2
        }
    );
}

#[test]
fn a_foreign_directory_is_used_in_place_and_never_deleted() {
    let root = tempfile::tempdir().unwrap();
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("file"), "base").unwrap();
    let store = open(root.path());
    let layer = store.adopt_foreign(base.path(), "cache:base").unwrap();
    assert_eq!(
        store.adopt_foreign(base.path(), "cache:other").unwrap(),
        layer
    );
    assert_eq!(
        store.path(layer).unwrap(),
        base.path().canonicalize().unwrap()
    );
    store.disown(&["cache:base"]).unwrap();
    assert!(store.collect().unwrap().layers.is_empty());
    store.disown(&["cache:other"]).unwrap();
    assert_eq!(store.collect().unwrap().layers, [layer]);
    store.empty_trash().unwrap();
    assert_eq!(fs::read(base.path().join("file")).unwrap(), b"base");
}

#[test]
fn a_foreign_directory_with_overlay_redirects_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    for (name, attribute) in [
        ("dir", c"trusted.overlay.redirect"),
        ("file", c"trusted.overlay.metacopy"),
    ] {
        let base = tempfile::tempdir_in(root.path()).unwrap();
        let path = base.path().join(name);
        if name == "dir" {
            fs::create_dir(&path).unwrap();
        } else {
            fs::write(&path, "x").unwrap();
        }
        rustix::fs::setxattr(&path, attribute, b"/x", rustix::fs::XattrFlags::empty()).unwrap();
        let refused = store.adopt_foreign(base.path(), "a").unwrap_err();
        assert!(
            matches!(&refused, Error::UnusableForeign { path, .. } if path.ends_with(name)),
            "{refused}"
        );
    }
}

#[test]
fn a_second_process_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let _store = open(root.path());
    assert!(matches!(
        LayerStore::open(root.path()),
        Err(Error::InUse(_))
    ));
}

#[test]
fn a_root_that_mount_options_cannot_express_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a,b", "a:b", "a\\b"] {
        let refused = LayerStore::open(dir.path().join(name)).unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// The other half of the next test: runs in a mount namespace of its own.
#[test]
fn refused_filesystem() {
    let Some(dir) = env::var_os(REFUSED) else {
        return;
    };
    let refused = LayerStore::open(dir).unwrap_err();
    assert!(
        matches!(&refused, Error::UnfitFilesystem { fs_type, .. } if fs_type == "overlay"),
        "{refused}"
    );
    eprintln!("refused: {refused}");
}

#[test]
fn a_filesystem_that_cannot_hold_layers_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mkdir l u w m && mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m && exec \"$0\" \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "refused_filesystem", "--nocapture"])
        .env(REFUSED, dir.path().join("m/store"))
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("refused: the filesystem of"),
        "{output:?}"
    );
}

#[test]
fn usage_is_what_du_says() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    fs::create_dir_all(dir.join("a/b/c")).unwrap();
    fs::write(dir.join("a/big"), vec![7; 1_000_000]).unwrap();
    fs::hard_link(dir.join("a/big"), dir.join("a/b/again")).unwrap();
    fs::File::create(dir.join("sparse"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    std::os::unix::fs::symlink("x".repeat(200), dir.join("long-link")).unwrap();
    std::os::unix::fs::symlink("/usr", dir.join("link-to-elsewhere")).unwrap();
    let whiteout = rustix::fs::FileType::CharacterDevice;
    let mode = rustix::fs::Mode::empty();
    rustix::fs::mknodat(rustix::fs::CWD, dir.join("whiteout"), whiteout, mode, 0).unwrap();
    fs::hard_link(dir.join("whiteout"), dir.join("a/whiteout")).unwrap();
    let du = |flag: &str| -> u64 {
        let said = Command::new("du")
            .args(["-s", flag])
            .arg(dir)
            .output()
            .unwrap()
            .stdout;
        String::from_utf8(said)
            .unwrap()
            .split('\t')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    let expected = Usage {
        bytes: du("--block-size=1"),
        inodes: du("--inodes"),
    };
    assert_eq!(disk_usage(dir).unwrap(), expected);
}
