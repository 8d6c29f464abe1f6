//! A mirror follows its client through every kind of change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{FileStat, Mirror, Plan, Summary};
use crate::error::Result;
use crate::hash::{Content, Indexed, Selector};
use crate::layer::Layer;

const DIR: u32 = 1 << 31;
const LINK: u32 = 1 << 27;

/// A client's directory: path, mode, time, contents or target.
type Files<'a> = &'a [(&'a str, u32, i64, &'a str)];

fn sync(mirror: Mirror, donors: &[Mirror], files: Files<'_>) -> Result<(Mirror, Summary)> {
    let mut plan = Plan::begin(mirror, donors)?;
    let mut requests = Vec::new();
    for (path, mode, mtime, data) in files {
        let mut stat = FileStat {
            path: (*path).into(),
            mode: *mode,
            mtime: *mtime,
            ..FileStat::default()
        };
        if mode & LINK != 0 {
            stat.link = (*data).into();
        } else {
            stat.link = data.strip_prefix("= ").unwrap_or_default().into();
            stat.size = data.len() as u64;
        }
        if let Some(request) = plan.stat(stat)? {
            requests.push((request, *data));
        }
    }
    for (request, data) in requests.iter().rev() {
        for part in data.as_bytes().chunks(3) {
            plan.data(*request, part)?;
        }
        plan.data(*request, b"")?;
    }
    plan.finish()
}

const FIRST: Files<'static> = &[
    ("a", 0o755 | DIR, 1_000_000_001, ""),
    ("a/f", 0o644, 7, "contents"),
    ("a/h", 0o644, 7, "= a/f"),
    ("a/l", 0o777 | LINK, 8, "../b"),
    ("a.b", 0o600, 9, ""),
    ("c", 0o700 | DIR, 10, ""),
    ("c/d", 0o755 | DIR, 11, ""),
    ("c/d/e", 0o4755, 12, "more"),
];

fn contents(mirror: &Mirror, path: &str) -> String {
    fs::read_to_string(mirror.tree().join(path)).unwrap()
}

/// The recorded checksums are those of the files on disk, but for the root's.
fn check(mirror: &Mirror) {
    let layer = std::sync::Arc::new(Layer::open(mirror.tree()).unwrap());
    let scanned = Content::new(vec![Indexed::scan(&layer).unwrap()]);
    let kept = Content::new(vec![Indexed {
        layer,
        index: mirror.index().clone(),
    }]);
    for entry in fs::read_dir(mirror.tree()).unwrap() {
        let path = format!("/{}", entry.unwrap().file_name().into_string().unwrap());
        let selector = Selector {
            path,
            ..Selector::default()
        };
        assert_eq!(
            kept.checksum(&selector).unwrap(),
            scanned.checksum(&selector).unwrap(),
            "{selector:?}"
        );
    }
    for entry in mirror.entries() {
        let meta = fs::symlink_metadata(mirror.tree().join(&entry.stat.path)).unwrap();
        let nanos = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
        assert_eq!(nanos, entry.stat.mtime, "time of {}", entry.stat.path);
    }
}

#[test]
fn only_what_changed_is_asked_for() {
    let temp = tempfile::tempdir_in(".").unwrap();
    let path = temp.path().join("m");
    let (mirror, first) = sync(Mirror::open(&path).unwrap(), &[], FIRST).unwrap();
    assert_eq!((first.sent, first.entries, first.changed), (2, 8, true));
    check(&mirror);
    let (_, again) = sync(mirror, &[], FIRST).unwrap();
    assert_eq!((again.sent, again.changed), (0, false));
    let mirror = Mirror::open(&path).unwrap();
    let before = fs::metadata(mirror.tree().join("c/d/e")).unwrap().ino();
    let changed: Files<'_> = &[
        ("a", 0o711 | DIR, 1_000_000_001, ""),
        ("a/f", 0o644, 70, "content2"),
        ("a/new", 0o644, 7, "new"),
        ("a.b", 0o755 | DIR, 9, ""),
        ("a.b/x", 0o644, 9, "x"),
        ("c", 0o644, 10, "now a file"),
        ("z", 0o4755, 12, ""),
    ];
    let (mirror, summary) = sync(mirror, &[], changed).unwrap();
    assert_eq!((summary.sent, summary.changed), (4, true));
    assert_eq!(contents(&mirror, "a/f"), "content2");
    assert_eq!(contents(&mirror, "c"), "now a file");
    assert!(!mirror.tree().join("a/h").exists());
    assert_ne!(fs::metadata(mirror.tree().join("z")).unwrap().ino(), before);
    check(&mirror);
    let (mirror, _) = sync(Mirror::open(&path).unwrap(), &[], FIRST).unwrap();
    assert_eq!(contents(&mirror, "a/h"), "contents");
    check(&mirror);
    let (mirror, _) = sync(mirror, &[], &[]).unwrap();
    assert_eq!(fs::read_dir(mirror.tree()).unwrap().count(), 0);
}

#[test]
fn a_file_is_replaced_and_never_changed_in_place() {
    let temp = tempfile::tempdir_in(".").unwrap();
    let (mirror, _) = sync(
        Mirror::open(temp.path().join("m")).unwrap(),
        &[],
        &[("f", 0o644, 7, "old")],
    )
    .unwrap();
    let linked = temp.path().join("linked");
    fs::hard_link(mirror.tree().join("f"), &linked).unwrap();
    for (mode, mtime, data) in [(0o755, 7, "old"), (0o755, 8, "new")] {
        sync(
            Mirror::open(temp.path().join("m")).unwrap(),
            &[],
            &[("f", mode, mtime, data)],
        )
        .unwrap();
        let meta = fs::metadata(&linked).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.mtime_nsec()), (0o644, 7));
        assert_eq!(fs::read_to_string(&linked).unwrap(), "old");
    }
}

#[test]
fn another_mirror_gives_what_it_has() {
    let temp = tempfile::tempdir_in(".").unwrap();
    let (donor, _) = sync(Mirror::open(temp.path().join("a")).unwrap(), &[], FIRST).unwrap();
    let donors = [donor];
    let (mirror, summary) =
        sync(Mirror::open(temp.path().join("b")).unwrap(), &donors, FIRST).unwrap();
    assert_eq!((summary.sent, summary.borrowed), (0, 2));
    check(&mirror);
    fs::write(temp.path().join("a/tree/a/f"), "changed behind its back").unwrap();
    let (_, summary) = sync(Mirror::open(temp.path().join("c")).unwrap(), &donors, FIRST).unwrap();
    assert_eq!((summary.sent, summary.borrowed), (1, 1));
}

#[test]
fn a_transfer_that_breaks_off_leaves_the_mirror_as_it_was() {
    let temp = tempfile::tempdir_in(".").unwrap();
    let path = temp.path().join("m");
    sync(Mirror::open(&path).unwrap(), &[], FIRST).unwrap();
    let mut plan = Plan::begin(Mirror::open(&path).unwrap(), &[]).unwrap();
    let stat = FileStat {
        path: "f".into(),
        mode: 0o644,
        size: 3,
        ..FileStat::default()
    };
    let request = plan.stat(stat).unwrap().unwrap();
    plan.data(request, b"x").unwrap();
    assert!(plan.finish().is_err());
    let mirror = Mirror::open(&path).unwrap();
    assert_eq!(mirror.entries().len(), FIRST.len());
    check(&mirror);
    fs::remove_file(path.join("index")).unwrap();
    assert!(Mirror::open(&path).unwrap().entries().is_empty());
    assert!(!path.join("tree/a").exists());
}

#[test]
fn a_client_that_lies_is_refused() {
    let temp = tempfile::tempdir_in(".").unwrap();
    let cases: [(Files<'_>, &str); 4] = [
        (&[("../x", 0o644, 0, "x")], "leads out"),
        (&[("b", 0o644, 0, ""), ("a", 0o644, 0, "")], "out of order"),
        (&[("d/f", 0o644, 0, "")], "was not announced"),
        (&[("f", 0o644, 0, "= nothing")], "was not announced"),
    ];
    for (files, why) in cases {
        let error = sync(Mirror::open(temp.path().join("m")).unwrap(), &[], files)
            .err()
            .unwrap();
        assert!(error.to_string().contains(why), "{error}");
    }
    let mut plan = Plan::begin(Mirror::open(temp.path().join("m")).unwrap(), &[]).unwrap();
    assert!(plan.data(super::Request(3), b"x").is_err());
    assert!(!Path::new("x").exists());
}
