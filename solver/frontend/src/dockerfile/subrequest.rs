//! What tools ask of a Dockerfile instead of having it built: checks, targets, outline, LLB. Decides which question is which;
//! the answers are `shipway_dockerfile`'s.

use shipway_dockerfile::subrequest::MissingCapability;
use shipway_dockerfile::{MetaResolver, Outcome, Request, lower, subrequest};
use shipway_model::failure::FailureKind;
use shipway_model::{Failure, FailureDetail};

use crate::FrontendResult;

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subrequest {
    Convert,
    Describe,
    Lint,
    Outline,
    Targets,
}

impl Subrequest {
    /// The question with this `requestid`.
    pub(super) fn named(name: &str) -> Result<Self, Failure> {
        match name {
            subrequest::CONVERT => Ok(Self::Convert),
            subrequest::DESCRIBE => Ok(Self::Describe),
            subrequest::LINT => Ok(Self::Lint),
            subrequest::OUTLINE => Ok(Self::Outline),
            subrequest::TARGETS => Ok(Self::Targets),
            _ => {
                let message = format!("unsupported request {name}");
                let failure = Failure::of_kind(FailureKind::Unimplemented, message);
                Err(failure.with(FailureDetail::UnsupportedSubrequest(name.to_owned())))
            }
        }
    }

    /// Its answer for a Dockerfile, and warnings that are no part of it.
    pub(super) async fn answer(
        self,
        request: &Request<'_>,
        resolver: &dyn MetaResolver,
    ) -> Outcome<FrontendResult> {
        let source = &request.source;
        let mut warnings = Vec::new();
        let answer = match self {
            Self::Convert => {
                let outcome = lower::convert(request, resolver).await;
                warnings = outcome.warnings;
                let lowered = outcome.result;
                lowered.map(|lowered| subrequest::convert(&lowered.definition))
            }
            Self::Describe => Ok(subrequest::describe()),
            Self::Lint => Ok(subrequest::lint(
                &lower::lint(request, resolver).await,
                source,
            )),
            Self::Outline => {
                let outcome = lower::outline(request, resolver).await;
                warnings = outcome.warnings;
                let outline = outcome.result;
                outline.map(|outline| subrequest::outline(&outline, source))
            }
            Self::Targets => subrequest::targets(source),
        };
        let result = answer.map(|answer| FrontendResult {
            metadata: answer
                .into_iter()
                .map(|(key, value)| (key, value.into()))
                .collect(),
            ..FrontendResult::default()
        });
        Outcome { warnings, result }
    }
}

/// What a client demands that this frontend lacks.
pub(super) fn missing_capability(demanded: Option<&String>) -> Option<MissingCapability> {
    demanded.and_then(|list| subrequest::missing_capability(list))
}

/// The failure of a request that needs it.
pub(super) fn unsupported_capability(missing: &MissingCapability) -> Failure {
    let message = format!("unsupported frontend capability {}", missing.name);
    let failure = Failure::of_kind(FailureKind::Unimplemented, message);
    failure.with(FailureDetail::UnsupportedFrontendCap(missing.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_nobody_has_is_refused_by_name() {
        let demand = |list: &str| missing_capability(Some(&list.to_owned()));
        assert!(missing_capability(None).is_none());
        assert!(demand("moby.buildkit.frontend.subrequests").is_none());
        let missing = demand("moby.buildkit.frontend.fortune").unwrap();
        let failure = unsupported_capability(&missing);
        assert!(failure.message.contains("moby.buildkit.frontend.fortune"));
    }

    #[test]
    fn a_question_nobody_knows_is_refused_by_name() {
        assert_eq!(
            Subrequest::named("frontend.lint").ok(),
            Some(Subrequest::Lint)
        );
        let failure = Subrequest::named("frontend.fortune").unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unimplemented);
        assert!(failure.message.contains("frontend.fortune"));
    }
}
