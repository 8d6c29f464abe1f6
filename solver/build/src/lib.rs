//! The use case: one request from definition to exports.
