//! How long a Dockerfile of 10,000 instructions takes from bytes to LLB, and how long 1, 5 and 10 MiB take to be read, each
//! in many shapes: `cargo bench -p shipway-dockerfile [-- PART-OF-A-NAME]`. Measures CPU time and prints; the aims are
//! under 100 ms for each of the first, and time linear in size for the others.

mod shapes;

use async_trait::async_trait;
use nix::time::{ClockId, clock_gettime};
use shipway_dockerfile::lint::Linter;
use shipway_dockerfile::resolve::{ImageRequest, ResolvedImage};
use shipway_dockerfile::{
    BuildOptions, Lowered, MainContext, MetaResolver, Outcome, Request, lower, syntax,
};
use shipway_model::definition::SourceInfo;
use shipway_model::{Definition, Digest, Failure, Platform};
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::Duration;

const ROUNDS: usize = 5;

/// Every image exists.
struct Images;

#[async_trait]
impl MetaResolver for Images {
    async fn image_config(&self, request: ImageRequest) -> Result<ResolvedImage, Failure> {
        Ok(ResolvedImage {
            digest: Some(Digest::of(&request.reference)),
            reference: request.reference,
            replaced: None,
            config: br#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec(),
        })
    }

    async fn read_file(&self, _: &Definition, _: &str) -> Result<Option<Vec<u8>>, Failure> {
        Ok(None)
    }

    async fn input(&self, _: &str) -> Result<Option<Definition>, Failure> {
        Ok(None)
    }

    async fn source_epoch(&self, _: &Definition, _: &str) -> Result<Option<i64>, Failure> {
        Ok(None)
    }
}

/// Of the times that the thread had a CPU: other processes are not what is measured.
fn median<T>(work: impl Fn() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = used();
            let made = work();
            let time = used().saturating_sub(began);
            drop(made);
            time
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

fn used() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    Duration::from(time.expect("every kernel has the clock of a thread"))
}

fn lowered(text: &str) -> Outcome<Vec<Lowered>> {
    let options = BuildOptions::parse(&BTreeMap::new(), "s", &Platform::new("linux", "amd64", ""))
        .expect("no option is a wrong one");
    let request = Request {
        source: SourceInfo {
            filename: "Dockerfile".into(),
            data: text.as_bytes().to_vec(),
            language: "Dockerfile".into(),
            definition: None,
        },
        options: &options,
        context: MainContext::Local {
            name: "context".into(),
            ignore: Vec::new(),
        },
    };
    let outcome = futures::executor::block_on(lower(&request, &Images));
    assert!(outcome.result.is_ok(), "{:?}", outcome.result);
    outcome
}

fn main() -> io::Result<()> {
    // `cargo test` runs it without this word: there it only has to build.
    if !std::env::args().any(|word| word == "--bench") {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    let only = std::env::args()
        .skip(1)
        .find(|word| !word.starts_with("--"));
    let chosen = |name: &str| only.as_ref().is_none_or(|only| name.contains(only));
    for (name, text) in shapes::small().iter().filter(|(name, _)| chosen(name)) {
        let time = median(|| lowered(text));
        writeln!(out, "10,000 instructions, {name}: {time:.1?}")?;
    }
    for bytes in [1 << 20, 5 << 20, 10 << 20] {
        for (name, text) in shapes::large(bytes).iter().filter(|(name, _)| chosen(name)) {
            let time = median(|| syntax::parse(text.as_bytes(), &Linter::silent()));
            writeln!(out, "reading {} MiB, {name}: {time:.1?}", bytes >> 20)?;
        }
    }
    Ok(())
}
