//! The daemon's typed configuration and the files an operator installs.
