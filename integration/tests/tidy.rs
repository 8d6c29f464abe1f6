//! The rules for source files that no lint knows. Each names the files that break it.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use regex::Regex;

const LONGEST: usize = 600;
/// Where unsafe code may be.
const UNSAFE: &[&str] = &[
    "plugin/daemon/src/sys.rs",
    "shim/src/sys/",
    "shim/src/sys.rs",
    "solver/layers/src/sys/",
    "solver/layers/src/sys.rs",
];

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// What isn't test code: test modules stand last in a file, test files are test code as a whole.
    fn without_tests(&self) -> &str {
        let test_file =
            Regex::new(r"(^|/)(tests?|suite|benches|fuzz)/|(tests?|suite)\.rs$").unwrap();
        if test_file.is_match(&self.path) {
            return "";
        }
        self.text.split("#[cfg(test)]").next().unwrap_or_default()
    }

    /// Lines of `text` that match, comments apart.
    fn matching(&self, text: &str, pattern: &Regex) -> Vec<String> {
        let lines = text.lines().enumerate();
        let code = lines.filter(|(_, line)| !line.trim_start().starts_with("//"));
        let found = code.filter(|(_, line)| pattern.is_match(line));
        found
            .map(|(number, line)| format!("{}:{}: {}", self.path, number + 1, line.trim()))
            .collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Tracked files and new ones that nobody ignores.
fn files(pattern: &str) -> Vec<PathBuf> {
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        pattern,
    ]);
    let output = git.current_dir(root()).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let listed = String::from_utf8(output.stdout).unwrap();
    listed
        .lines()
        .map(PathBuf::from)
        .filter(|path| root().join(path).is_file())
        .collect()
}

static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        Source {
            path: path.display().to_string(),
            text,
        }
    };
    files("*.rs").into_iter().map(read).collect()
});

/// Every line of code outside tests that matches.
fn offenders(pattern: &str) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    SOURCES
        .iter()
        .flat_map(|source| source.matching(source.without_tests(), &pattern))
        .collect()
}

#[test]
fn every_file_says_at_its_top_what_it_decides() {
    let silent = SOURCES
        .iter()
        .filter(|source| !source.text.starts_with("//!"));
    let silent = silent.map(|source| &source.path).collect::<Vec<_>>();
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn no_file_is_longer_than_a_reader_can_keep_in_mind() {
    let long = SOURCES
        .iter()
        .filter(|source| source.text.lines().count() > LONGEST);
    let long = long.map(|source| &source.path).collect::<Vec<_>>();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn unsafe_code_lives_where_system_calls_are_made() {
    let unsafe_code = Regex::new(r"\bunsafe\s*(\{|fn|impl|extern)").unwrap();
    let elsewhere = SOURCES
        .iter()
        .filter(|source| UNSAFE.iter().all(|home| !source.path.starts_with(home)));
    let found = elsewhere.flat_map(|source| source.matching(&source.text, &unsafe_code));
    let found = found.collect::<Vec<_>>();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    let found = offenders(r"\.unwrap\(\)");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn what_is_expected_says_which_invariant_holds() {
    let found = offenders(r#"\.expect\("(\w+ ?){0,2}"\)"#);
    assert!(found.is_empty(), "an invariant is a sentence: {found:#?}");
}

#[test]
fn nothing_is_left_for_later() {
    let found = offenders(r"\b(todo|unimplemented)!");
    assert!(found.is_empty(), "{found:#?}");
    let later = Regex::new(r"\b(TODO|FIXME|XXX|HACK)\b").unwrap();
    let noted = SOURCES
        .iter()
        .filter(|source| !source.path.ends_with("tidy.rs") && later.is_match(&source.text));
    let noted = noted.map(|source| &source.path).collect::<Vec<_>>();
    assert!(noted.is_empty(), "{noted:#?}");
}

#[test]
fn lints_are_excepted_with_a_reason() {
    let found = offenders(r"#!?\[allow\(");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_engines_graph_is_synchronous_and_silent() {
    let outside =
        Regex::new(r"\basync\b|\.await|Mutex|RwLock|Instant|SystemTime|tracing::|tokio::").unwrap();
    let graph = SOURCES
        .iter()
        .filter(|source| source.path.starts_with("solver/engine/src/graph"));
    let found = graph.flat_map(|source| source.matching(source.without_tests(), &outside));
    let found = found.collect::<Vec<_>>();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn no_file_names_this_machine() {
    let machine =
        Regex::new(r#"(^|[\s"'=:(`])/(work|farm)/|/root/(go/|\.cargo|\.rustup|\.pyenv)"#).unwrap();
    for path in files("*") {
        let name = path.display().to_string();
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else {
            continue;
        };
        if ["Cargo.lock", "go.sum", "tidy.rs"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            continue;
        }
        let found = text.lines().find(|line| machine.is_match(line));
        assert!(found.is_none(), "{name}: {found:?}");
    }
}
