//! What operations on an upper directory leave, compared with the same done through a real overlay mount, and the
//! rules of copying one by one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs as sys;
use shipway_model::op::FileCopy;

use super::{Composer, NewDir, Origin};
use crate::archive;
use crate::differ::{self, Change};
use crate::layer::Layer;
use crate::stack::{Last, Stack};
use crate::stat::{Kind, Owner, Time};
use crate::view::View;
use crate::view::tests::writable;

struct World {
    temp: tempfile::TempDir,
    lower: Stack,
}

impl World {
    /// Lower layers with some of everything.
    fn new() -> Self {
        let temp = tempfile::tempdir_in(".").unwrap();
        let (one, two) = (temp.path().join("one"), temp.path().join("two"));
        fs::create_dir_all(one.join("a/b")).unwrap();
        fs::create_dir_all(one.join("c")).unwrap();
        fs::write(one.join("a/f"), "lower f").unwrap();
        fs::write(one.join("a/b/g"), "lower g").unwrap();
        fs::write(one.join("c/h"), "lower h").unwrap();
        fs::write(one.join("top"), "lower top").unwrap();
        symlink("a", one.join("link")).unwrap();
        symlink("/nonexist/deep", one.join("dangling")).unwrap();
        fs::create_dir_all(two.join("a")).unwrap();
        fs::write(two.join("a/i"), "lower i").unwrap();
        let kind = sys::FileType::CharacterDevice;
        sys::mknodat(sys::CWD, two.join("top"), kind, sys::Mode::empty(), 0).unwrap();
        fs::set_permissions(one.join("a/b"), fs::Permissions::from_mode(0o750)).unwrap();
        age(&one);
        age(&two);
        let lower = Stack::open([one, two]).unwrap();
        Self { temp, lower }
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.temp.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn composer(&self, name: &str) -> Composer {
        Composer::open(self.dir(name), &self.lower).unwrap()
    }

    fn origin(&self, files: &[(&str, &str)]) -> Origin {
        let path = self.dir("origin");
        for (name, data) in files {
            let file = path.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            match data.strip_prefix("-> ") {
                Some(target) => symlink(target, file).unwrap(),
                None => fs::write(file, data).unwrap(),
            }
        }
        age(&path);
        Origin {
            tree: Stack::open([path]).unwrap(),
            linkable: true,
        }
    }
}

/// Gives everything an old time, so that times tell what was touched.
fn age(path: &Path) {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return;
    };
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            age(&entry.unwrap().path());
        }
    }
    let dir = fs::File::open("/").unwrap();
    crate::stat::set_mtime(
        &dir,
        &fs::canonicalize(path.parent().unwrap())
            .unwrap()
            .join(path.file_name().unwrap()),
        Time {
            sec: 1_000_000_000,
            nsec: 5,
        },
    )
    .unwrap();
}

fn copy(src: &str, dest: &str) -> FileCopy {
    FileCopy {
        src: src.into(),
        dest: dest.into(),
        owner: None,
        mode: -1,
        mode_str: String::new(),
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack: false,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        timestamp: -1,
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        always_replace: false,
        required_paths: Vec::new(),
    }
}

/// Everything a tree shows: kind, mode, owner, and contents or target; with `times`, old times too.
fn show(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut out = BTreeMap::new();
    show_into(root, Path::new(""), &mut out);
    out
}

fn show_into(root: &Path, rel: &Path, out: &mut BTreeMap<PathBuf, String>) {
    let path = root.join(rel);
    let meta = fs::symlink_metadata(&path).unwrap();
    let data = match meta.file_type() {
        kind if kind.is_symlink() => format!("-> {}", fs::read_link(&path).unwrap().display()),
        kind if kind.is_file() => fs::read_to_string(&path).unwrap(),
        _ => String::new(),
    };
    let time = if meta.mtime() == 1_000_000_000 {
        "old"
    } else {
        "new"
    };
    out.insert(
        rel.into(),
        format!(
            "{:o} {} {} {time} {data}",
            meta.mode(),
            meta.uid(),
            meta.gid()
        ),
    );
    if meta.is_dir() {
        for entry in fs::read_dir(&path).unwrap() {
            show_into(root, &rel.join(entry.unwrap().file_name()), out);
        }
    }
}

fn changes(upper: &Path, lower: &Stack) -> Vec<String> {
    let layer = Layer::open(upper).unwrap();
    let mut out = Vec::new();
    differ::changes(&layer, lower, &mut |change| {
        out.push(match change {
            Change::Removed(path) => format!("- {}", path.display()),
            Change::Present {
                path,
                stat,
                same_as,
            } => {
                format!("+ {} {:o} {same_as:?}", path.display(), stat.mode)
            }
        });
        Ok(())
    })
    .unwrap();
    out
}

/// An operation done both ways.
#[derive(Debug, Clone)]
enum Op {
    Mkdir(String),
    Write(String),
    Remove(String),
    Link(String),
}

fn by_composer(composer: &mut Composer, op: &Op) {
    let new = NewDir::default();
    // The operations follow a link that they find; system calls do not.
    if let Op::Mkdir(path) | Op::Write(path) | Op::Link(path) = op {
        let found = composer.view().resolve(Path::new(path), Last::Keep);
        let entry = found.ok().and_then(|found| found.entry);
        let is_link = entry.is_some_and(|entry| entry.stat.kind == Kind::Symlink);
        match op {
            Op::Mkdir(_) | Op::Link(_) if is_link => return,
            Op::Write(_) if is_link => composer.rm(path, false, false).unwrap(),
            _ => {}
        }
    }
    // Failures must be failures on both sides; which ones they are is not compared.
    drop(match op {
        Op::Mkdir(path) => composer.mkdir(path, true, &new),
        Op::Write(path) => composer.mkfile(path, b"data", &NewDir { mode: 0o644, ..new }),
        Op::Remove(path) => composer.rm(path, true, false),
        Op::Link(path) => composer.symlink("target", path, Owner::default(), None),
    });
}

fn by_mount(root: &Path, op: &Op) {
    match op {
        Op::Mkdir(path) => drop(fs::create_dir_all(root.join(path))),
        Op::Write(path) => {
            let path = root.join(path);
            if !path.is_dir() && path.parent().unwrap().is_dir() {
                drop(fs::remove_file(&path));
                drop(fs::write(&path, "data"));
            }
        }
        Op::Remove(path) => {
            let path = root.join(path);
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => drop(fs::remove_dir_all(&path)),
                _ => drop(fs::remove_file(&path)),
            }
        }
        Op::Link(path) => drop(symlink("target", root.join(path))),
    }
}

fn paths() -> impl Strategy<Value = String> {
    let names = [
        "a", "a/b", "a/b/g", "a/f", "a/i", "c", "c/h", "top", "new", "new/x", "a/b/new", "c/new/y",
    ];
    prop::sample::select(names.to_vec()).prop_map(str::to_owned)
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        paths().prop_map(Op::Mkdir),
        paths().prop_map(Op::Write),
        paths().prop_map(Op::Remove),
        prop::sample::select(vec!["a/f", "a/i", "top", "new/x", "c/new/y"])
            .prop_map(|path| Op::Link(path.into())),
    ];
    prop::collection::vec(op, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn operations_leave_what_they_leave_through_a_mount(ops in ops()) {
        let world = World::new();
        let (upper, work) = (world.dir("mounted"), world.dir("work"));
        let mounted = writable(&world.lower, &fs::canonicalize(&upper).unwrap(), &fs::canonicalize(work).unwrap());
        let path = PathBuf::from(format!("/proc/self/fd/{}/", std::os::fd::AsRawFd::as_raw_fd(&mounted)));
        let mut composer = world.composer("composed");
        for op in &ops {
            by_composer(&mut composer, op);
            by_mount(&path, op);
        }
        let expected = show(&path);
        drop(mounted);
        let view = View::of(composer.view()).unwrap();
        let got = show(&view.path());
        prop_assert_eq!(got.into_iter().skip(1).collect::<Vec<_>>(), expected.into_iter().skip(1).collect::<Vec<_>>());
        prop_assert_eq!(changes(&world.temp.path().join("composed"), &world.lower), changes(&upper, &world.lower));
    }
}

#[test]
fn destinations_resolve_inside_the_root() {
    let world = World::new();
    let origin = world.origin(&[("f", "data")]);
    let mut composer = world.composer("up");
    for (dest, lands) in [
        ("/link/x", "a/x"),
        ("/dangling/y", "nonexist/deep/y"),
        ("/../../../real/", "real/f"),
        ("/a", "a/f"),
        ("/fresh/dir/", "fresh/dir/f"),
        ("/fresh/file", "fresh/file"),
    ] {
        composer.copy(&origin, &copy("/f", dest), None).unwrap();
        let view = View::of(composer.view()).unwrap();
        assert_eq!(
            fs::read_to_string(view.path().join(lands)).unwrap(),
            "data",
            "{dest}"
        );
    }
}

#[test]
fn conflicts_are_the_errors_that_buildkit_gives() {
    let world = World::new();
    let origin = world.origin(&[("d/f", "data"), ("e/f/x", "y"), ("f", "z")]);
    let cases = [
        ("/d", "/a/f", "cannot copy to non-directory: /a/f"),
        ("/f", "/a/f/", "mkdir /a/f: not a directory"),
        ("/nodir", "/x", "lstat /nodir: no such file or directory"),
        ("/nodir/*", "/x", "lstat /nodir: no such file or directory"),
    ];
    for (src, dest, message) in cases {
        let mut composer = world.composer("up");
        let error = composer.copy(&origin, &copy(src, dest), None).unwrap_err();
        assert_eq!(error.to_string(), message, "{src} to {dest}");
    }
    let mut composer = world.composer("over");
    composer.mkdir("/t/f", true, &NewDir::default()).unwrap();
    let error = composer.copy(&origin, &copy("/d", "/t"), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot replace to directory /t/f with file"
    );
    let error = composer.copy(&origin, &copy("/e", "/a"), None).unwrap_err();
    assert_eq!(error.to_string(), "cannot copy to non-directory: /a/f");
    let replace = FileCopy {
        always_replace: true,
        ..copy("/e", "/a")
    };
    composer.copy(&origin, &replace, None).unwrap();
    let replace = FileCopy {
        always_replace: true,
        ..copy("/d", "/t")
    };
    composer.copy(&origin, &replace, None).unwrap();
    let view = View::of(composer.view()).unwrap();
    assert_eq!(fs::read_to_string(view.path().join("a/f/x")).unwrap(), "y");
    assert_eq!(fs::read_to_string(view.path().join("t/f")).unwrap(), "data");
    assert!(view.path().join("a/b/g").exists());
}

#[test]
fn a_copied_directory_keeps_what_buildkit_keeps() {
    let world = World::new();
    let origin = world.origin(&[("d/f", "data"), ("d/sub/g", "more"), ("d/l", "-> /victim")]);
    fs::set_permissions(
        world.temp.path().join("origin/d"),
        fs::Permissions::from_mode(0o700),
    )
    .unwrap();
    let mut composer = world.composer("up");
    composer.copy(&origin, &copy("/d", "/x"), None).unwrap();
    let view = View::of(composer.view()).unwrap();
    let meta = fs::metadata(view.path().join("x")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o755, 1_000_000_000));
    let file = fs::metadata(view.path().join("x/f")).unwrap();
    assert_eq!((file.mtime(), file.mtime_nsec()), (1_000_000_000, 5));
    assert_eq!(file.nlink(), 2, "an unchanged file is linked");
    assert_eq!(
        fs::read_link(view.path().join("x/l")).unwrap(),
        Path::new("/victim")
    );
    let chowned = copy("/d", "/y");
    composer
        .copy(
            &origin,
            &FileCopy {
                mode_str: "u=rwX,go=rX".into(),
                ..chowned
            },
            Some(Owner { uid: 5, gid: 6 }),
        )
        .unwrap();
    let view = View::of(composer.view()).unwrap();
    let file = fs::metadata(view.path().join("y/f")).unwrap();
    assert_eq!(
        (file.uid(), file.gid(), file.nlink(), file.mode() & 0o7777),
        (5, 6, 1, 0o644)
    );
    assert_eq!(fs::metadata(view.path().join("y")).unwrap().uid(), 5);
}

#[test]
fn hard_links_of_one_tree_stay_and_those_of_two_copies_do_not_appear() {
    let world = World::new();
    let origin = world.origin(&[("d/f", "data")]);
    fs::hard_link(
        world.temp.path().join("origin/d/f"),
        world.temp.path().join("origin/d/g"),
    )
    .unwrap();
    let mut composer = world.composer("up");
    composer.copy(&origin, &copy("/d", "/x"), None).unwrap();
    composer.copy(&origin, &copy("/d/f", "/y"), None).unwrap();
    let listed = changes(&world.temp.path().join("up"), &world.lower);
    assert_eq!(
        listed,
        [
            "+ x 755 None",
            "+ x/f 644 None",
            "+ x/g 644 Some(\"x/f\")",
            "+ y 644 None"
        ]
    );
}

#[test]
fn patterns_choose_and_bring_their_parents() {
    let world = World::new();
    let origin = world.origin(&[
        ("p/q/r.txt", "1"),
        ("p/q/s.bin", "2"),
        ("p/t/u.txt", "3"),
        ("v.txt", "4"),
    ]);
    let mut composer = world.composer("up");
    let action = FileCopy {
        include_patterns: vec!["**/*.txt".into()],
        exclude_patterns: vec!["p/t".into()],
        ..copy("/", "/out/")
    };
    composer.copy(&origin, &action, None).unwrap();
    let listed = changes(&world.temp.path().join("up"), &world.lower);
    assert_eq!(
        listed,
        [
            "+ out 755 None",
            "+ out/p 755 None",
            "+ out/p/q 755 None",
            "+ out/p/q/r.txt 644 None",
            "+ out/v.txt 644 None"
        ]
    );
}

#[test]
fn wildcards_match_one_level_and_flatten_directories() {
    let world = World::new();
    let origin = world.origin(&[
        ("g/1/f", "one"),
        ("g/2/f", "two"),
        ("g/x", "x"),
        ("deep/a/b/w", "w"),
    ]);
    let mut composer = world.composer("up");
    composer.copy(&origin, &copy("/g/*", "/t/"), None).unwrap();
    composer
        .copy(&origin, &copy("/deep/**/w", "/none/"), None)
        .unwrap();
    let view = View::of(composer.view()).unwrap();
    assert_eq!(fs::read_to_string(view.path().join("t/f")).unwrap(), "two");
    assert_eq!(fs::read_to_string(view.path().join("t/x")).unwrap(), "x");
    assert!(!view.path().join("none").exists());
}

#[test]
fn removals_become_whiteouts_and_replaced_directories_hide() {
    let world = World::new();
    let mut composer = world.composer("up");
    composer.rm("/a/*", false, true).unwrap();
    composer.rm("/c", false, false).unwrap();
    composer.mkdir("/c", false, &NewDir::default()).unwrap();
    assert!(composer.rm("/", true, false).is_err());
    let error = composer.rm("/nope", false, false).unwrap_err();
    assert_eq!(error.to_string(), "stat /nope: no such file or directory");
    let listed = changes(&world.temp.path().join("up"), &world.lower);
    assert_eq!(
        listed,
        [
            "+ a 755 None",
            "- a/b",
            "- a/f",
            "- a/i",
            "+ c 755 None",
            "- c/h"
        ]
    );
}

#[test]
fn an_archive_is_unpacked_below_the_destination() {
    let world = World::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o640);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_000);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    };
    add("in/side", b"1");
    add("/abs", b"2");
    add("../up", b"3");
    add(".wh.literal", b"4");
    let bytes = builder.into_inner().unwrap();
    let path = world.dir("origin").join("x.tar");
    fs::write(path, bytes).unwrap();
    let origin = world.origin(&[("plain", "no archive")]);
    let mut composer = world.composer("up");
    let add = |src: &str| FileCopy {
        attempt_unpack: true,
        ..copy(src, "/dest")
    };
    composer.copy(&origin, &add("/x.tar"), None).unwrap();
    composer.copy(&origin, &add("/plain"), None).unwrap();
    let view = View::of(composer.view()).unwrap();
    for (name, data) in [
        ("in/side", "1"),
        ("abs", "2"),
        ("up", "3"),
        (".wh.literal", "4"),
        ("plain", "no archive"),
    ] {
        assert_eq!(
            fs::read_to_string(view.path().join("dest").join(name)).unwrap(),
            data,
            "{name}"
        );
    }
    let meta = fs::metadata(view.path().join("dest/abs")).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o777, meta.mtime()),
        (7, 8, 0o640, 1_000_000_000)
    );
}

#[test]
fn a_composed_layer_archives_and_extracts_to_the_same() {
    let world = World::new();
    let origin = world.origin(&[("d/f", "data"), ("d/sub/g", "more"), ("d/l", "-> /victim")]);
    let mut composer = world.composer("up");
    composer.copy(&origin, &copy("/d", "/a"), None).unwrap();
    composer.rm("/a/b", false, false).unwrap();
    let upper = Layer::open(world.temp.path().join("up")).unwrap();
    let mut bytes = Vec::new();
    archive::write_layer(
        &upper,
        &world.lower,
        archive::Options::default(),
        &mut bytes,
    )
    .unwrap();
    let mut back = world.composer("back");
    crate::extract_layer(
        &bytes[..],
        &mut back,
        crate::Expected::default(),
        crate::Limits::default(),
    )
    .unwrap();
    let mut again = Vec::new();
    archive::write_layer(
        back.upper(),
        &world.lower,
        archive::Options::default(),
        &mut again,
    )
    .unwrap();
    assert!(bytes == again);
}
