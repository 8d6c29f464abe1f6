//! The crate graph keeps its levels, and what it depends on is allowed by `.deny.toml`.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use serde_json::Value;
use toml::Table;

/// A crate names only crates of lower levels.
const LEVELS: &[&[&str]] = &[
    &[
        "shipway-model",
        "shipway-proto",
        "shipway-config",
        "shipway-step",
        "shipway-patterns",
    ],
    &[
        "shipway-backend",
        "shipway-cache",
        "shipway-llb",
        "shipway-tree",
        "shipway-shim",
    ],
    &[
        "shipway-engine",
        "shipway-history",
        "shipway-attest",
        "shipway-layers",
        "shipway-dockerfile",
        "shipway-snapshotter",
        "shipway-containerd",
        "shipway-session",
        "shipway-registry",
        "shipway-gateway",
        "shipway-network",
    ],
    &[
        "shipway-source",
        "shipway-export",
        "shipway-remotecache",
        "shipway-frontend",
        "shipway",
    ],
    &["shipway-ops"],
    &["shipway-build"],
    &["shipway-api"],
    &["shipwayd"],
];
/// What speaks to something stays out of the domain.
const OUTSIDE: &[&str] = &[
    "tonic",
    "tonic-prost",
    "hyper",
    "ttrpc",
    "containerd-client",
    "containerd-shim",
];
const INTEGRATION: &str = "shipway-integration";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn metadata() -> Value {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap());
    cargo.args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        &target,
    ]);
    let output = cargo.current_dir(root()).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The packages that are really built for Linux.
fn packages(metadata: &Value) -> Vec<&Value> {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let built = nodes
        .iter()
        .map(|node| node["id"].as_str().unwrap())
        .collect::<BTreeSet<_>>();
    let all = metadata["packages"].as_array().unwrap().iter();
    all.filter(|package| built.contains(package["id"].as_str().unwrap()))
        .collect()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

/// Names of what `package` depends on, tests apart.
fn dependencies(package: &Value) -> Vec<&str> {
    let all = package["dependencies"].as_array().unwrap().iter();
    all.filter(|dependency| dependency["kind"] != "dev")
        .map(name)
        .collect()
}

fn ours(metadata: &Value) -> Vec<&Value> {
    packages(metadata)
        .into_iter()
        .filter(|package| package["source"].is_null())
        .collect()
}

fn level(crate_name: &str) -> usize {
    let found = LEVELS
        .iter()
        .position(|crates| crates.contains(&crate_name));
    found.unwrap_or_else(|| panic!("{crate_name} has no level: give it one in {}", file!()))
}

#[test]
fn crates_name_only_crates_of_lower_levels() {
    let metadata = metadata();
    let ours = ours(&metadata);
    let names = ours
        .iter()
        .map(|package| name(package))
        .collect::<BTreeSet<_>>();
    let mut wrong = Vec::new();
    for package in ours.iter().filter(|package| name(package) != INTEGRATION) {
        for dependency in dependencies(package)
            .into_iter()
            .filter(|name| names.contains(name))
        {
            if dependency == INTEGRATION || level(dependency) >= level(name(package)) {
                wrong.push(format!("{} names {dependency}", name(package)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_domain_names_nothing_that_speaks_to_the_outside() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in ours(&metadata) {
        let in_solver = package["manifest_path"]
            .as_str()
            .unwrap()
            .contains("/solver/");
        for dependency in dependencies(package).into_iter().filter(|_| in_solver) {
            let prost = dependency.starts_with("prost") && name(package) != "shipway-llb";
            if prost || OUTSIDE.contains(&dependency) || dependency.starts_with("containerd-") {
                wrong.push(format!("{} names {dependency}", name(package)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_crate_takes_the_workspaces_lints() {
    for package in ours(&metadata()) {
        let manifest = std::fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        let manifest = manifest.parse::<Table>().unwrap();
        assert_eq!(
            manifest["lints"]["workspace"].as_bool(),
            Some(true),
            "{}",
            name(package)
        );
    }
}

fn rules() -> Table {
    std::fs::read_to_string(root().join(".deny.toml"))
        .unwrap()
        .parse()
        .unwrap()
}

fn strings(list: &toml::Value) -> Vec<String> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

/// The tables of `list` by their `crate`.
fn by_crate(list: &toml::Value) -> BTreeMap<String, Table> {
    let tables = list
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_table().unwrap().clone());
    tables
        .map(|table| (table["crate"].as_str().unwrap().to_owned(), table))
        .collect()
}

#[test]
fn every_licence_is_allowed() {
    let rules = rules();
    let licences = &rules["licenses"];
    let allowed = strings(&licences["allow"]);
    let exceptions = by_crate(&licences["exceptions"]);
    let clarified = by_crate(&licences["clarify"]);
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in packages(&metadata) {
        let clarification = clarified
            .get(name(package))
            .map(|table| table["expression"].as_str().unwrap());
        let expression = package["license"]
            .as_str()
            .or(clarification)
            .unwrap_or("none");
        let more = exceptions
            .get(name(package))
            .map(|table| strings(&table["allow"]))
            .unwrap_or_default();
        let fits = |licence: &str| allowed.iter().chain(&more).any(|known| known == licence);
        if !Expression::new(expression).allowed(&fits) {
            wrong.push(format!("{}: {expression}", name(package)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_that_is_banned_is_depended_on() {
    let rules = rules();
    let metadata = metadata();
    let mut wrong = Vec::new();
    for (banned, rule) in by_crate(&rules["bans"]["deny"]) {
        let wrappers = rule.get("wrappers").map(strings).unwrap_or_default();
        for package in packages(&metadata) {
            let excused = wrappers.iter().any(|wrapper| wrapper == name(package));
            if !excused
                && dependencies(package).contains(&banned.as_str())
                && is_built(&metadata, &banned)
            {
                wrong.push(format!("{} names {banned}", name(package)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn is_built(metadata: &Value, crate_name: &str) -> bool {
    packages(metadata)
        .iter()
        .any(|package| name(package) == crate_name)
}

#[test]
fn no_crate_is_built_in_two_versions_without_a_reason() {
    let rules = rules();
    let known = [
        by_crate(&rules["bans"]["skip"]),
        by_crate(&rules["bans"]["skip-tree"]),
    ];
    let metadata = metadata();
    let mut versions = BTreeMap::<&str, BTreeSet<&str>>::new();
    for package in packages(&metadata) {
        versions
            .entry(name(package))
            .or_default()
            .insert(package["version"].as_str().unwrap());
    }
    let unknown = |name: &str| known.iter().all(|list| !list.contains_key(name));
    let wrong = versions
        .iter()
        .filter(|(name, found)| found.len() > 1 && unknown(name));
    let wrong = wrong.collect::<Vec<_>>();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let excused = known.iter().flat_map(BTreeMap::keys);
    let stale = excused.filter(|name| {
        versions
            .get(name.as_str())
            .is_none_or(|found| found.len() < 2)
    });
    let stale = stale.collect::<Vec<_>>();
    assert!(
        stale.is_empty(),
        "no longer needed in .deny.toml: {stale:?}"
    );
}

#[test]
fn everything_comes_from_the_registry() {
    let metadata = metadata();
    for package in packages(&metadata) {
        let source = package["source"].as_str().unwrap_or("registry+ours");
        assert!(
            source.starts_with("registry+"),
            "{}: {source}",
            name(package)
        );
    }
}

/// A licence expression: `OR` (or `/`), `AND`, `WITH`, parentheses.
struct Expression<'a> {
    words: Vec<&'a str>,
    next: usize,
}

impl<'a> Expression<'a> {
    fn new(text: &'a str) -> Self {
        let spaced = text.split_inclusive(['(', ')', '/']).flat_map(|part| {
            let cut = part.trim_end_matches(['(', ')', '/']).len();
            [&part[..cut], &part[cut..]]
        });
        let words = spaced.flat_map(str::split_whitespace).collect();
        Self { words, next: 0 }
    }

    fn allowed(mut self, fits: &impl Fn(&str) -> bool) -> bool {
        let allowed = self.any(fits);
        assert_eq!(self.next, self.words.len(), "{:?}", self.words);
        allowed
    }

    fn any(&mut self, fits: &impl Fn(&str) -> bool) -> bool {
        let mut allowed = self.all(fits);
        while self.take(&["OR", "/"]) {
            allowed |= self.all(fits);
        }
        allowed
    }

    fn all(&mut self, fits: &impl Fn(&str) -> bool) -> bool {
        let mut allowed = self.one(fits);
        while self.take(&["AND"]) {
            allowed &= self.one(fits);
        }
        allowed
    }

    fn one(&mut self, fits: &impl Fn(&str) -> bool) -> bool {
        if self.take(&["("]) {
            let allowed = self.any(fits);
            assert!(self.take(&[")"]), "{:?}", self.words);
            return allowed;
        }
        let mut licence = self.words[self.next].to_owned();
        self.next += 1;
        if self.take(&["WITH"]) {
            licence = format!("{licence} WITH {}", self.words[self.next]);
            self.next += 1;
        }
        fits(&licence)
    }

    fn take(&mut self, words: &[&str]) -> bool {
        let found = self
            .words
            .get(self.next)
            .is_some_and(|word| words.contains(word));
        self.next += usize::from(found);
        found
    }
}

#[test]
fn licence_expressions_are_understood() {
    let mit = |licence: &str| licence == "MIT";
    for (text, allowed) in [
        ("MIT", true),
        ("Apache-2.0 OR MIT", true),
        ("MIT/Apache-2.0", true),
        ("MIT AND GPL-2.0", false),
        ("(GPL-2.0 OR MIT) AND MIT", true),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("Apache-2.0 WITH LLVM-exception", false),
    ] {
        assert_eq!(Expression::new(text).allowed(&mit), allowed, "{text}");
    }
}
