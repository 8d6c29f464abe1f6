//! Decides what a further process of a running step consists of. It never starts one.

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

use crate::error::InvalidStep;

/// A process that enters a running step: it gets the step's namespaces, root and seccomp filter, and ends with it at the
/// latest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisitSpec {
    /// Exec id of the step.
    pub step: String,
    /// Arguments, environment, working directory, terminal, capabilities, limits. The numbers of its user do not count.
    pub process: Process,
    /// The user as the Dockerfile has it, looked up in the step's root.
    pub user: String,
}

impl VisitSpec {
    /// The value for an `Any` with [`VISIT_TYPE_URL`](crate::VISIT_TYPE_URL).
    pub fn to_any_value(&self) -> Result<Vec<u8>, InvalidStep> {
        Ok(serde_json::to_vec(self)?)
    }
}

impl TryFrom<&[u8]> for VisitSpec {
    type Error = InvalidStep;

    /// Reads and checks the JSON of a visit.
    fn try_from(json: &[u8]) -> Result<Self, InvalidStep> {
        let visit: Self = serde_json::from_slice(json)?;
        if visit
            .process
            .args()
            .as_deref()
            .unwrap_or_default()
            .is_empty()
        {
            return Err(InvalidStep::NoArguments);
        }
        Ok(visit)
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::ProcessBuilder;

    use super::*;

    fn visit(args: &[&str]) -> VisitSpec {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let process = ProcessBuilder::default().args(args).cwd("/").build();
        VisitSpec {
            step: "step-1".to_owned(),
            process: process.unwrap(),
            user: "nobody".to_owned(),
        }
    }

    #[test]
    fn a_visit_survives_its_any_and_needs_a_program() {
        let value = visit(&["sh"]).to_any_value().unwrap();
        assert_eq!(
            VisitSpec::try_from(value.as_slice()).unwrap(),
            visit(&["sh"])
        );
        let empty = visit(&[]).to_any_value().unwrap();
        assert!(matches!(
            VisitSpec::try_from(empty.as_slice()),
            Err(InvalidStep::NoArguments)
        ));
    }
}
