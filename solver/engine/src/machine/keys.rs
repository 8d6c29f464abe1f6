//! Which keys a node is known by: keys of inputs are looked up as they arrive, and only what *every* input leads to is
//! a key of the node. Decides how much of its keys is known.

use std::sync::Arc;

use shipway_cache::{KeyId, KeyIndex, Link, LinkRow, Record, Update, step};
use shipway_model::Digest;

use super::node::{Level, NodeId, Phase, add};
use super::{Action, Machine, RunKey};
use crate::{CacheMap, CacheSource};

type Source<V> = Arc<dyn CacheSource<V>>;

impl<V: Clone> Machine<V> {
    /// Looks up what is new and tells dependents of new keys. True where there are any.
    pub(super) fn probe(&mut self, id: NodeId, map: &CacheMap<V>) -> bool {
        let vertex = self.nodes[id].vertex;
        let step = self.step(id, map);
        let level = if self.vertices[vertex].forced || map.volatile {
            Level::Slow
        } else if map.deps.is_empty() {
            let root = KeyId::from_bytes(*step.as_bytes());
            if self.nodes[id].keys.is_empty() && self.any_contains(id, &root) {
                self.nodes[id].keys.push(root);
            }
            Level::Slow
        } else {
            for at in 0..map.deps.len() {
                self.probe_input(id, at, map, step);
            }
            self.intersect(id);
            self.reached(id, map)
        };
        let node = &mut self.nodes[id];
        let keys: Vec<_> = node.keys.clone();
        let more = add(&mut node.own, keys);
        if more || level > node.level {
            node.level = node.level.max(level);
            self.mark_dependents(id);
        }
        more
    }

    pub(super) fn step(&mut self, id: NodeId, map: &CacheMap<V>) -> Digest {
        let node = &mut self.nodes[id];
        *node
            .step
            .get_or_insert_with(|| step(&map.digest, node.output))
    }

    fn probe_input(&mut self, id: NodeId, at: usize, map: &CacheMap<V>, step: Digest) {
        let vertex = &self.vertices[self.nodes[id].vertex];
        let input = self.root(vertex.inputs[at]);
        let content = vertex.hashed[at].done().copied().flatten();
        let dep = &self.nodes[id].deps[at];
        let seen = dep.probed.filter(|(node, _)| *node == input);
        let seen = seen.map_or(0, |(_, count)| count);
        let content = content.filter(|_| !dep.content_probed);
        let link = link_of(at, step, map.deps[at].selector);
        let mut found = Vec::new();
        for key in &self.nodes[input].keys[seen..] {
            found.extend(self.targets(id, key, &link));
        }
        if let Some(content) = content {
            let plain = Link {
                selector: None,
                ..link
            };
            let by_content = self.targets(id, &content, &plain);
            self.note_shortcuts(input, link, &by_content);
            found.extend(by_content);
        }
        let count = self.nodes[input].keys.len();
        let dep = &mut self.nodes[id].deps[at];
        dep.probed = Some((input, count));
        dep.content_probed |= content.is_some();
        add(&mut dep.candidates, found);
    }

    /// What was found by content is found by definition next time.
    fn note_shortcuts(&mut self, input: NodeId, link: Link, found: &[KeyId]) {
        let mut links = Vec::new();
        for &from in &self.nodes[input].own {
            let known = if found.is_empty() {
                Vec::new()
            } else {
                self.index.targets(&from, &link)
            };
            let missing = found.iter().filter(|to| !known.contains(to));
            links.extend(missing.map(|&to| LinkRow { from, link, to }));
        }
        if !links.is_empty() {
            let update = Update {
                links,
                ..Update::default()
            };
            self.actions.push(Action::Note(update));
        }
    }

    fn intersect(&mut self, id: NodeId) {
        let node = &mut self.nodes[id];
        let Some((first, rest)) = node.deps.split_first() else {
            return;
        };
        let common = first.candidates.iter().copied();
        let common = common.filter(|key| rest.iter().all(|dep| dep.candidates.contains(key)));
        add(&mut node.keys, common);
    }

    /// How much is known: nothing more can come from a level where either all inputs have told everything, or those that
    /// have leave no key open.
    fn reached(&self, id: NodeId, map: &CacheMap<V>) -> Level {
        let levels: Vec<_> = (0..map.deps.len())
            .map(|at| self.input_level(id, at, map))
            .collect();
        [Level::Slow, Level::Fast]
            .into_iter()
            .find(|&level| self.exhausted(id, &levels, level))
            .unwrap_or(Level::None)
    }

    fn exhausted(&self, id: NodeId, levels: &[Level], level: Level) -> bool {
        let node = &self.nodes[id];
        let told = || node.deps.iter().zip(levels).filter(|(_, l)| **l >= level);
        let count = told().count();
        if count == levels.len() {
            return true;
        }
        let Some((first, _)) = told().next() else {
            return false;
        };
        let open = |key: &&KeyId| told().all(|(dep, _)| dep.candidates.contains(key));
        let mut open = first.candidates.iter().filter(open);
        open.all(|key| node.keys.contains(key))
    }

    /// How much an input has told this node, its content included.
    pub(super) fn input_level(&self, id: NodeId, at: usize, map: &CacheMap<V>) -> Level {
        let vertex = &self.vertices[self.nodes[id].vertex];
        let level = self.nodes[self.root(vertex.inputs[at])].key_level();
        let unhashed = map.deps[at].content.is_some() && vertex.hashed[at].done().is_none();
        if unhashed {
            level.min(Level::Fast)
        } else {
            level
        }
    }

    /// Forgets what was looked up, not what was found.
    pub(super) fn look_again(&mut self, id: NodeId) {
        let node = &mut self.nodes[id];
        if node.merged.is_some() || !matches!(node.phase, Phase::Matching) {
            return;
        }
        for dep in &mut node.deps {
            dep.probed = None;
            dep.content_probed = false;
        }
        self.mark(id);
    }

    pub(super) fn sources(&self, id: NodeId) -> Vec<&Source<V>> {
        if self.imports == 0 {
            return Vec::new();
        }
        let jobs = self.vertices[self.nodes[id].vertex].jobs.iter();
        let jobs = jobs.filter_map(|job| self.jobs.get(job));
        jobs.flat_map(|job| &job.sources).collect()
    }

    fn any_contains(&self, id: NodeId, key: &KeyId) -> bool {
        self.index.contains(key) || self.sources(id).iter().any(|s| s.index().contains(key))
    }

    pub(super) fn targets(&self, id: NodeId, from: &KeyId, link: &Link) -> Vec<KeyId> {
        let mut found = self.index.targets(from, link);
        for source in self.sources(id) {
            found.extend(source.index().targets(from, link));
        }
        found
    }

    /// The newest record of the node's keys; what is here goes before what would have to be fetched.
    pub(super) fn best_record(&self, id: NodeId) -> Option<(Record, Option<Source<V>>)> {
        let node = &self.nodes[id];
        let newest = |index: &dyn KeyIndex| {
            let records = node.keys.iter().flat_map(|key| index.records(key));
            let records = records.filter(|record| !node.tried.contains(&record.result));
            records.max_by(|a, b| a.created_at.cmp(&b.created_at))
        };
        if let Some(record) = newest(self.index.as_ref()) {
            return Some((record, None));
        }
        let mut sources = self.sources(id).into_iter();
        sources.find_map(|source| Some((newest(source.index())?, Some(Arc::clone(source)))))
    }

    /// Ways from the inputs' keys: per input, its keys with selectors, and its content's. `None` where an input has none.
    pub(super) fn ways(&self, id: NodeId, map: &CacheMap<V>) -> Option<Vec<Vec<(KeyId, Link)>>> {
        let step = self.nodes[id].step?;
        let vertex = &self.vertices[self.nodes[id].vertex];
        let ways = vertex.inputs.iter().enumerate().map(|(at, &input)| {
            let link = link_of(at, step, map.deps[at].selector);
            let own = &self.nodes[self.root(input)].own;
            let mut ways: Vec<_> = own.iter().map(|key| (*key, link)).collect();
            if let Some(content) = vertex.hashed[at].done().copied().flatten() {
                let plain = Link {
                    selector: None,
                    ..link
                };
                ways.push((content, plain));
            }
            (!ways.is_empty()).then_some(ways)
        });
        ways.collect()
    }

    /// Keys that all inputs lead to by `targets`.
    pub(super) fn common(
        ways: &[Vec<(KeyId, Link)>],
        targets: impl Fn(&KeyId, &Link) -> Vec<KeyId>,
    ) -> Vec<KeyId> {
        let reached = |ways: &Vec<(KeyId, Link)>| -> Vec<KeyId> {
            ways.iter()
                .flat_map(|(from, link)| targets(from, link))
                .collect()
        };
        let mut sets = ways.iter().map(reached);
        let mut common = sets.next().unwrap_or_default();
        for set in sets {
            common.retain(|key| set.contains(key));
        }
        common.sort_unstable();
        common.dedup();
        common
    }

    /// The key to record a node's value under; `None` where it cannot be found again.
    pub(super) fn run_key(&self, id: NodeId, map: &CacheMap<V>) -> Option<RunKey> {
        let step = self.nodes[id].step?;
        if map.volatile {
            return None;
        }
        let parts = map.parts.clone();
        if map.deps.is_empty() {
            return Some(RunKey {
                key: KeyId::from_bytes(*step.as_bytes()),
                links: Vec::new(),
                parts,
            });
        }
        let ways = self.ways(id, map)?;
        let known = Self::common(&ways, |from, link| self.index.targets(from, link));
        let key = known.first().copied().unwrap_or_else(|| {
            let selected = |(key, link): &(KeyId, Link)| (*key, link.selector);
            let links: Vec<Vec<_>> = ways
                .iter()
                .map(|w| w.iter().map(selected).collect())
                .collect();
            KeyId::derived(&step, &links)
        });
        let mut links = rows(&ways, key);
        self.add_links_behind(id, &mut links);
        Some(RunKey { key, links, parts })
    }

    /// Links behind keys that only an imported cache knows: without them what is recorded now could not be found later.
    pub(super) fn add_links_behind(&self, id: NodeId, links: &mut Vec<LinkRow>) {
        if self.imports == 0 {
            return;
        }
        let mut open = vec![id];
        let mut seen = std::collections::HashSet::new();
        while let Some(at) = open.pop() {
            if at != id {
                let vertex = &self.vertices[self.nodes[at].vertex];
                let ways = vertex.map.done().and_then(|map| self.ways(at, map));
                let ways = ways.unwrap_or_default();
                links.extend(self.nodes[at].own.iter().flat_map(|key| rows(&ways, *key)));
            }
            let inputs = self.vertices[self.nodes[at].vertex].inputs.iter();
            let inputs = inputs.map(|&input| self.root(input));
            open.extend(inputs.filter(|&input| seen.insert(input)));
        }
        links.sort_unstable();
        links.dedup();
    }
}

pub(super) fn rows(ways: &[Vec<(KeyId, Link)>], to: KeyId) -> Vec<LinkRow> {
    let ways = ways.iter().flatten();
    ways.map(|&(from, link)| LinkRow { from, link, to })
        .collect()
}

fn link_of(input: usize, step: Digest, selector: Option<Digest>) -> Link {
    Link {
        input: u32::try_from(input).expect("a vertex has fewer than 4 billion inputs"),
        step,
        selector,
    }
}
