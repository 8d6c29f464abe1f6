//! Conversions between wire messages and the domain's types, one file per subject.

pub mod failure;
pub mod history;
pub mod progress;
pub mod result;
pub mod solve;
pub mod spans;
