//! Throws random Dockerfiles at the frontend: none may panic, take long or take much memory. With `--against`, none may mean
//! something else than to upstream's frontend. Each input is made of the seed and its number alone, so that a find can be
//! had again with `--from N --inputs 1`.
//!
//!     fuzz --minutes 30 [--seed S] [--from N]         until so much CPU is used
//!     fuzz --inputs 100 [--seed S] [--from N]         that many
//!     fuzz --against ORACLE --inputs 1000 [--seed S]  compared with upstream, which ORACLE says

mod differ;
#[path = "../../tests/golden/mod.rs"]
mod golden;
mod grammar;
mod mutate;
mod random;
mod words;

use golden::Case;
use grammar::Writer;
use random::Random;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// No input may take longer; they have at most 128 KiB.
const TIME: Duration = Duration::from_secs(10);
/// The process may never have more memory, in pages of 4 KiB.
const PAGES: u64 = 256 << 10;

/// What the command line says.
struct Plan {
    seed: u64,
    from: u64,
    inputs: u64,
    time: Duration,
    oracle: Option<PathBuf>,
}

fn main() -> ExitCode {
    let plan = match plan(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(text) => return fail(&text),
    };
    if let Some(oracle) = &plan.oracle {
        return match differ::differ(oracle, plan.seed, plan.inputs) {
            Ok(0) => ExitCode::SUCCESS,
            Ok(wrong) => fail(&format!("{wrong} differ")),
            Err(error) => fail(&error.to_string()),
        };
    }
    match fuzz(&plan) {
        Ok(count) => writeln!(io::stdout(), "{count} inputs")
            .map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        Err(text) => fail(&text),
    }
}

fn fail(text: &str) -> ExitCode {
    // A reader that has gone is told nothing.
    writeln!(io::stderr(), "fuzz: {text}").ok();
    ExitCode::FAILURE
}

fn plan(mut words: impl Iterator<Item = String>) -> Result<Plan, String> {
    let mut plan = Plan {
        seed: 1,
        from: 0,
        inputs: u64::MAX,
        time: Duration::MAX,
        oracle: None,
    };
    while let Some(word) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{word} takes a value"))?;
        if word == "--against" {
            plan.oracle = Some(value.into());
            continue;
        }
        let number: u64 = value
            .parse()
            .map_err(|_| format!("{word} takes a number"))?;
        match word.as_str() {
            "--seed" => plan.seed = number,
            "--from" => plan.from = number,
            "--inputs" => plan.inputs = number,
            "--minutes" => plan.time = Duration::from_secs(number * 60),
            _ => return Err(format!("unknown flag {word}")),
        }
    }
    if plan.inputs == u64::MAX && plan.time == Duration::MAX {
        return Err("--minutes or --inputs is needed".to_owned());
    }
    Ok(plan)
}

/// Runs the inputs; the number of them.
fn fuzz(plan: &Plan) -> Result<u64, String> {
    let seeds = seeds().map_err(|error| format!("reading the corpus: {error}"))?;
    let number = AtomicU64::new(plan.from);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| watch(plan, &number, &ended));
        let last = plan.from.saturating_add(plan.inputs);
        let mut next = plan.from;
        while next < last && (!next.is_multiple_of(64) || used() < plan.time) {
            number.store(next, Ordering::Relaxed);
            let found = std::panic::catch_unwind(|| input(plan.seed, next, &seeds));
            if found.is_err() {
                ended.store(true, Ordering::Relaxed);
                return Err(format!("input {next} of seed {} panics", plan.seed));
            }
            next += 1;
        }
        ended.store(true, Ordering::Relaxed);
        Ok(next - plan.from)
    })
}

/// Ends the process when an input takes too much.
fn watch(plan: &Plan, number: &AtomicU64, ended: &AtomicBool) {
    let mut seen = (u64::MAX, used());
    while !ended.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        let at = number.load(Ordering::Relaxed);
        if at != seen.0 {
            seen = (at, used());
        }
        let slow = used().saturating_sub(seen.1) > TIME;
        if slow || resident() > PAGES {
            let what = if slow { "time" } else { "memory" };
            fail(&format!(
                "input {at} of seed {} takes too much {what}",
                plan.seed
            ));
            std::process::exit(1);
        }
    }
}

/// How long the main thread has had a CPU: on a busy machine a minute is not a minute's work.
fn used() -> Duration {
    let main = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/self/task/{main}/schedstat"));
    let nanoseconds = text
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(u64::MAX))
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1);
    pages.and_then(|word| word.parse().ok()).unwrap_or_default()
}

fn seeds() -> io::Result<Vec<Vec<u8>>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut dirs = Vec::new();
    for entry in std::fs::read_dir(root)? {
        dirs.push(entry?.path().join("Dockerfile"));
    }
    // The order of a directory is no one's promise.
    dirs.sort();
    dirs.iter().map(std::fs::read).collect()
}

/// Makes an input and runs it through everything that reads text from outside.
fn input(seed: u64, number: u64, seeds: &[Vec<u8>]) {
    let random = &mut Random::of(seed, number);
    let mut case = if random.chance(50) {
        Writer::new(random, true).case()
    } else {
        Case {
            dockerfile: seeds[random.below(seeds.len())].clone(),
            options: BTreeMap::new(),
            ..Case::default()
        }
    };
    if random.chance(80) {
        mutate::mutate(random, &mut case.dockerfile, seeds);
    }
    if random.chance(20) {
        let mut ignore = case.ignore.clone().into_bytes();
        mutate::mutate(random, &mut ignore, seeds);
        ignore.truncate(4096);
        case.ignore = String::from_utf8_lossy(&ignore).into_owned();
    }
    for value in case.options.values_mut() {
        if random.chance(20) {
            let mut bytes = value.clone().into_bytes();
            mutate::mutate(random, &mut bytes, &[]);
            *value = String::from_utf8_lossy(&bytes).into_owned();
        }
    }
    drop(shipway_dockerfile::syntax::detect_syntax(&case.dockerfile));
    patterns(&case.ignore);
    drop(golden::run(&case));
}

/// Patterns meet paths that are made of them.
fn patterns(text: &str) {
    let patterns = shipway_patterns::parse_ignore_file(text);
    let Ok(matcher) = shipway_patterns::PatternMatcher::new(&patterns) else {
        return;
    };
    for path in patterns.iter().take(20) {
        let path = path.replace(['*', '!', '?', '\\'], "a");
        let below = [
            matcher.may_match_below(&path),
            matcher.may_except_below(&path),
        ];
        std::hint::black_box((matcher.matches(&path), below));
    }
}
