//! Landing by alias: when containerd's `Prepare` asks for a chain id that our exporter offers in that namespace, an
//! entry is minted that stands for the offered layer on whatever parent containerd has. Decides when that happens;
//! pulls are never answered so, because containerd would then fetch no blobs and the image could not be exported.

use std::time::{Duration, Instant, SystemTime};

use crate::{
    core::{Core, Inner},
    error::{Error, Result},
    model::{Kind, Labels, LayerId},
    state::{Change, EntryRecord, State, backend_key},
};

/// containerd fetches an alias right after it was minted. One that was not fetched for this long belongs to a client
/// that went away. (One that was fetched and then not recorded is unknown to containerd, whose collector removes it.)
pub(crate) const UNCLAIMED: Duration = Duration::from_mins(10);

/// What names of aliases begin with; their id and the chain id that they stand for follow.
pub(crate) const ALIAS: &str = "alias:";

/// Labels that a shared entry accepts: those that containerd passes on from its clients.
pub(crate) const SHARED_LABELS: &str = "containerd.io/snapshot/";

/// The layer on offer for a key that containerd made, if any.
pub(crate) fn offered(inner: &Inner, key: &str, reference: &str) -> Option<LayerId> {
    let key = backend_key(key)?;
    if key.name.starts_with("extract-") {
        return None;
    }
    inner
        .soft
        .offers
        .get(&(key.namespace.into(), reference.into()))?
        .last()
        .copied()
}

/// Makes sure that exactly one committed entry stands for `reference` on `parent`, durably.
pub(crate) fn ensure(
    core: &Core,
    reference: &str,
    parent: &str,
    layer: LayerId,
    labels: &Labels,
) -> Result<()> {
    // An id of our own: containerd's keys start over when its database is lost.
    let key = format!("{ALIAS}{}/{reference}", core.allocate()?);
    let minted = core.transact(|inner| {
        if !parent.is_empty() {
            let kind = inner.state.entries.get(parent).map(|e| e.kind);
            match kind.ok_or_else(|| Error::NoParent(parent.into()))? {
                Kind::Committed => {}
                Kind::Active | Kind::View => return Err(Error::ParentNotCommitted(parent.into())),
            }
        }
        inner.state.committed(layer)?;
        if let Some(existing) = inner.state.alias(reference, parent) {
            return Ok((existing.to_owned(), vec![]));
        }
        let record = mint(reference, parent, layer, labels);
        Ok((key.clone(), vec![Change::PutEntry(key.clone(), record)]))
    })?;
    let mut inner = core.lock();
    // An older alias that is still unclaimed gets its time again; a claimed one is not waited for.
    if minted == key || inner.soft.minted.contains_key(&minted) {
        inner.soft.minted.insert(minted, Instant::now());
    }
    Ok(())
}

fn mint(reference: &str, parent: &str, layer: LayerId, labels: &Labels) -> EntryRecord {
    let now = SystemTime::now();
    EntryRecord {
        parent: parent.into(),
        kind: Kind::Committed,
        layer: Some(layer),
        reference: Some(reference.into()),
        labels: shared_labels(labels),
        created: now,
        updated: now,
        children: 0,
    }
}

/// Those labels that may be seen from another namespace.
pub(crate) fn shared_labels(labels: &Labels) -> Labels {
    labels
        .iter()
        .filter(|(key, _)| key.starts_with(SHARED_LABELS))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Removes aliases that nobody fetched in time.
pub(crate) fn age_out(core: &Core, unclaimed: Duration) -> Result<()> {
    let expired = core.transact(|inner| {
        let soft = inner.soft.minted.iter();
        let late = soft
            .filter(|(_, since)| since.elapsed() >= unclaimed)
            .map(|(key, _)| key.clone());
        let late: Vec<_> = late.collect();
        let changes = late.iter().filter(|key| childless(&inner.state, key));
        let changes = changes.map(|key| Change::DropEntry(key.clone())).collect();
        Ok((late, changes))
    })?;
    let mut inner = core.lock();
    for key in expired {
        inner.soft.minted.remove(&key);
    }
    Ok(())
}

fn childless(state: &State, key: &str) -> bool {
    state
        .entries
        .get(key)
        .is_some_and(|entry| entry.children == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommitInfo, LayerStore, REFERENCE_LABEL};

    #[test]
    fn an_alias_that_nobody_fetches_is_forgotten_and_a_fetched_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let store = LayerStore::open(root.path()).unwrap();
        let layer = store.create().unwrap().id;
        store.commit(layer, CommitInfo::default()).unwrap();
        let chain = ["sha256:fetched", "sha256:forgotten"].map(|c| (c.to_owned(), layer));
        let _offer = store.offer("ns", chain.clone()).unwrap();
        for (chain_id, _) in &chain {
            let labels = [(REFERENCE_LABEL.to_owned(), chain_id.clone())].into();
            store
                .prepare(&format!("ns/1/{chain_id}"), "", labels)
                .unwrap_err();
        }
        let filter = format!("labels.\"{REFERENCE_LABEL}\"==sha256:fetched,parent==\"\"");
        assert_eq!(store.entries(&[filter]).unwrap().len(), 1);
        age_out(&store.core, UNCLAIMED).unwrap();
        assert_eq!(store.entries(&[]).unwrap().len(), 2);
        age_out(&store.core, Duration::ZERO).unwrap();
        assert!(store.find_chain("sha256:fetched").is_some());
        assert!(store.find_chain("sha256:forgotten").is_none());
        age_out(&store.core, Duration::ZERO).unwrap();
        assert_eq!(store.entries(&[]).unwrap().len(), 1);
    }
}
