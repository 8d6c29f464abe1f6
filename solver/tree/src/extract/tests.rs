//! Layers that are honest, and those that are not.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use shipway_model::Digest;

use super::{Expected, Limits, extract_layer};
use crate::compose::Composer;
use crate::error::Result;
use crate::stack::Stack;
use crate::stat::Time;
use crate::tarball::{Header, Type, Writer};

fn archive(entries: &[(&str, Type, &str)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (name, kind, data) in entries {
        let mut header = Header {
            mode: 0o755,
            mtime: Time { sec: 7, nsec: 0 },
            ..Header::new(name.as_bytes(), *kind)
        };
        if *kind == Type::File {
            header.size = data.len() as u64;
            writer.bytes(&header, data.as_bytes()).unwrap();
        } else {
            header.link = data.as_bytes().into();
            writer.header(&header).unwrap();
        }
    }
    writer.finish().unwrap()
}

struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir_in(".").unwrap();
        fs::create_dir_all(temp.path().join("lower/d")).unwrap();
        fs::create_dir(temp.path().join("upper")).unwrap();
        fs::write(temp.path().join("lower/d/old"), "old").unwrap();
        Self { temp }
    }

    fn extract(&self, blob: &[u8], expected: Expected, limits: Limits) -> Result<super::Extracted> {
        let lower = Stack::open([self.temp.path().join("lower")]).unwrap();
        let mut composer = Composer::open(self.temp.path().join("upper"), &lower).unwrap();
        extract_layer(blob, &mut composer, expected, limits)
    }

    fn plain(&self, entries: &[(&str, Type, &str)]) -> Result<super::Extracted> {
        self.extract(&archive(entries), Expected::default(), Limits::default())
    }
}

#[test]
fn a_layer_becomes_an_upper_directory() {
    let place = Place::new();
    place
        .plain(&[
            ("d/.wh.old", Type::File, ""),
            ("d/new", Type::File, "new"),
            ("d/hard", Type::HardLink, "d/new"),
            ("e/", Type::Dir, ""),
            ("e/.wh..wh..opq", Type::File, ""),
            ("./e/l", Type::Symlink, "../../../../etc"),
            ("e/l2/through", Type::File, "x"),
        ])
        .unwrap();
    let upper = place.temp.path().join("upper");
    assert!(fs::symlink_metadata(upper.join("d/old")).unwrap().rdev() == 0);
    assert_eq!(fs::metadata(upper.join("d/new")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(upper.join("e")).unwrap().mtime(), 7);
    let mut value = [0; 1];
    rustix::fs::getxattr(upper.join("e"), crate::layer::OPAQUE, &mut value).unwrap();
    assert_eq!(&value, b"y");
}

#[test]
fn a_hard_link_to_a_lower_file_copies_it_up() {
    let place = Place::new();
    place.plain(&[("other", Type::HardLink, "d/old")]).unwrap();
    let upper = place.temp.path().join("upper");
    assert_eq!(fs::read_to_string(upper.join("other")).unwrap(), "old");
    let ino = |name| fs::metadata(upper.join(name)).unwrap().ino();
    assert_eq!(ino("other"), ino("d/old"));
    assert_eq!(
        fs::metadata(place.temp.path().join("lower/d/old"))
            .unwrap()
            .nlink(),
        1
    );
}

#[test]
fn what_leads_out_of_the_tree_is_refused_by_name() {
    for entry in [
        ("../escape", Type::File, ""),
        ("a/../../escape", Type::File, ""),
        ("/absolute", Type::File, ""),
        ("hard", Type::HardLink, "../../etc/passwd"),
        ("hard", Type::HardLink, "/etc/passwd"),
        ("hard", Type::HardLink, "nothing/there"),
        ("d/.wh...", Type::File, ""),
    ] {
        // That it is the archive which was promised makes it no better.
        let bytes = archive(&[entry]);
        let promised = Expected {
            digest: Some(Digest::of(&bytes)),
            diff_id: Some(Digest::of(&bytes)),
        };
        for expected in [Expected::default(), promised] {
            let place = Place::new();
            let error = place.extract(&bytes, expected, Limits::default());
            let error = error.unwrap_err().to_string();
            assert!(error.contains(entry.0), "{error}");
            assert!(!place.temp.path().join("escape").exists());
        }
    }
}

#[test]
fn empty_numbers_of_a_header_are_zero() {
    let mut header = tar::Header::new_gnu();
    header.set_path("f").unwrap();
    header.set_size(2);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, &b"hi"[..]).unwrap();
    let bytes = archive.into_inner().unwrap();
    let place = Place::new();
    place
        .extract(&bytes, Expected::default(), Limits::default())
        .unwrap();
    let file = fs::metadata(place.temp.path().join("upper/f")).unwrap();
    assert_eq!((file.uid(), file.mtime(), file.len()), (0, 0, 2));
}

#[test]
fn writing_through_a_link_stays_inside() {
    let place = Place::new();
    place
        .plain(&[
            ("out", Type::Symlink, "../../../.."),
            ("out/inside", Type::File, "x"),
        ])
        .unwrap();
    assert_eq!(
        fs::read_to_string(place.temp.path().join("upper/inside")).unwrap(),
        "x"
    );
}

#[test]
fn digests_are_checked() {
    let place = Place::new();
    let bytes = archive(&[("f", Type::File, "data")]);
    let other = Some(Digest::of(b"other"));
    for expected in [
        Expected {
            digest: other,
            diff_id: None,
        },
        Expected {
            digest: Some(Digest::of(&bytes)),
            diff_id: other,
        },
    ] {
        let error = place
            .extract(&bytes, expected, Limits::default())
            .unwrap_err();
        assert!(error.to_string().contains("expected sha256:"), "{error}");
    }
}

#[test]
fn bombs_and_floods_are_refused() {
    let zeros = "\0".repeat(80 << 20);
    let bomb = archive(&[("zeros", Type::File, &zeros)]);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&bomb).unwrap();
    let blob = encoder.finish().unwrap();
    let small = Limits {
        ratio: 100,
        ..Limits::default()
    };
    let error = Place::new()
        .extract(&blob, Expected::default(), small)
        .unwrap_err();
    assert!(error.to_string().contains("exceeds the limit"), "{error}");
    let few = Limits {
        entries: 1,
        ..Limits::default()
    };
    let two = archive(&[("a", Type::File, ""), ("b", Type::File, "")]);
    let error = Place::new()
        .extract(&two, Expected::default(), few)
        .unwrap_err();
    assert_eq!(error.to_string(), "archive exceeds the limit of 1 entries");
}

#[test]
fn a_truncated_archive_is_an_error() {
    let bytes = archive(&[("f", Type::File, &"x".repeat(5000))]);
    for cut in [100, 600, 2000] {
        assert!(
            Place::new()
                .extract(&bytes[..cut], Expected::default(), Limits::default())
                .is_err(),
            "{cut}"
        );
    }
}
