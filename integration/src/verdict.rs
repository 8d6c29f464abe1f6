//! What an outcome of BuildKit's tests is worth: which tests count, and which failures are known.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Error, Result, report::say};

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// `--- PASS: NAME (1.00s)`, however far indented.
pub(crate) fn verdict(line: &str) -> Option<(String, Outcome)> {
    let rest = line.trim_start().strip_prefix("--- ")?;
    let (word, rest) = rest.split_once(": ")?;
    let outcome = match word {
        "PASS" => Outcome::Passed,
        "FAIL" => Outcome::Failed,
        "SKIP" => Outcome::Skipped,
        _ => return None,
    };
    let name = rest.split(" (").next()?;
    Some((name.to_owned(), outcome))
}

/// The name of a test's function: the second part of its path.
fn function(name: &str) -> &str {
    name.split('/').nth(1).unwrap_or(name)
}

/// Reports `outcomes`; a failure of an `attainable` test that isn't `expected` is an error.
pub(crate) fn judge(
    attainable: &[String],
    expected: &BTreeMap<String, String>,
    outcomes: &BTreeMap<String, Outcome>,
) -> Result<()> {
    let ran = attainable
        .iter()
        .filter(|name| outcomes.contains_key(*name))
        .collect::<Vec<_>>();
    let failed = |name: &&&String| outcomes.get(**name) != Some(&Outcome::Passed);
    let bad = ran.iter().filter(failed).copied().collect::<Vec<_>>();
    let functions = bad
        .iter()
        .map(|name| function(name))
        .collect::<BTreeSet<_>>();
    count(outcomes);
    let good = ran.len() - bad.len();
    let known = attainable.len();
    say(format_args!(
        "attainable: {known} in the list, {} of them ran, {good} passed",
        ran.len()
    ));
    for name in &bad {
        let reason = expected
            .get(function(name))
            .map_or("NOT EXPECTED", String::as_str);
        say(format_args!("  failed: {name}: {reason}"));
    }
    let better = ran
        .iter()
        .map(|name| function(name))
        .collect::<BTreeSet<_>>();
    for name in better
        .iter()
        .filter(|name| expected.contains_key(**name) && !functions.contains(*name))
    {
        say(format_args!(
            "  passes now, take it off the list of expected failures: {name}"
        ));
    }
    if ran.is_empty() {
        return Err(Error::Unexpected("no attainable test ran".to_owned()));
    }
    let surprising = functions
        .iter()
        .filter(|name| !expected.contains_key(**name))
        .collect::<Vec<_>>();
    if surprising.is_empty() {
        return Ok(());
    }
    Err(Error::Unexpected(format!(
        "unexpected failures: {surprising:?}"
    )))
}

fn count(outcomes: &BTreeMap<String, Outcome>) {
    let number = |wanted| {
        outcomes
            .values()
            .filter(|outcome| **outcome == wanted)
            .count()
    };
    say(format_args!(
        "\nall outcomes: {} passed, {} failed, {} skipped",
        number(Outcome::Passed),
        number(Outcome::Failed),
        number(Outcome::Skipped),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_however_far_they_are_indented() {
        let line = "    --- PASS: TestIntegration/TestX/worker=containerd/frontend=builtin (0.54s)";
        let want = (
            "TestIntegration/TestX/worker=containerd/frontend=builtin".to_owned(),
            Outcome::Passed,
        );
        assert_eq!(verdict(line), Some(want));
        assert_eq!(verdict("=== RUN   TestX"), None);
    }

    #[test]
    fn only_a_failure_that_nobody_expects_is_an_error() {
        let attainable = ["T/TestA/w", "T/TestB/w"].map(str::to_owned);
        let outcomes = [
            ("T/TestA/w", Outcome::Passed),
            ("T/TestB/w", Outcome::Failed),
        ];
        let outcomes = outcomes
            .map(|(name, outcome)| (name.to_owned(), outcome))
            .into();
        assert!(judge(&attainable, &BTreeMap::new(), &outcomes).is_err());
        let expected = [("TestB".to_owned(), "known".to_owned())].into();
        assert!(judge(&attainable, &expected, &outcomes).is_ok());
    }
}
