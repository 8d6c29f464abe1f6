//! How libcontainer starts an ordinary container's program: found and refused in a runtime's usual words, with the
//! environment in the order given. It never changes credentials or mounts.

use std::ffi::CString;

use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use oci_spec::runtime::{Process, Spec};

use crate::launcher::find_program;

/// Starts the program of a specification.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProgramExecutor;

impl Executor for ProgramExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let refuse = |error: &dyn std::fmt::Display| {
            ExecutorValidationError::ArgValidationError(error.to_string())
        };
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| refuse(&"the specification has no process"))?;
        let first = process
            .args()
            .iter()
            .flatten()
            .next()
            .ok_or_else(|| refuse(&"the process has no arguments"))?;
        find_program(first, path_variable(process))
            .map(drop)
            .map_err(|error| refuse(&error))
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let args = process.args().as_deref().unwrap_or_default();
        let first = args.first().ok_or(ExecutorError::InvalidArg)?;
        let program = find_program(first, path_variable(process))
            .map_err(|error| ExecutorError::Other(error.to_string()))?;
        let program = CString::new(program.into_os_string().into_encoded_bytes())
            .map_err(|_| ExecutorError::InvalidArg)?;
        let strings = |texts: &[String]| -> Result<Vec<CString>, ExecutorError> {
            texts
                .iter()
                .map(|text| CString::new(text.as_str()).map_err(|_| ExecutorError::InvalidArg))
                .collect()
        };
        let mut environment = process.env().clone().unwrap_or_default();
        // libcontainer has looked HOME up by now, and put it into the environment of this process.
        if let (false, Ok(home)) = (
            environment
                .iter()
                .any(|variable| variable.starts_with("HOME=")),
            std::env::var("HOME"),
        ) {
            environment.push(format!("HOME={home}"));
        }
        let Err(error) = nix::unistd::execve(&program, &strings(args)?, &strings(&environment)?);
        Err(ExecutorError::Other(format!(
            "exec {}: {}",
            program.to_string_lossy(),
            error.desc().to_lowercase()
        )))
    }
}

fn path_variable(process: &Process) -> Option<&str> {
    process
        .env()
        .iter()
        .flatten()
        .find_map(|variable| variable.strip_prefix("PATH="))
}
