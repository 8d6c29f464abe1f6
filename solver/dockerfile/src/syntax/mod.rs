//! From a Dockerfile's bytes to typed instructions. It expands no variable and resolves no name.
//!
//! Reading is linear in the size of the file: [`lines`] makes statements, [`instruction`] types them, stages follow.
//!
//! Decisions:
//! - Bytes that are not UTF-8 are replaced; the source map keeps the original bytes.
//! - Lines may have any length.

mod csv;
pub mod directive;
mod flags;
mod heredoc;
pub mod instruction;
mod lines;
mod mount;
mod stage;
mod typed;
mod units;
mod words;

pub use directive::{Directive, detect_syntax};
pub use heredoc::Heredoc;
pub use instruction::{
    Add, ArgDef, CommandLine, Copy, Device, HealthConfig, Instruction, InstructionKind, KeyValue,
    Run, RunNetwork, SourcesAndDest,
};
pub use mount::{Mount, MountType, Sharing};
pub use stage::{Dockerfile, Stage, parse};

pub(crate) use csv::fields as csv_fields;
pub(crate) use heredoc::{chomp, is_heredoc};
pub(crate) use mount::go_bool;
pub(crate) use stage::parse_trigger;

#[cfg(test)]
mod tests;
