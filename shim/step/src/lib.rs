//! The contract between daemon and shim: a build step's whole runtime specification.
