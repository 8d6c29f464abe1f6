//! End to end: private daemons, real clients, what a person sees. `SHIPWAY_CONTAINERD` (two, one) chooses the
//! containerd, `SHIPWAY_DAEMON` (shipway, buildkit) who builds: what BuildKit does as well is proved on it.

mod attestations;
mod bad_dockerfiles;
mod bad_registries;
mod cache;
mod clients;
mod contexts;
mod debugging;
mod devices;
mod exporters;
mod frontends;
mod history;
mod hosts;
mod inputs;
mod kills;
mod neighbours;
mod nested;
mod networks;
mod platforms;
mod real_program;
mod refusals;
mod remote_caches;
mod repair;
mod running;
mod same_results;
mod source_policies;
mod steps;
mod subrequests;
mod support;
