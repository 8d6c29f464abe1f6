//! What a start does about the last stop: drops layers whose directory is gone or whose data may have been lost with
//! the power, everything that stood on them, and directories that no record names. A process that was killed loses
//! nothing: its page cache lives on, and the boot id says so.

use std::collections::BTreeSet;

use crate::{
    core::Core,
    error::Result,
    model::{LayerId, Recovered},
    state::{Change, State},
};

/// Brings records and directories into agreement.
pub(crate) fn reconcile(core: &Core) -> Result<Recovered> {
    let recovered = core.transact(|inner| {
        Ok(plan(&inner.state, &core.boot, |id| {
            core.layout.has_layer(id)
        }))
    })?;
    let kept: BTreeSet<LayerId> = core.lock().state.layers.keys().copied().collect();
    for id in core.layout.present()? {
        if !kept.contains(&id) {
            core.layout.trash_layer(id)?;
        }
    }
    Ok(recovered)
}

/// Decides what cannot be kept.
fn plan(state: &State, boot: &str, present: impl Fn(LayerId) -> bool) -> (Recovered, Vec<Change>) {
    let lost: BTreeSet<LayerId> = state
        .layers
        .iter()
        .filter(|(id, record)| {
            // What an active entry writes was never promised to survive the power, only to be there.
            let unsynced = record.boot.as_deref().is_some_and(|b| b != boot) && !record.active;
            unsynced || !present(**id)
        })
        .map(|(id, _)| *id)
        .collect();
    let entries = lost_entries(state, &lost);
    let mut recovered = Recovered {
        entries: entries.clone(),
        ..Recovered::default()
    };
    let mut changes: Vec<_> = entries.into_iter().map(Change::DropEntry).collect();
    for (owner, ids) in &state.owners {
        let mut gone = ids
            .iter()
            .filter(|id| lost.contains(id) || !state.layers.contains_key(id))
            .peekable();
        if gone.peek().is_some() {
            recovered.owners.push(owner.clone());
        }
        changes.extend(gone.map(|id| Change::Disown(owner.clone(), *id)));
    }
    changes.extend(lost.iter().map(|id| Change::DropLayer(*id)));
    recovered.layers = lost.into_iter().collect();
    (recovered, changes)
}

/// Entries that name a lost layer or stand on one that does, children first.
fn lost_entries(state: &State, lost: &BTreeSet<LayerId>) -> Vec<String> {
    let broken = |key: &str| {
        let mut name = key;
        let mut depth = 0;
        while !name.is_empty() {
            let Some(entry) = state.entries.get(name) else {
                return Some(depth);
            };
            if entry
                .layer
                .is_some_and(|id| lost.contains(&id) || !state.layers.contains_key(&id))
            {
                return Some(depth);
            }
            name = &entry.parent;
            depth += 1;
        }
        None
    };
    let mut entries: Vec<_> = state
        .entries
        .keys()
        .filter_map(|key| Some((broken(key)?, key.clone())))
        .collect();
    entries.sort_by(|a, b| b.cmp(a));
    entries.into_iter().map(|(_, key)| key).collect()
}
