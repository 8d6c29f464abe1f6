//! Every Dockerfile below `corpus/` lowers to what BuildKit v0.33.1's own frontend makes of it: the same op digests in the
//! same order, the same image configuration, the same warnings, the same error with the same lines, or the same answer to
//! a subrequest. `golden.json` holds what that one says: `integration/run corpus` asks it.
//! Only where upstream knows no lines for a vertex (images behind `RUN --mount=from=`), ours may.
//!
//! A case is a directory: `Dockerfile`, and where it needs them `dockerignore`, `opts.json`, `images.json`.

mod golden;

use golden::Case;
use serde_json::Value;
use shipway_dockerfile::lint::Rule;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn read<T: serde::de::DeserializeOwned + Default>(path: &Path) -> T {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).expect("JSON"),
        Err(_) => T::default(),
    }
}

fn case(dir: &Path) -> Case {
    Case {
        dockerfile: std::fs::read(dir.join("Dockerfile")).expect("a case has a Dockerfile"),
        ignore: std::fs::read_to_string(dir.join("dockerignore")).unwrap_or_default(),
        options: read(&dir.join("opts.json")),
        images: read(&dir.join("images.json")),
    }
}

fn directories() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let entries = std::fs::read_dir(root).expect("the corpus is there");
    let mut all: Vec<_> = entries
        .map(|entry| entry.expect("its entries can be listed").path())
        .collect();
    all.sort();
    all
}

#[test]
fn every_dockerfile_lowers_as_upstream_lowers_it() {
    let mut wrong = Vec::new();
    for dir in directories() {
        let want: Value = read(&dir.join("golden.json"));
        let got = golden::without_extra_lines(golden::run(&case(&dir)), &want);
        if got != want {
            let name = dir.file_name().unwrap().to_string_lossy().into_owned();
            let differs = golden::difference(&want, &got).join("\n");
            wrong.push(format!("{name}:\n{differs}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn the_corpus_holds_what_people_write_and_breaks_every_rule() {
    let mut broken = BTreeSet::new();
    let mut real = 0;
    for dir in directories() {
        real += usize::from(
            dir.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("real-"),
        );
        let golden: Value = read(&dir.join("golden.json"));
        for warning in golden["warnings"].as_array().into_iter().flatten() {
            let text = warning["text"].as_str().unwrap_or_default();
            broken.extend(text.split_once(": ").map(|(rule, _)| rule.to_owned()));
        }
    }
    assert!(
        real >= 60,
        "{real} Dockerfiles of the shapes that people write"
    );
    let never: Vec<_> = Rule::ALL
        .iter()
        .filter(|rule| !broken.contains(rule.name()))
        .collect();
    assert!(never.is_empty(), "no case breaks {never:?}");
}
