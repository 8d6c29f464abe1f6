//! A process that dies by SIGKILL at any instant loses nothing that it was told is done, and leaves nothing that the
//! next start does not clear away. Needs root: opening a store mounts a trial overlay.
//!
//! The test runs this program again as the process to kill. It announces each call before it makes it and confirms it
//! afterwards, one line each, on standard output.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use shipway_snapshotter::{CommitInfo, Kind, Labels, LayerStore, short_name};

const ROOT: &str = "SHIPWAY_CRASH_ROOT";
const ROUND: &str = "SHIPWAY_CRASH_ROUND";
const THREADS: usize = 3;

/// The process to kill: several threads that call until the end.
#[test]
fn victim() {
    let Some(root) = env::var_os(ROOT) else {
        return;
    };
    let round = env::var(ROUND).unwrap();
    let store = LayerStore::open_in_boot(&root, "boot").unwrap();
    thread::scope(|scope| {
        for n in 0..THREADS {
            let (store, round) = (&store, &round);
            scope.spawn(move || {
                (0..usize::MAX).for_each(|i| work(store, &format!("{round}.{n}.{i}"), i));
            });
        }
    });
}

/// One item's life, as far as a number says.
fn work(store: &LayerStore, item: &str, number: usize) {
    let (key, name) = (format!("key-{item}"), format!("name-{item}"));
    step(&format!("entry {key} active"), || {
        store.prepare(&key, "", Labels::new()).unwrap();
    });
    step(&format!("rename {key} {name}"), || {
        store.commit_entry(&name, &key, Labels::new()).unwrap();
    });
    if number.is_multiple_of(2) {
        step(&format!("entry {name} gone"), || {
            store.remove(&name).unwrap();
        });
    }
    let layer = store.create().unwrap();
    fs::write(layer.fs.join("data"), item).unwrap();
    let owner = format!("owner-{item}");
    step(&format!("layer {} {owner}", short_name(layer.id)), || {
        let info = CommitInfo {
            owners: vec![owner.clone()],
            ..CommitInfo::default()
        };
        store.commit(layer.id, info).unwrap();
        store.flush().unwrap();
    });
    if number.is_multiple_of(3) {
        step(&format!("disowned {owner}"), || {
            store.disown(&[&owner]).unwrap();
        });
    }
    if number.is_multiple_of(5) {
        store.collect().unwrap();
    }
}

fn step(what: &str, call: impl FnOnce()) {
    say(&format!("begin {what}"));
    call();
    say(&format!("done {what}"));
}

/// One write, so that lines of several threads never mix and a killed process leaves no half of one in a buffer.
fn say(line: &str) {
    std::io::stdout()
        .lock()
        .write_all(format!("\n@{line}\n").as_bytes())
        .unwrap();
}

/// What the killed process said: facts that hold, and subjects of which a call was under way.
#[derive(Default)]
struct Claims {
    entries: BTreeMap<String, Option<Kind>>,
    owned: BTreeMap<String, Option<String>>,
    open: BTreeSet<String>,
}

impl Claims {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let subjects: Vec<String> = match words[1..] {
            ["entry", key, _] => vec![key.into()],
            ["rename", key, name] => vec![key.into(), name.into()],
            ["layer", _, owner] | ["disowned", owner] => vec![owner.into()],
            _ => panic!("{line}"),
        };
        if words[0] == "begin" {
            self.open.extend(subjects);
            return;
        }
        for subject in subjects {
            self.open.remove(&subject);
        }
        match words[1..] {
            ["entry", key, "active"] => drop(self.entries.insert(key.into(), Some(Kind::Active))),
            ["entry", key, _] => drop(self.entries.insert(key.into(), None)),
            ["rename", key, name] => {
                self.entries.insert(key.into(), None);
                self.entries.insert(name.into(), Some(Kind::Committed));
            }
            ["layer", id, owner] => drop(self.owned.insert(owner.into(), Some(id.into()))),
            ["disowned", owner] => drop(self.owned.insert(owner.into(), None)),
            _ => {}
        }
    }

    fn check(&self, store: &LayerStore) {
        for (key, kind) in self
            .entries
            .iter()
            .filter(|(key, _)| !self.open.contains(*key))
        {
            let found = store.stat(key).ok().map(|info| info.kind);
            assert_eq!(found, *kind, "entry {key}");
        }
        for (owner, id) in self
            .owned
            .iter()
            .filter(|(owner, _)| !self.open.contains(*owner))
        {
            let owned = store.owned_by(owner);
            assert_eq!(
                owned.first().map(|id| short_name(*id)),
                *id,
                "layers of {owner}"
            );
            for id in owned {
                let data = fs::read_to_string(store.path(id).unwrap().join("data")).unwrap();
                assert_eq!(format!("owner-{data}"), *owner);
            }
        }
    }
}

fn run_and_kill(root: &Path, round: usize, after: Duration, claims: &mut Claims) {
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", "victim", "--nocapture", "--test-threads=1"])
        .env(ROOT, root)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let said = lines.filter_map(|l| l.strip_prefix('@').map(str::to_owned));
            said.collect::<Vec<_>>()
        });
        thread::sleep(after);
        victim.kill().unwrap();
        victim.wait().unwrap();
        reader
            .join()
            .unwrap()
            .iter()
            .for_each(|line| claims.hear(line));
    });
}

#[test]
fn what_was_confirmed_survives_and_nothing_else_is_left() {
    let root = tempfile::tempdir().unwrap();
    let mut claims = Claims::default();
    for round in 0..20 {
        // The sleep is the experiment, not a wait for something: the instant of death must vary.
        let after = Duration::from_millis(60 + 37 * (round as u64 % 7));
        run_and_kill(root.path(), round, after, &mut claims);
        let store = LayerStore::open_in_boot(root.path(), "boot").unwrap();
        assert_eq!(store.recovered().layers, []);
        claims.check(&store);
        store.collect().unwrap();
        store.empty_trash().unwrap();
        let count = |dir: &str| fs::read_dir(root.path().join(dir)).unwrap().count();
        let active = store.entries(&["kind==active".into()]).unwrap().len();
        assert_eq!(count("layers"), store.list().len() + active);
        drop(store);
        assert!(count("work") <= active + THREADS && count("trash") <= 2 * THREADS);
    }
    assert!(
        claims.entries.len() > 100,
        "the victim did not get to work: {}",
        claims.entries.len()
    );
}
