//! Compares what random Dockerfiles lower to with what upstream's own frontend makes of them, which a program says
//! (`integration/corpus`). Decides what counts as a difference.

use crate::golden::{self, Case};
use crate::grammar::Writer;
use crate::random::Random;
use serde_json::{Value, json};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Compares `count` cases; the number of those that differ.
pub(crate) fn differ(oracle: &Path, seed: u64, count: u64) -> io::Result<usize> {
    let cases: Vec<Case> = (0..count)
        .map(|number| {
            let mut random = Random::of(seed, number);
            let wild = number % 3 == 0;
            Writer::new(&mut random, wild).case()
        })
        .collect();
    let wanted = ask(oracle, &cases)?;
    let mut out = io::stdout().lock();
    let mut wrong = 0;
    for (number, (case, want)) in cases.iter().zip(&wanted).enumerate() {
        if is_accident(want) {
            continue;
        }
        let got = golden::without_extra_lines(golden::run(case), want);
        if got == *want {
            continue;
        }
        wrong += 1;
        if wrong > 20 {
            continue;
        }
        let text = String::from_utf8_lossy(&case.dockerfile);
        let differs = golden::difference(want, &got).join("\n");
        writeln!(
            out,
            "===== {number}\n{text}{:?} ignore {:?}\n{differs}",
            case.options, case.ignore
        )?;
    }
    writeln!(out, "{count} cases, {wrong} differ")?;
    Ok(wrong)
}

/// Upstream panics, or its text is broken: says nothing about the Dockerfile.
fn is_accident(want: &Value) -> bool {
    let error = want["error"].as_str().unwrap_or_default();
    error.starts_with("panic: ") || error.contains(['\u{fffd}', '\0'])
}

fn ask(oracle: &Path, cases: &[Case]) -> io::Result<Vec<Value>> {
    let cases: Vec<Value> = cases
        .iter()
        .map(|case| {
            json!({
                "dockerfile": String::from_utf8_lossy(&case.dockerfile),
                "dockerignore": case.ignore,
                "opts": case.options,
            })
        })
        .collect();
    let mut child = Command::new(oracle)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().expect("its input is a pipe");
    let asked = std::thread::scope(|scope| {
        let writer =
            scope.spawn(move || input.write_all(Value::from(cases).to_string().as_bytes()));
        let output = child.wait_with_output();
        let written = writer
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("writing panicked")));
        written.and(output)
    })?;
    if !asked.status.success() {
        return Err(io::Error::other(format!(
            "{} ended with {}",
            oracle.display(),
            asked.status
        )));
    }
    serde_json::from_slice(&asked.stdout).map_err(io::Error::other)
}
