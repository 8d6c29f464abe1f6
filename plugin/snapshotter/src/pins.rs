//! Guards that keep layers from collection for as long as a process uses them, and offers that let containerd have
//! them. Nothing here is durable: a restart forgets both.

use std::sync::Arc;

use crate::{core::Core, error::Result, model::LayerId};

/// Keeps layers from being collected until dropped.
#[derive(Debug)]
pub struct PinnedLayers {
    core: Arc<Core>,
    ids: Vec<LayerId>,
}

impl PinnedLayers {
    /// Pins layers that must exist (committed, or open in this process).
    pub(crate) fn existing(core: &Arc<Core>, ids: &[LayerId]) -> Result<Self> {
        let mut inner = core.lock();
        for id in ids {
            if !inner.soft.open.contains(id) {
                inner.state.committed(*id)?;
            }
        }
        for id in ids {
            *inner.soft.pins.entry(*id).or_default() += 1;
        }
        drop(inner);
        Ok(Self {
            core: Arc::clone(core),
            ids: ids.to_vec(),
        })
    }

    /// The pinned layers, in the order given.
    #[must_use]
    pub fn layers(&self) -> &[LayerId] {
        &self.ids
    }
}

impl Drop for PinnedLayers {
    fn drop(&mut self) {
        let mut inner = self.core.lock();
        for id in &self.ids {
            let left = inner
                .soft
                .pins
                .remove(id)
                .unwrap_or_default()
                .saturating_sub(1);
            if left > 0 {
                inner.soft.pins.insert(*id, left);
            }
        }
    }
}

/// While it lives, containerd's `Prepare` in one namespace that asks for one of the chain ids gets an alias to the
/// layer offered for it. Dropping it withdraws the offer; aliases made by then stay.
#[derive(Debug)]
pub struct Offer {
    namespace: String,
    chain: Vec<(String, LayerId)>,
    pin: PinnedLayers,
}

impl Offer {
    pub(crate) fn new(
        core: &Arc<Core>,
        namespace: &str,
        chain: impl IntoIterator<Item = (String, LayerId)>,
    ) -> Result<Self> {
        let chain: Vec<_> = chain.into_iter().collect();
        let ids: Vec<_> = chain.iter().map(|(_, id)| *id).collect();
        let pin = PinnedLayers::existing(core, &ids)?;
        let mut inner = core.lock();
        for (chain_id, id) in &chain {
            inner
                .soft
                .offers
                .entry((namespace.into(), chain_id.clone()))
                .or_default()
                .push(*id);
        }
        drop(inner);
        Ok(Self {
            namespace: namespace.into(),
            chain,
            pin,
        })
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        let mut inner = self.pin.core.lock();
        for (chain_id, id) in self.chain.drain(..) {
            let key = (self.namespace.clone(), chain_id);
            let Some(layers) = inner.soft.offers.get_mut(&key) else {
                continue;
            };
            if let Some(at) = layers.iter().rposition(|l| *l == id) {
                layers.remove(at);
            }
            if layers.is_empty() {
                inner.soft.offers.remove(&key);
            }
        }
    }
}
