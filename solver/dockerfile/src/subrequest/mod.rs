//! Answers to what tools ask instead of building: `frontend.outline`, `frontend.targets`, `frontend.lint`,
//! `frontend.convertllb`, and which of these there are (BuildKit's list names neither the third nor the fourth). Each is JSON for programs and text for people, in the forms that buildx reads and prints.

mod json;
mod text;

use crate::error::Error;
use crate::lint::{Linter, Warning};
use crate::lower::{Outcome, Outline};
use crate::syntax;
use serde::Serialize;
use shipway_model::Definition;
use shipway_model::definition::SourceInfo;
use std::collections::BTreeMap;

/// Lists the parameters of the target.
pub const OUTLINE: &str = "frontend.outline";
/// Lists the stages.
pub const TARGETS: &str = "frontend.targets";
/// Applies the build checks.
pub const LINT: &str = "frontend.lint";
/// Lists the subrequests.
pub const DESCRIBE: &str = "frontend.subrequests.describe";

/// Shows the LLB that the target becomes.
pub const CONVERT: &str = "frontend.convertllb";

/// Capabilities that a client may demand in `frontend.caps`, each with or without `+forward`.
pub const FRONTEND_CAPS: [&str; 5] = [
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.gitquerystring",
    "moby.buildkit.frontend.contexts.zstd",
];

/// A capability that this frontend lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingCapability {
    /// Its name.
    pub name: String,
    /// The request may still go to a frontend that has it.
    pub forward: bool,
}

/// The first capability in `wanted`, the value of `frontend.caps`, that is missing.
#[must_use]
pub fn missing_capability(wanted: &str) -> Option<MissingCapability> {
    let named = wanted.split(',').filter(|cap| !cap.is_empty());
    let named = named.map(|cap| (cap.split('+').next().unwrap_or(cap), cap));
    let mut missing: Vec<(&str, &str)> = Vec::new();
    missing.extend(named.filter(|(name, _)| !FRONTEND_CAPS.contains(name)));
    let (name, _) = missing.first()?;
    let forward = missing.iter().all(|(_, cap)| cap.contains("+forward"));
    Some(MissingCapability {
        name: (*name).to_owned(),
        forward,
    })
}

/// Metadata of a result, as a frontend returns it.
pub type Answer = BTreeMap<String, Vec<u8>>;

/// JSON as Go writes it.
fn pretty(body: &impl Serialize) -> String {
    let json = serde_json::to_string_pretty(body).expect("plain data always has a JSON form");
    // These characters only occur inside of strings.
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

fn answer(body: &impl Serialize, text: String) -> Answer {
    [
        ("result.json", pretty(body)),
        ("result.txt", text),
        ("version", "1.0.0".into()),
    ]
    .map(|(key, value)| (key.to_owned(), value.into_bytes()))
    .into()
}

/// The answer to [`OUTLINE`].
#[must_use]
pub fn outline(outline: &Outline, source: &SourceInfo) -> Answer {
    answer(&json::Outline::new(outline, source), text::outline(outline))
}

/// One stage of a Dockerfile, as [`TARGETS`] lists it.
#[derive(Debug)]
struct Target {
    stage: syntax::Stage,
    default: bool,
}

/// The answer to [`TARGETS`].
///
/// # Errors
/// The first mistake in the text.
pub fn targets(source: &SourceInfo) -> Result<Answer, Error> {
    let file = syntax::parse(&source.data, &Linter::silent())?;
    let last = file.stages.len() - 1;
    let target = |(number, stage)| Target {
        stage,
        default: number == last,
    };
    let targets: Vec<Target> = file.stages.into_iter().enumerate().map(target).collect();
    Ok(answer(
        &json::Targets::new(&targets, source),
        text::targets(&targets),
    ))
}

/// The answer to [`LINT`]. A build that fails is a finding, not an error.
#[must_use]
pub fn lint(outcome: &Outcome<()>, source: &SourceInfo) -> Answer {
    let warnings: Vec<&Warning> = outcome.warnings.iter().collect();
    let error = outcome.result.as_ref().err();
    let body = json::Lint::new(&warnings, error, source);
    let mut answer = answer(&body, text::lint(&warnings, source));
    let failed = error.is_some() || !warnings.is_empty();
    answer.insert(
        "result.statuscode".into(),
        u8::from(failed).to_string().into_bytes(),
    );
    answer
}

/// The answer to [`CONVERT`].
#[must_use]
pub fn convert(definition: &Definition) -> Answer {
    [
        (
            "result.json",
            pretty(&shipway_llb::definition_json(definition)),
        ),
        ("version", "0.1.0".into()),
    ]
    .map(|(key, value)| (key.to_owned(), value.into_bytes()))
    .into()
}

/// The answer to [`DESCRIBE`].
#[must_use]
pub fn describe() -> Answer {
    let requests = json::requests();
    let text = text::requests(&requests);
    answer(&requests, text)
}

#[cfg(test)]
mod tests;
