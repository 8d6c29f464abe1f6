//! Traits for what the domain needs from the outside, each with its law, a fake and a test suite.
