//! Keys of nodes that run now, or whose values are not recorded yet: where another node comes to the same key, it need
//! not run. It decides nothing.

use std::collections::HashMap;

use shipway_cache::{KeyId, Link, LinkRow};

use super::node::NodeId;

#[derive(Default)]
pub(super) struct Pending {
    nodes: HashMap<KeyId, (NodeId, Vec<LinkRow>)>,
    links: HashMap<(KeyId, Link), Vec<KeyId>>,
}

impl Pending {
    /// Notes that `node` makes the value of `key`, unless another does.
    pub(super) fn add(&mut self, key: KeyId, node: NodeId, links: &[LinkRow]) {
        if self.nodes.contains_key(&key) {
            return;
        }
        let links: Vec<_> = links.iter().filter(|row| row.to == key).copied().collect();
        for row in &links {
            self.links
                .entry((row.from, row.link))
                .or_default()
                .push(key);
        }
        self.nodes.insert(key, (node, links));
    }

    pub(super) fn node(&self, key: &KeyId) -> Option<NodeId> {
        self.nodes.get(key).map(|(node, _)| *node)
    }

    pub(super) fn targets(&self, from: &KeyId, link: &Link) -> &[KeyId] {
        self.links.get(&(*from, *link)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn remove(&mut self, keys: &[KeyId]) {
        for key in keys {
            let Some((_, links)) = self.nodes.remove(key) else {
                continue;
            };
            for row in links {
                self.unlink(&row);
            }
        }
    }

    fn unlink(&mut self, row: &LinkRow) {
        let targets = self.links.entry((row.from, row.link)).or_default();
        targets.retain(|target| *target != row.to);
        if targets.is_empty() {
            self.links.remove(&(row.from, row.link));
        }
    }

    /// Removes the key if this node makes it.
    pub(super) fn remove_of(&mut self, node: NodeId, key: KeyId) {
        if self.node(&key) == Some(node) {
            self.remove(&[key]);
        }
    }

    /// Removes everything that these nodes make.
    pub(super) fn remove_nodes(&mut self, gone: &dyn Fn(NodeId) -> bool) {
        let keys: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, (node, _))| gone(*node))
            .map(|(key, _)| *key)
            .collect();
        self.remove(&keys);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.links.is_empty()
    }
}
