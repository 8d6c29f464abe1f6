//! Checksums against digests that BuildKit's own package computed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::index::{Builder, NodeKind};
use super::{Content, Indexed, LayerIndex, Selector, deduplicate};
use crate::layer::Layer;

fn write(path: &Path, data: &str) {
    fs::write(path, data).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

fn dir(path: &Path) {
    fs::create_dir_all(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn content(path: &Path) -> Content {
    let layer = Arc::new(Layer::open(path).unwrap());
    Content::new(vec![Indexed::scan(&layer).unwrap()])
}

fn select(path: &str) -> Selector {
    Selector {
        path: path.into(),
        ..Selector::default()
    }
}

#[test]
fn a_directory_hashes_as_in_buildkit() {
    let temp = tempfile::tempdir_in(".").unwrap();
    let root = temp.path().join("d");
    dir(&root);
    write(&root.join("abc"), "data0");
    symlink("abc", root.join("def")).unwrap();
    symlink("nosuchfile", root.join("ghi")).unwrap();
    let digest = content(temp.path()).checksum(&select("/d")).unwrap();
    let expected = "sha256:d47454417d2c554067fbefe5f5719edc49f3cfe969c36b62e34a187a4da0cc9a";
    assert_eq!(digest.to_string(), expected);
}

#[test]
fn links_on_the_way_are_followed_and_the_last_one_only_on_request() {
    let temp = tempfile::tempdir_in(".").unwrap();
    dir(&temp.path().join("real/sub"));
    write(&temp.path().join("real/sub/f"), "x");
    symlink("/real", temp.path().join("link")).unwrap();
    symlink("../../../real/sub", temp.path().join("up")).unwrap();
    let content = content(temp.path());
    let follow = |path: &str| Selector {
        follow_links: true,
        ..select(path)
    };
    let direct = content.checksum(&select("/real/sub")).unwrap();
    assert_eq!(content.checksum(&select("/link/sub")).unwrap(), direct);
    assert_eq!(content.checksum(&follow("/up")).unwrap(), direct);
    assert_ne!(content.checksum(&select("/up")).unwrap(), direct);
    let missing = content.checksum(&select("/nope")).unwrap_err();
    assert_eq!(missing.to_string(), "\"/nope\": not found");
}

#[test]
fn a_stack_hashes_as_its_merged_tree() {
    let temp = tempfile::tempdir_in(".").unwrap();
    let [lower, upper, merged] = ["l", "u", "m"].map(|name| temp.path().join(name));
    for root in [&lower, &upper, &merged] {
        dir(root);
    }
    for root in [&lower, &merged] {
        dir(&root.join("a"));
        write(&root.join("a/keep"), "1");
    }
    write(&lower.join("a/gone"), "2");
    dir(&lower.join("hidden"));
    write(&lower.join("hidden/old"), "3");
    for root in [&upper, &merged] {
        dir(&root.join("a"));
        write(&root.join("a/new"), "4");
        dir(&root.join("hidden"));
        write(&root.join("hidden/now"), "5");
    }
    whiteout(&upper.join("a/gone"));
    opaque(&upper.join("hidden"));
    let layers = [&lower, &upper].map(|path| Arc::new(Layer::open(path).unwrap()));
    let stack = Content::new(
        layers
            .iter()
            .map(|layer| Indexed::scan(layer).unwrap())
            .collect(),
    );
    let flat = content(&merged);
    for path in ["/", "/a", "/hidden", "/a/new"] {
        let digest = stack.checksum(&select(path)).unwrap();
        assert_eq!(digest, flat.checksum(&select(path)).unwrap(), "{path}");
    }
    assert!(stack.checksum(&select("/a/gone")).is_err());
}

fn whiteout(path: &Path) {
    let mode = rustix::fs::Mode::empty();
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

fn opaque(path: &Path) {
    rustix::fs::setxattr(
        path,
        crate::layer::OPAQUE,
        b"y",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
}

#[test]
fn an_index_survives_as_bytes_with_the_digests_taken() {
    let temp = tempfile::tempdir_in(".").unwrap();
    dir(&temp.path().join("a"));
    write(&temp.path().join("a/f"), "data");
    symlink("f", temp.path().join("a/l")).unwrap();
    let before = content(temp.path());
    let digest = before.checksum(&select("/")).unwrap();
    let layer = Arc::new(Layer::open(temp.path()).unwrap());
    let index = Indexed::scan(&layer).unwrap().index;
    index.complete(&layer, &[0, 1, 2, 3]).unwrap();
    let bytes = index.to_bytes();
    fs::remove_dir_all(temp.path().join("a")).unwrap();
    let index = Arc::new(LayerIndex::from_bytes(&bytes).unwrap());
    let after = Content::new(vec![Indexed { layer, index }]);
    assert_eq!(after.checksum(&select("/")).unwrap(), digest);
    for cut in 0..bytes.len() {
        assert!(
            LayerIndex::from_bytes(&bytes[..cut]).is_err(),
            "cut at {cut}"
        );
    }
}

#[test]
fn digests_taken_on_arrival_are_those_of_the_files() {
    use super::{ArrivingSum, LayerIndex};
    use std::collections::HashMap;
    use std::os::unix::fs::PermissionsExt as _;

    let root = tempfile::tempdir().unwrap();
    let (sub, file) = (root.path().join("sub"), root.path().join("sub/file"));
    std::fs::create_dir(&sub).unwrap();
    write(&file, "some data");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o2750)).unwrap();
    let stat = crate::Stat::at(rustix::fs::CWD, &file).unwrap();
    let owner = crate::Owner {
        uid: stat.uid,
        gid: stat.gid,
    };
    let key = |data: &[u8]| {
        let mut sum = ArrivingSum::new(stat.mode, owner, data.len() as u64);
        sum.update(data);
        let layer = std::sync::Arc::new(crate::Layer::open(root.path()).unwrap());
        let index = LayerIndex::scan(&layer).unwrap();
        index.learn(&HashMap::from([("sub/file".into(), sum.finish().unwrap())]));
        let index = std::sync::Arc::new(index);
        let content = Content::new(vec![super::Indexed { layer, index }]);
        content.key(&[select("")]).unwrap()
    };
    let read = content(root.path()).key(&[select("")]).unwrap();
    assert_eq!(key(b"some data"), read);
    // What is known is not read.
    assert_ne!(key(b"other data"), read);
}

#[test]
fn selectors_inside_others_are_dropped() {
    let kept = deduplicate(&[select("/foo/a"), select("/foobar"), select("/foo")]);
    let paths: Vec<_> = kept.iter().map(|selector| selector.path.as_str()).collect();
    assert_eq!(paths, ["/foo", "/foobar"]);
    let all = deduplicate(&[select("/"), select("/foo")]);
    assert_eq!(all, [select("/")]);
}

#[test]
fn nothing_is_the_digest_of_nothing() {
    let empty = Content::default();
    assert_eq!(
        empty.checksum(&select("/")).unwrap(),
        shipway_model::Digest::of(b"")
    );
    assert!(empty.checksum(&select("/x")).is_err());
}

proptest! {
    #[test]
    fn damaged_bytes_are_an_error_or_an_index_that_can_be_walked(at in 0_usize..400, value: u8) {
        let mut builder = Builder::default();
        builder.open(b"", false);
        builder.open(b"dir", false);
        builder.leaf(b"file", NodeKind::Leaf, b"", Some([3; 32]));
        builder.leaf(b"link", NodeKind::Symlink, b"/dir/file", Some([4; 32]));
        builder.close();
        builder.leaf(b"gone", NodeKind::Whiteout, b"", None);
        let mut bytes = builder.finish().to_bytes();
        let at = at % bytes.len();
        bytes[at] = value;
        if let Ok(index) = LayerIndex::from_bytes(&bytes) {
            let temp = tempfile::tempdir_in(".").unwrap();
            let layer = Arc::new(Layer::open(temp.path()).unwrap());
            let content = Content::new(vec![Indexed { layer, index: Arc::new(index) }]);
            drop(content.checksum(&select("/dir/link")));
            drop(content.checksum(&select("/")));
        }
    }
}

/// A tree of files (contents), directories (`/`) and links (`-> target`).
fn tree(entries: &[(&str, &str)]) -> (tempfile::TempDir, Content) {
    let temp = tempfile::tempdir_in(".").unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (path, data) in entries {
        let path = temp.path().join(path);
        match (*data, data.strip_prefix("-> ")) {
            ("/", _) => dir(&path),
            (_, Some(target)) => symlink(target, path).unwrap(),
            (data, None) => write(&path, data),
        }
    }
    let content = content(temp.path());
    (temp, content)
}

fn glob(path: &str, follow: bool) -> Selector {
    Selector {
        wildcard: true,
        follow_links: follow,
        ..select(path)
    }
}

/// Digests that BuildKit's own tests expect for the same trees.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn wildcards_and_patterns_hash_as_in_buildkit() {
    let (_one, one) = tree(&[
        ("bar", "data1"),
        ("foo", "data0"),
        ("fox", "data2"),
        ("x", "/"),
        ("x/d0", "/"),
        ("x/d0/abc", "data0"),
        ("x/d0/def", "-> abc"),
        ("x/d0/ghi", "-> nosuchfile"),
        ("y1", "-> foo"),
        ("y2", "-> fox"),
    ]);
    let (_two, two) = tree(&[
        ("target", "data0"),
        ("sym", "-> target"),
        ("foo", "/"),
        ("foo/ghi", "-> target"),
        ("y1", "-> foo/ghi"),
    ]);
    let (_three, three) = tree(&[
        ("prefix", "/"),
        ("prefix/a", "/"),
        ("prefix/a/b", "/"),
        ("prefix/a/b/c", "/"),
        ("prefix/a/b/c/foo", "/"),
        ("prefix/a/b/c/foo/bar", "abc"),
    ]);
    let strings = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
    let include = |wildcard, patterns: &[&str]| Selector {
        wildcard,
        include: strings(patterns),
        ..select("prefix/a")
    };
    let exclude = Selector {
        exclude: strings(&["*.git"]),
        follow_links: true,
        ..select("foo")
    };
    let cases = [
        (&one, glob("f*", false), "0b6731924f0a32a8"),
        (&one, glob("x/d?", false), "6b612ad5c1315911"),
        (&one, glob("x/d?/def", true), "cd8e75bca50f2d69"),
        (&one, glob("y*", true), "982153600b9653a1"),
        (&two, glob("sym", false), "a2ba571981f48ec3"),
        (&two, glob("foo/ghi", false), "a2ba571981f48ec3"),
        (&two, select("sym"), "a2ba571981f48ec3"),
        (&two, select("foo"), "9b761577efcb1239"),
        (&two, glob("fo?", true), "2797e710c6d1a89f"),
        (&two, exclude, "9b761577efcb1239"),
        (
            &three,
            include(false, &["**/foo/**", "**/report"]),
            "aa7448215bbf5b83",
        ),
        (
            &three,
            include(true, &["**/foo/**", "**/report"]),
            "aa7448215bbf5b83",
        ),
        (
            &three,
            include(false, &["**/foo", "**/report"]),
            "aa7448215bbf5b83",
        ),
        (
            &three,
            include(true, &["**/foo", "**/report"]),
            "aa7448215bbf5b83",
        ),
        (
            &three,
            include(true, &["**/nothing/**"]),
            "e3b0c44298fc1c14",
        ),
    ];
    for (content, selector, expected) in cases {
        let digest = content.checksum(&selector).unwrap().hex();
        assert!(digest.starts_with(expected), "{selector:?}: {digest}");
    }
    assert!(
        two.checksum(&glob("foo/ghi", true)).is_err(),
        "a broken link that is followed"
    );
}

#[test]
fn a_link_before_the_pattern_changes_nothing() {
    let (_temp, content) = tree(&[
        ("data", "/"),
        ("data/d0", "/"),
        ("data/d0/d1", "/"),
        ("data/d0/d1/d2", "/"),
        ("data/d0/d1/d2/foo", "abc"),
        ("data/symlink-to-d0", "-> d0"),
        ("mnt", "/"),
        ("mnt/data", "-> ../data"),
    ]);
    let foo = |wildcard, path| Selector {
        wildcard,
        include: vec!["**/foo".into()],
        ..select(path)
    };
    for (wildcard, a, b) in [
        (false, "data/d0", "mnt/data/d0"),
        (true, "data/d0", "mnt/data/d0"),
        (true, "data/d*", "mnt/data/d*"),
        (true, "data/d0/d1/d*", "mnt/data/d0/d1/d*"),
        (true, "mnt/data/d0/d*/d2", "mnt/data/symlink-to-d0/d*/d2"),
    ] {
        let one = content.checksum(&foo(wildcard, a)).unwrap();
        assert_eq!(one, content.checksum(&foo(wildcard, b)).unwrap(), "{a} {b}");
        assert_ne!(one, shipway_model::Digest::of(b""), "{a}");
    }
}
