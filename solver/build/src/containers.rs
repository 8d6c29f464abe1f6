//! Containers that a client or a frontend asks for over the bridge: from ids of results to mounts, and looks into their
//! files. Running them is `shipway_ops`'s business.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use shipway_backend::session::FileStat;
use shipway_model::op::{HostIp, Mount, NetMode};
use shipway_model::{Failure, Platform};
use shipway_ops::{Container, ContainerRequest, View};

use crate::Caller;
use crate::look;

/// A container to make.
#[derive(Debug, Clone)]
pub struct NewContainer {
    /// Chosen by the caller.
    pub id: String,
    /// Mounts; `result_id` names the result of each, or is empty.
    pub mounts: Vec<Mount>,
    /// Its network.
    pub network: NetMode,
    /// Its host name; empty for the default.
    pub hostname: String,
    /// Extra lines for its hosts file.
    pub extra_hosts: Vec<HostIp>,
    /// Platform that its programs are for; `None` is this machine's.
    pub platform: Option<Platform>,
}

impl Caller {
    /// Makes a container.
    pub async fn new_container(&self, new: NewContainer) -> Result<(), Failure> {
        let id = new.id.clone();
        let prepare = self.prepare(new);
        self.conversation.add_container(&id, prepare).await
    }

    async fn prepare(&self, new: NewContainer) -> Result<Container, Failure> {
        let build = &self.build;
        let mut mounts = Vec::new();
        for mount in new.mounts {
            let result = match mount.result_id.as_str() {
                "" => None,
                id => {
                    let files = build.result_files(id).await;
                    Some(files.map_err(|failure| {
                        let dest = &mount.dest;
                        failure.context(format!("failed to find ref {id} for {dest:?} mount"))
                    })?)
                }
            };
            mounts.push((mount, result));
        }
        let request = ContainerRequest {
            mounts,
            files: Vec::new(),
            network: new.network,
            hostname: new.hostname,
            extra_hosts: new.extra_hosts,
            platform: new.platform,
        };
        let sessions = vec![build.session.as_str().into()];
        let stop = build.cancelled().child_token();
        Container::prepare(Arc::clone(&build.ops), request, sessions, stop).await
    }

    /// A file of a container's mount, or `(offset, length)` of it.
    pub async fn read_container_file(
        &self,
        place: Place<'_>,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, Failure> {
        let (layers, path) = self.inside(place)?;
        look::at(layers, move |tree| look::read(tree, &path, range)).await
    }

    /// What a directory of a container's mount holds.
    pub async fn list_container_dir(
        &self,
        place: Place<'_>,
        pattern: &str,
    ) -> Result<Vec<FileStat>, Failure> {
        let (layers, path) = self.inside(place)?;
        let pattern = pattern.to_owned();
        look::at(layers, move |tree| look::list(tree, &path, &pattern)).await
    }

    /// What is known of a path of a container's mount; the last link is followed unless it leads nowhere.
    pub async fn stat_container_path(&self, place: Place<'_>) -> Result<FileStat, Failure> {
        let (layers, path) = self.inside(place)?;
        look::at(layers, move |tree| look::stat_followed(tree, &path)).await
    }

    /// The layers that a mount shows, and the path in them.
    fn inside(&self, place: Place<'_>) -> Result<(Vec<PathBuf>, String), Failure> {
        if !place.path.starts_with('/') {
            let path = place.path;
            return Err(Failure::new(format!("can't make {path} relative to /")));
        }
        let container = self.conversation.container(place.container)?;
        match container.view(place.mount)? {
            View::Layers(layers, selector) => {
                // What a mount shows is what is mounted: its selected part.
                let path = format!("{}{}", selector.trim_end_matches('/'), clean(place.path));
                Ok((layers, path))
            }
            View::File => Err(Failure::new(format!(
                "open {}: mount {} is not a directory",
                place.path, place.mount
            ))),
        }
    }
}

/// A path in a mount of a container.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The container's id.
    pub container: &'a str,
    /// Position of the mount in the container's request.
    pub mount: usize,
    /// Absolute path in the mount.
    pub path: &'a str,
}

/// An absolute path without `.`, `..` and double slashes.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_never_climbs_out() {
        for (path, cleaned) in [("/", "/"), ("/a/../../b/./c//d", "/b/c/d")] {
            assert_eq!(clean(path), cleaned);
        }
    }
}
