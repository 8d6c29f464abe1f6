//! Landing: makes a result's layers snapshots of a namespace under their chain IDs. In our own snapshotter containerd adopts
//! the layers as they are; in another one each is filled with links and committed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use shipway_backend::{Adoption, BackendError, ErrorKind, MountSpec};
use shipway_layers::Snapshot;
use shipway_model::{Digest, Failure};

use crate::ExportEnv;

/// Lands `snapshot`, whose chain IDs are `chain`, lowest first.
pub(crate) async fn land(
    snapshot: &Snapshot,
    chain: &[Digest],
    env: &ExportEnv,
) -> Result<(), Failure> {
    if env.snapshotter == env.own_snapshotter {
        adopt(snapshot, chain, env).await
    } else {
        fill(snapshot, chain, env).await
    }
}

async fn adopt(snapshot: &Snapshot, chain: &[Digest], env: &ExportEnv) -> Result<(), Failure> {
    let Some(top) = chain.last() else {
        return Ok(());
    };
    let namespace = env.namespace();
    // The top decides: where it is known, everything is, and the lease holds it.
    let highest = chain.len() - 1;
    if namespace
        .snapshots
        .exists(&env.snapshotter, &top.to_string())
        .await?
    {
        match adopt_one(chain, highest, env).await {
            Ok(Adoption::Adopted) => return Ok(()),
            Ok(Adoption::NotOffered) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    snapshot.materialise(&env.layers, &env.need).await?;
    let offered: Vec<_> = chain.iter().copied().zip(snapshot.ids()).collect();
    let _offer = env.layers.upkeep().offer(&namespace.name, &offered)?;
    for at in 0..chain.len() {
        if adopt_one(chain, at, env).await? == Adoption::NotOffered {
            return Err(Failure::new(format!(
                "landing {} in snapshotter {}: it was offered and not adopted",
                chain[at], env.snapshotter
            )));
        }
    }
    Ok(())
}

async fn adopt_one(chain: &[Digest], at: usize, env: &ExportEnv) -> Result<Adoption, BackendError> {
    let parent = at.checked_sub(1).map(|below| &chain[below]);
    let snapshots = &env.namespace().snapshots;
    snapshots
        .adopt(&env.need.lease, &env.snapshotter, &chain[at], parent)
        .await
}

async fn fill(snapshot: &Snapshot, chain: &[Digest], env: &ExportEnv) -> Result<(), Failure> {
    let paths = snapshot.materialise(&env.layers, &env.need).await?;
    let snapshots = &env.namespace().snapshots;
    let (lease, snapshotter) = (&env.need.lease, env.snapshotter.as_str());
    let mut parent: Option<String> = None;
    for (chain_id, path) in chain.iter().zip(paths) {
        let name = chain_id.to_string();
        if !snapshots.exists(snapshotter, &name).await? {
            let key = format!("shipway-{}-{}", chain_id.hex(), env.need.lease.id());
            snapshots.remove(snapshotter, &key).await?;
            let mounts = snapshots
                .prepare(lease, snapshotter, &key, parent.as_deref())
                .await?;
            let upper = upper_of(&mounts).ok_or_else(|| {
                Failure::new(format!(
                    "unpacking to snapshotter {snapshotter}: its mounts name no directory to fill"
                ))
            })?;
            let filled = tokio::task::spawn_blocking(move || {
                shipway_tree::fill::fill(&shipway_tree::Layer::open(path)?, &upper)
            });
            filled
                .await
                .map_err(|e| Failure::from_error(&e))?
                .map_err(|e| Failure::from_error(&e).context(format!("filling snapshot {name}")))?;
            match snapshots
                .commit(lease, snapshotter, &name, &key, BTreeMap::new())
                .await
            {
                Ok(()) => {}
                Err(error) if error.kind == ErrorKind::AlreadyExists => {
                    snapshots.remove(snapshotter, &key).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        parent = Some(name);
    }
    Ok(())
}

/// The directory that a snapshot's writes go to: overlay's upper directory, or the whole of a bind mount.
fn upper_of(mounts: &[MountSpec]) -> Option<PathBuf> {
    let [mount] = mounts else { return None };
    match mount.kind.as_str() {
        "overlay" => mount
            .options
            .iter()
            .find_map(|o| o.strip_prefix("upperdir="))
            .map(PathBuf::from),
        "bind" | "rbind" => Some(PathBuf::from(&mount.source)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> MountSpec {
        let options = options.iter().map(|&o| o.to_owned()).collect();
        MountSpec {
            kind: kind.into(),
            source: source.into(),
            options,
        }
    }

    #[test]
    fn the_directory_to_fill_is_named_by_the_mounts() {
        let overlay = mount(
            "overlay",
            "overlay",
            &["index=off", "upperdir=/u", "lowerdir=/l"],
        );
        assert_eq!(upper_of(&[overlay]), Some("/u".into()));
        assert_eq!(upper_of(&[mount("bind", "/s", &["rw"])]), Some("/s".into()));
        assert_eq!(upper_of(&[mount("erofs", "/s", &[])]), None);
    }
}
