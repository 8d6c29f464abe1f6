//! Exec, file, merge, diff and build as engine operations.
