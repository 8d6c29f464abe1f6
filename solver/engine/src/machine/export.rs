//! The keys behind an output, for cache exports. Decides which of a node's keys stands for it; loads nothing.

use std::collections::HashMap;

use shipway_cache::export::{Exported, ExportedLink};
use shipway_cache::{KeyId, Record};
use shipway_model::Digest;

use super::Machine;
use super::node::NodeId;
use crate::CacheMap;
use crate::job::JobKey;

impl<V: Clone> Machine<V> {
    /// Keys, links and records behind an output of a job's vertex, sources first, the output last.
    pub(crate) fn export(&self, job: JobKey, digest: Digest, output: usize) -> Vec<Exported> {
        let equal = self.by_digest.get(&digest).into_iter().flatten();
        let mut held = equal.filter(|&&v| self.vertices[v].jobs.contains(&job));
        let nodes = held.find_map(|&v| {
            let nodes = self.vertices[v].nodes.iter().copied();
            nodes.into_iter().find(|&n| self.nodes[n].output == output)
        });
        let Some(target) = nodes.map(|node| self.root(node)) else {
            return Vec::new();
        };
        let mut export = Export::default();
        let mut open = vec![(target, false)];
        while let Some((node, inputs_done)) = open.pop() {
            if export.entries.contains_key(&node) {
                continue;
            }
            if inputs_done {
                let entry = self.export_node(node, &mut export);
                export.entries.insert(node, entry);
                continue;
            }
            open.push((node, true));
            let inputs = &self.vertices[self.nodes[node].vertex].inputs;
            open.extend(inputs.iter().map(|&input| (self.root(input), false)));
        }
        match export.entries.get(&target) {
            Some(Some(_)) => export.list,
            _ => Vec::new(),
        }
    }

    fn export_node(&self, id: NodeId, export: &mut Export) -> Option<usize> {
        let node = &self.nodes[id];
        let map = self.vertices[node.vertex].map.done()?;
        let (key, records) = self.best_key(id)?;
        let inputs = self.export_inputs(id, map, export)?;
        export.list.push(Exported {
            key,
            digest: node.step?,
            inputs,
            records,
        });
        Some(export.list.len() - 1)
    }

    /// The key with a record, if there is one.
    fn best_key(&self, id: NodeId) -> Option<(KeyId, Vec<Record>)> {
        let keys = self.nodes[id].own.iter();
        let sources = self.sources(id);
        let keyed = keys.map(|&key| {
            let mut records = self.index.records(&key);
            if records.is_empty() {
                // A step that an imported cache answered without anybody needing its result.
                records.extend(sources.iter().flat_map(|s| s.index().records(&key)));
            }
            (key, records)
        });
        keyed.max_by_key(|(_, records)| records.first().map(|r| r.created_at))
    }

    fn export_inputs(
        &self,
        id: NodeId,
        map: &CacheMap<V>,
        export: &mut Export,
    ) -> Option<Vec<Vec<ExportedLink>>> {
        let vertex = &self.vertices[self.nodes[id].vertex];
        let mut inputs = Vec::with_capacity(vertex.inputs.len());
        for (at, &input) in vertex.inputs.iter().enumerate() {
            let mut links = Vec::new();
            if let Some(&Some(from)) = export.entries.get(&self.root(input)) {
                let selector = map.deps[at].selector;
                links.push(ExportedLink { from, selector });
            }
            if let Some(content) = vertex.hashed[at].done().copied().flatten() {
                let from = export.content(content);
                let selector = None;
                links.push(ExportedLink { from, selector });
            }
            if links.is_empty() {
                return None;
            }
            inputs.push(links);
        }
        Some(inputs)
    }
}

#[derive(Default)]
struct Export {
    list: Vec<Exported>,
    entries: HashMap<NodeId, Option<usize>>,
    contents: HashMap<KeyId, usize>,
}

impl Export {
    fn content(&mut self, key: KeyId) -> usize {
        if let Some(&at) = self.contents.get(&key) {
            return at;
        }
        self.list.push(Exported {
            key,
            digest: Digest::from_bytes(*key.as_bytes()),
            inputs: Vec::new(),
            records: Vec::new(),
        });
        self.contents.insert(key, self.list.len() - 1);
        self.list.len() - 1
    }
}
