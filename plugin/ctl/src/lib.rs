//! The command line, and its side of a session.
