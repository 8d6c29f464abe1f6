//! The backend traits over containerd's API: content, images, leases, snapshots, and steps as processes of tasks.
//!
//! [`Containerd::connect`] gives a [`Host`](shipway_backend::Host). This crate decides how containerd is called, what is
//! asked again after a restart of it, and how its errors are classed. It decides nothing about builds.

mod blobs;
mod build;
mod cgroups;
mod connection;
mod error;
mod exec;
mod fifo;
mod gather;
mod host;
mod images;
mod leases;
mod line;
mod placed;
mod scope;
mod single;
mod snapshots;
mod step;
mod upload;
mod writeback;

pub use cgroups::{remove_cgroup, remove_cgroups};
pub use connection::Settings;
pub use host::{Containerd, ExecutorKind};
pub use single::unmount_below;
