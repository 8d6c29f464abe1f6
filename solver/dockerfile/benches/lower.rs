//! How long a Dockerfile of 10,000 instructions takes from bytes to LLB, and how long 10 MB take to be read:
//! `cargo bench -p shipway-dockerfile`. Measures and prints; the aim is under 100 ms for each of the first.

use async_trait::async_trait;
use shipway_dockerfile::lint::Linter;
use shipway_dockerfile::resolve::{ImageRequest, ResolvedImage};
use shipway_dockerfile::{BuildOptions, MainContext, MetaResolver, Request, lower, syntax};
use shipway_model::definition::SourceInfo;
use shipway_model::{Definition, Digest, Failure, Platform};
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

const COUNT: usize = 10_000;
const ROUNDS: usize = 9;

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

fn repeated(line: impl Fn(usize) -> String) -> String {
    (0..COUNT).fold("FROM alpine\n".to_owned(), |text, number| {
        text + &line(number)
    })
}

fn mixed(number: usize) -> String {
    match number % 3 {
        0 => format!("ENV K{}=v{number}\n", number % 50),
        1 => format!("RUN echo {number} $A\n"),
        _ => format!("COPY a{number} /x/\n"),
    }
}

fn median(work: impl Fn()) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

fn lowered(text: &str) {
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
}

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    let stages = |number| {
        format!(
            "FROM {} AS s{number}\n",
            if number == 0 {
                "alpine".into()
            } else {
                format!("s{}", number - 1)
            }
        )
    };
    let files = [
        ("mixed", repeated(mixed)),
        ("run", repeated(|_| "RUN echo hi\n".to_owned())),
        ("copy", repeated(|number| format!("COPY a{number} /x/\n"))),
        ("env", repeated(|number| format!("ENV K{number}=v\n"))),
        ("label", repeated(|number| format!("LABEL k{number}=v\n"))),
        ("stages", repeated(stages)),
    ];
    for (name, text) in &files {
        let time = median(|| lowered(text));
        writeln!(out, "{COUNT} instructions, {name}: {time:.1?}")?;
    }
    let text = format!(
        "FROM a\n{}",
        "RUN echo \\\n  'a b' $X <<E\nbody\nE\nENV a=\"b c\" d=e\n".repeat(200_000)
    );
    let time = median(|| drop(syntax::parse(text.as_bytes(), &Linter::silent())));
    writeln!(out, "reading {} MB: {time:.1?}", text.len() >> 20)
}
