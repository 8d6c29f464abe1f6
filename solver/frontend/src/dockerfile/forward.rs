//! Hands a request on to the frontend that the Dockerfile (`# syntax=`) or the client (`BUILDKIT_SYNTAX`) asks for. What
//! runs that frontend is the build's business.

use std::sync::Arc;

use shipway_dockerfile::Lines;
use shipway_dockerfile::syntax::detect_syntax;
use shipway_model::definition::SourceInfo;
use shipway_model::{Failure, FailureDetail};

use crate::{Bridge, FrontendRequest, FrontendResult, gateway};

/// Option of a frontend that others hand requests on to. Where it is set, that has happened.
const COMMAND_LINE: &str = "cmdline";

/// Option by which a client chooses the frontend, whatever the Dockerfile says.
const CHOICE: &str = "build-arg:BUILDKIT_SYNTAX";

/// Another frontend, and why it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Forward {
    /// Its image.
    image: String,
    /// The whole value that named it.
    command_line: String,
    /// The directive that named it; none where the client did.
    directive: Option<Lines>,
}

impl Forward {
    /// The frontend that should take this request instead.
    pub(super) fn wanted(request: &FrontendRequest, dockerfile: &[u8]) -> Option<Self> {
        if request.options.contains_key(COMMAND_LINE) {
            return None;
        }
        if let Some(chosen) = request.options.get(CHOICE) {
            let image = chosen.split_whitespace().next().unwrap_or_default();
            return Some(Self {
                image: image.to_owned(),
                command_line: chosen.clone(),
                directive: None,
            });
        }
        let found = detect_syntax(dockerfile)?;
        Some(Self {
            image: found.word,
            command_line: found.value,
            directive: Some(found.lines),
        })
    }

    /// Has it solve the request. A failure that names no line of its own gets the directive's.
    pub(super) async fn solve(
        self,
        bridge: Arc<dyn Bridge>,
        mut request: FrontendRequest,
        dockerfile: SourceInfo,
    ) -> Result<FrontendResult, Failure> {
        let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        request.options.extend([
            option("source", &self.image),
            option(COMMAND_LINE, &self.command_line),
        ]);
        let solved = bridge.frontend(gateway::NAME, request).await;
        solved.map_err(|failure| self.explain(failure, dockerfile))
    }

    fn explain(&self, failure: Failure, dockerfile: SourceInfo) -> Failure {
        let mut details = failure.details.iter();
        if details.any(is_source) {
            return failure;
        }
        match self.directive {
            Some(lines) => failure.with(FailureDetail::Source {
                info: Arc::new(dockerfile),
                ranges: lines.ranges(),
            }),
            None => failure.context(format!("failed with {CHOICE} = {}", self.command_line)),
        }
    }
}

/// True for lines of a source, also as another frontend reports them.
fn is_source(detail: &FailureDetail) -> bool {
    match detail {
        FailureDetail::Source { .. } => true,
        FailureDetail::Opaque { type_url, .. } => type_url.contains("errdefs.Source"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(options: &[(&str, &str)]) -> FrontendRequest {
        let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        FrontendRequest {
            options: options.iter().map(own).collect(),
            ..FrontendRequest::default()
        }
    }

    #[test]
    fn the_client_s_choice_counts_more_than_the_directive_and_nothing_is_handed_on_twice() {
        let text = b"# syntax=a/b:1 x\nFROM y";
        for (options, expected) in [
            (&[][..], Some(("a/b:1", "a/b:1 x"))),
            (
                &[("build-arg:BUILDKIT_SYNTAX", "c d")][..],
                Some(("c", "c d")),
            ),
            (&[("cmdline", "a/b:1 x")][..], None),
        ] {
            let wanted = Forward::wanted(&request(options), text);
            let wanted = wanted.as_ref();
            let found = wanted.map(|f| (f.image.as_str(), f.command_line.as_str()));
            assert_eq!(found, expected, "{options:?}");
        }
        assert_eq!(Forward::wanted(&request(&[]), b"FROM y"), None);
    }

    #[test]
    fn a_failure_gets_the_directive_s_line_unless_it_has_its_own() {
        let forward = Forward::wanted(&request(&[]), b"# syntax=a\n").unwrap();
        let located = forward.explain(Failure::new("x"), SourceInfo::default());
        assert_eq!(located.details.len(), 1);
        let again = forward.explain(located.clone(), SourceInfo::default());
        assert_eq!(again, located);
    }
}
