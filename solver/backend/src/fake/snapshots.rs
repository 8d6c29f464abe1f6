//! Snapshots of one namespace of a fake host.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use async_trait::async_trait;
use shipway_model::Digest;

use super::host::{Records, Scope, Snapshot, State};
use crate::{Adoption, BackendError, ErrorKind, Lease, MountSpec, SnapshotNames, Snapshots};

#[async_trait]
impl Snapshots for Scope {
    async fn exists(&self, snapshotter: &str, key: &str) -> Result<bool, BackendError> {
        let key = id(snapshotter, key);
        Ok(self.with(|_, records| records.snapshots.contains_key(&key)))
    }

    async fn adopt(
        &self,
        _lease: &Lease,
        snapshotter: &str,
        chain_id: &Digest,
        parent: Option<&Digest>,
    ) -> Result<Adoption, BackendError> {
        let key = id(snapshotter, &chain_id.to_string());
        let attempt = format!("adopting snapshot {chain_id} of {snapshotter}");
        self.with(|state, records| {
            // As containerd does: the target is looked up before the parent.
            if records.snapshots.contains_key(&key) {
                return Ok(Adoption::Adopted);
            }
            let parent_key = parent.map(Digest::to_string);
            let below = stack(records, snapshotter, parent_key.as_deref(), &attempt)?;
            let offered = state.offers.iter().any(|offer| {
                offer.snapshotter == snapshotter
                    && offer.chain_id == *chain_id
                    && offer.parent.as_ref() == parent
            });
            if !offered {
                return Ok(Adoption::NotOffered);
            }
            let mut snapshot = make(state, parent_key, &below, false)?;
            snapshot.committed = true;
            records.snapshots.insert(key, snapshot);
            Ok(Adoption::Adopted)
        })
    }

    async fn prepare(
        &self,
        _lease: &Lease,
        snapshotter: &str,
        key: &str,
        parent: Option<&str>,
    ) -> Result<Vec<MountSpec>, BackendError> {
        self.add(snapshotter, key, parent, false)
    }

    async fn view(
        &self,
        _lease: &Lease,
        snapshotter: &str,
        key: &str,
        parent: &str,
    ) -> Result<Vec<MountSpec>, BackendError> {
        self.add(snapshotter, key, Some(parent), true)
    }

    async fn commit(
        &self,
        _lease: &Lease,
        snapshotter: &str,
        name: &str,
        key: &str,
        _labels: BTreeMap<String, String>,
    ) -> Result<(), BackendError> {
        let attempt = format!("committing snapshot {name} of {snapshotter}");
        let (name, key) = (id(snapshotter, name), id(snapshotter, key));
        self.with(|_, records| {
            let active = records.snapshots.get(&key).is_some_and(|s| !s.committed);
            if !active {
                return Err(BackendError::caused(
                    ErrorKind::NotFound,
                    attempt,
                    "not found",
                ));
            }
            if records.snapshots.contains_key(&name) {
                return Err(taken(attempt));
            }
            if let Some(mut snapshot) = records.snapshots.remove(&key) {
                snapshot.committed = true;
                records.snapshots.insert(name, snapshot);
            }
            Ok(())
        })
    }

    async fn list(&self, snapshotter: &str) -> Result<Vec<SnapshotNames>, BackendError> {
        let names = |((of, name), snapshot): (&(String, String), &Snapshot)| {
            (of == snapshotter).then(|| SnapshotNames {
                name: name.clone(),
                parent: snapshot.parent.clone().unwrap_or_default(),
            })
        };
        Ok(self.with(|_, records| records.snapshots.iter().filter_map(names).collect()))
    }

    async fn remove(&self, snapshotter: &str, key: &str) -> Result<(), BackendError> {
        let attempt = format!("removing snapshot {key} of {snapshotter}");
        self.with(|_, records| {
            let has_children = records.snapshots.iter().any(|((of, _), snapshot)| {
                of == snapshotter && snapshot.parent.as_deref() == Some(key)
            });
            if has_children {
                let why = "it has children";
                return Err(BackendError::caused(
                    ErrorKind::FailedPrecondition,
                    attempt,
                    why,
                ));
            }
            records.snapshots.remove(&id(snapshotter, key));
            Ok(())
        })
    }
}

impl Scope {
    fn add(
        &self,
        snapshotter: &str,
        key: &str,
        parent: Option<&str>,
        read_only: bool,
    ) -> Result<Vec<MountSpec>, BackendError> {
        let attempt = format!("preparing snapshot {key} of {snapshotter}");
        self.with(|state, records| {
            if records.snapshots.contains_key(&id(snapshotter, key)) {
                return Err(taken(attempt));
            }
            let below = stack(records, snapshotter, parent, &attempt)?;
            let snapshot = make(state, parent.map(str::to_owned), &below, read_only)?;
            let mounts = snapshot.mounts.clone();
            records.snapshots.insert(id(snapshotter, key), snapshot);
            Ok(mounts)
        })
    }
}

fn id(snapshotter: &str, key: &str) -> (String, String) {
    (snapshotter.to_owned(), key.to_owned())
}

fn taken(attempt: String) -> BackendError {
    BackendError::caused(ErrorKind::AlreadyExists, attempt, "already exists")
}

/// The directories of a committed snapshot and those below it, topmost first.
fn stack(
    records: &Records,
    snapshotter: &str,
    top: Option<&str>,
    attempt: &str,
) -> Result<Vec<PathBuf>, BackendError> {
    let mut dirs = Vec::new();
    let mut next = top.map(str::to_owned);
    while let Some(key) = next.take() {
        let snapshot = records.snapshots.get(&id(snapshotter, &key));
        let snapshot = snapshot
            .filter(|snapshot| snapshot.committed)
            .ok_or_else(|| {
                let why = format!("parent snapshot {key} does not exist: not found");
                BackendError::caused(ErrorKind::NotFound, attempt, why)
            })?;
        dirs.push(snapshot.dir.clone());
        next.clone_from(&snapshot.parent);
    }
    Ok(dirs)
}

/// A snapshot on these directories, described as overlayfs's are.
fn make(
    state: &mut State,
    parent: Option<String>,
    below: &[PathBuf],
    read_only: bool,
) -> Result<Snapshot, BackendError> {
    state.next += 1;
    let made = state.snapshots_root.is_some() && !read_only;
    let root = state
        .snapshots_root
        .clone()
        .unwrap_or_else(|| "/fake".into());
    let base = root.join(state.next.to_string());
    let (dir, work) = (base.join("fs"), base.join("work"));
    if made {
        for dir in [&dir, &work] {
            fs::create_dir_all(dir).map_err(|error| {
                let attempt = format!("making {}", dir.display());
                BackendError::caused(ErrorKind::Other, attempt, error)
            })?;
        }
    }
    let lower = below.iter().map(|dir| dir.display().to_string());
    let lower = format!("lowerdir={}", lower.collect::<Vec<_>>().join(":"));
    let mount = match (below, read_only) {
        ([], _) => bind(&dir, "rw"),
        ([only], true) => bind(only, "ro"),
        (_, true) => overlay(vec![lower]),
        (_, false) => overlay(vec![
            format!("workdir={}", work.display()),
            format!("upperdir={}", dir.display()),
            lower,
        ]),
    };
    Ok(Snapshot {
        committed: false,
        parent,
        mounts: vec![mount],
        dir,
    })
}

fn bind(dir: &std::path::Path, access: &str) -> MountSpec {
    MountSpec {
        kind: "bind".into(),
        source: dir.display().to_string(),
        options: vec![access.into(), "rbind".into()],
    }
}

fn overlay(options: Vec<String>) -> MountSpec {
    MountSpec {
        kind: "overlay".into(),
        source: "overlay".into(),
        options,
    }
}
