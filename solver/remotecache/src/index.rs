//! The keys of an imported cache configuration, as the engine asks for them. It decides no layer and fetches nothing.

use std::collections::HashMap;

use shipway_cache::{KeyId, KeyIndex, KeyParts, Link, Record, ResultId};
use shipway_model::Digest;

use crate::config::{Config, Layers};

/// Keys of one or several configurations.
#[derive(Debug, Default)]
pub struct Index {
    links: HashMap<(KeyId, Link), Vec<KeyId>>,
    back: HashMap<KeyId, Vec<(KeyId, Link)>>,
    records: HashMap<KeyId, Vec<Record>>,
    leads: std::collections::HashSet<KeyId>,
    /// Blobs of results by their place in the name of a result.
    chains: Vec<Vec<Digest>>,
}

impl Index {
    /// Adds a configuration's keys. Results that need a blob for which `has` is false are passed over, as BuildKit does: a
    /// registry may have thrown a layer away and told so in a new manifest. `origin` tells results from other caches'.
    pub fn add(&mut self, origin: &str, config: &Config, has: &dyn Fn(&Digest) -> bool) {
        let mut keys: Vec<Option<KeyId>> = vec![None; config.records.len()];
        let mut places: HashMap<&Layers, Option<usize>> = HashMap::new();
        for at in config.in_order() {
            let record = &config.records[at];
            let key = self.key(record, &keys);
            keys[at] = Some(key);
            for result in &record.results {
                let place = *places.entry(&result.layers).or_insert_with(|| {
                    let chain = config.chain(&result.layers);
                    let whole = !chain.is_empty() && chain.iter().all(has);
                    whole.then(|| {
                        self.chains.push(chain);
                        self.chains.len() - 1
                    })
                });
                let Some(place) = place else { continue };
                self.records.entry(key).or_default().push(Record {
                    key,
                    result: ResultId::new(format!("{origin}#{place}")),
                    created_at: result.created_at,
                });
            }
        }
        for records in self.records.values_mut() {
            records.sort_by_key(|record| std::cmp::Reverse(record.created_at));
            records.dedup_by(|a, b| a.result == b.result);
        }
    }

    /// Blobs of a result, lowest first; `None` where the result is not of this cache.
    #[must_use]
    pub fn chain(&self, result: &ResultId) -> Option<&[Digest]> {
        let (_, place) = result.as_str().rsplit_once('#')?;
        let place: usize = place.parse().ok()?;
        self.chains.get(place).map(Vec::as_slice)
    }

    /// True where it knows no result.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn key(&mut self, record: &crate::config::Record, keys: &[Option<KeyId>]) -> KeyId {
        if record.inputs.is_empty() {
            return KeyId::from_bytes(*record.digest.as_bytes());
        }
        let ways: Vec<Vec<(KeyId, Option<Digest>)>> = record
            .inputs
            .iter()
            .map(|input| {
                let ways = input.iter();
                ways.filter_map(|i| Some((keys[i.record]?, i.selector)))
                    .collect()
            })
            .collect();
        let key = KeyId::derived(&record.digest, &ways);
        for (input, ways) in ways.iter().enumerate() {
            for &(from, selector) in ways {
                let link = Link {
                    input: u32::try_from(input).unwrap_or(u32::MAX),
                    step: record.digest,
                    selector,
                };
                let targets = self.links.entry((from, link)).or_default();
                if !targets.contains(&key) {
                    targets.push(key);
                    self.back.entry(key).or_default().push((from, link));
                    if from != key {
                        self.leads.insert(from);
                    }
                }
            }
        }
        key
    }
}

impl KeyIndex for Index {
    fn contains(&self, key: &KeyId) -> bool {
        self.records.contains_key(key) || self.leads.contains(key)
    }

    fn targets(&self, from: &KeyId, link: &Link) -> Vec<KeyId> {
        self.links.get(&(*from, *link)).cloned().unwrap_or_default()
    }

    fn backlinks(&self, to: &KeyId) -> Vec<(KeyId, Link)> {
        self.back.get(to).cloned().unwrap_or_default()
    }

    fn records(&self, key: &KeyId) -> Vec<Record> {
        self.records.get(key).cloned().unwrap_or_default()
    }

    fn parts(&self, _key: &KeyId) -> Option<KeyParts> {
        None
    }
}
