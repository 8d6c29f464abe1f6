//! Conversions between wire messages and the domain's types, one file per subject.

pub mod failure;
mod op_json;
pub mod progress;
pub mod result;
pub mod solve;
