//! End-to-end tests and invariants, against real containerd and real clients.
