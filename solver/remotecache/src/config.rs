//! The cache configuration as it is written: layers that stand on each other, records that lead to each other. It decides
//! what a valid one is; it knows no registry, no layer store and no engine.
//!
//! ```text
//! layers   [{blob, parent}]                      parent -1: stands on nothing
//! records  [{digest, inputs, layers, chains}]    inputs[i]: the records that may stand at input i, with selectors
//! ```
//!
//! BuildKit v0.33 `cache/remotecache/v1/types`. Its Go code leaves out what is zero, so that a missing `parent` is layer 0.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shipway_model::Digest;

/// Media type of a cache configuration.
pub const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Largest configuration that is read, in bytes. BuildKit itself reads no more than 1 MiB.
pub const CONFIG_LIMIT: u64 = 16 << 20;

/// Most layers that stand on each other.
const DEEPEST: usize = 4096;

/// Why a cache configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// Not the JSON of one.
    #[error("parsing a cache configuration")]
    Json(#[from] serde_json::Error),
    /// A number names nothing.
    #[error("invalid {what} {index} in a cache configuration")]
    Dangling {
        /// What it should name: `layer index`, `record ID`.
        what: &'static str,
        /// The number.
        index: i64,
    },
    /// Things stand on themselves.
    #[error("invalid looping {what} {index} in a cache configuration")]
    Loop {
        /// Layer or record.
        what: &'static str,
        /// One of those in the loop.
        index: usize,
    },
    /// A selector that is no digest.
    #[error("invalid selector {selector:?} of record {record} in a cache configuration")]
    Selector {
        /// The record.
        record: usize,
        /// The text.
        selector: String,
    },
    /// An input without anything that could stand there.
    #[error("invalid empty input for record {0} in a cache configuration")]
    EmptyInput(usize),
    /// Layers stand on each other too high.
    #[error("layer {0} of a cache configuration stands on more than {DEEPEST} others")]
    TooDeep(usize),
}

/// A valid cache configuration: every index names something and nothing stands on itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Layers.
    pub layers: Vec<Layer>,
    /// Records.
    pub records: Vec<Record>,
}

/// A layer on others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Layer {
    /// The blob.
    pub blob: Digest,
    /// Position of the layer that it stands on.
    pub parent: Option<usize>,
}

/// One cache key with its results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The step with its output, or the content: `sha256("<digest>@<output>")`.
    pub digest: Digest,
    /// Per input, what may stand there. None of the lists is empty.
    pub inputs: Vec<Vec<Input>>,
    /// Results.
    pub results: Vec<CachedResult>,
}

/// What may stand at an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Input {
    /// Position of the record.
    pub record: usize,
    /// The part of it that is used.
    pub selector: Option<Digest>,
}

/// A result of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedResult {
    /// Its layers.
    pub layers: Layers,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The layers of a result.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Layers {
    /// This layer and those below it.
    Top(usize),
    /// These, lowest first, whatever they say that they stand on.
    Each(Vec<usize>),
}

impl Config {
    /// Reads a configuration.
    pub fn decode(json: &[u8]) -> Result<Self, InvalidConfig> {
        let wire: WireConfig = serde_json::from_slice(json)?;
        Self::from_wire(wire)
    }

    /// Reads the records that an image's configuration carries, over the image's layers, lowest first.
    pub fn decode_inline(json: &[u8], layers: &[Digest]) -> Result<Self, InvalidConfig> {
        let layers = layers.iter().enumerate().map(|(at, blob)| WireLayer {
            blob: *blob,
            parent: i64::try_from(at).unwrap_or(i64::MAX) - 1,
        });
        Self::from_wire(WireConfig {
            layers: layers.collect(),
            records: serde_json::from_slice::<Option<Vec<WireRecord>>>(json)?.unwrap_or_default(),
        })
    }

    /// Writes the configuration, as Go's `encoding/json` does.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let wire = WireConfig {
            layers: self.layers.iter().map(WireLayer::from).collect(),
            records: self.records.iter().map(WireRecord::from).collect(),
        };
        serde_json::to_vec(&wire).expect("a cache configuration is JSON")
    }

    /// Writes the records alone, for an image's configuration.
    #[must_use]
    pub fn encode_inline(&self) -> Vec<u8> {
        let records: Vec<_> = self.records.iter().map(WireRecord::from).collect();
        serde_json::to_vec(&records).expect("records are JSON")
    }

    /// The blobs of a result, lowest first.
    #[must_use]
    pub fn chain(&self, layers: &Layers) -> Vec<Digest> {
        let mut chain: Vec<Digest> = match layers {
            Layers::Each(each) => each.iter().map(|&at| self.layers[at].blob).collect(),
            Layers::Top(top) => {
                let up = std::iter::successors(Some(*top), |&at| self.layers[at].parent);
                up.map(|at| self.layers[at].blob).collect()
            }
        };
        if matches!(layers, Layers::Top(_)) {
            chain.reverse();
        }
        chain
    }

    /// Positions of the records, inputs before what they lead to.
    #[must_use]
    pub fn in_order(&self) -> Vec<usize> {
        order(&self.records).expect("a valid configuration has no loops")
    }

    fn from_wire(wire: WireConfig) -> Result<Self, InvalidConfig> {
        let layers = layers(wire.layers)?;
        let count = wire.records.len();
        let records: Result<Vec<_>, _> = (0..)
            .zip(wire.records)
            .map(|(at, wire)| record(at, wire, layers.len(), count))
            .collect();
        let records = records?;
        order(&records)?;
        Ok(Self { layers, records })
    }
}

fn index(what: &'static str, index: i64, count: usize) -> Result<usize, InvalidConfig> {
    let found = usize::try_from(index).ok().filter(|&at| at < count);
    found.ok_or(InvalidConfig::Dangling { what, index })
}

fn layers(wire: Vec<WireLayer>) -> Result<Vec<Layer>, InvalidConfig> {
    let count = wire.len();
    let mut layers = Vec::with_capacity(count);
    for layer in wire {
        let parent = match layer.parent {
            -1 => None,
            parent => Some(index("layer index", parent, count)?),
        };
        let blob = layer.blob;
        layers.push(Layer { blob, parent });
    }
    let mut depth: Vec<usize> = vec![0; count];
    for at in 0..count {
        let mut way = Vec::new();
        let mut next = Some(at);
        while let Some(at) = next.filter(|&at| depth[at] == 0) {
            if way.len() > count {
                return Err(InvalidConfig::Loop {
                    what: "layer",
                    index: at,
                });
            }
            way.push(at);
            next = layers[at].parent;
        }
        let mut below = next.map_or(0, |at| depth[at]);
        for at in way.into_iter().rev() {
            below += 1;
            depth[at] = below;
            if below > DEEPEST {
                return Err(InvalidConfig::TooDeep(at));
            }
        }
    }
    Ok(layers)
}

fn record(
    at: usize,
    wire: WireRecord,
    layers: usize,
    records: usize,
) -> Result<Record, InvalidConfig> {
    let mut inputs = Vec::with_capacity(wire.inputs.len());
    for input in wire.inputs {
        let each: Result<Vec<_>, _> = input.into_iter().map(|i| i.valid(at, records)).collect();
        let each = each?;
        if each.is_empty() {
            return Err(InvalidConfig::EmptyInput(at));
        }
        inputs.push(each);
    }
    let mut results = Vec::new();
    for result in wire.layers {
        results.push(CachedResult {
            layers: Layers::Top(index("layer index", result.layer, layers)?),
            created_at: result.created_at,
        });
    }
    for result in wire.chains {
        if result.layers.len() > DEEPEST {
            return Err(InvalidConfig::TooDeep(at));
        }
        let each = result.layers.into_iter();
        let each: Result<Vec<_>, _> = each.map(|at| index("layer index", at, layers)).collect();
        results.push(CachedResult {
            layers: Layers::Each(each?),
            created_at: result.created_at,
        });
    }
    Ok(Record {
        digest: wire.digest,
        inputs,
        results,
    })
}

/// Positions of records, inputs before what they lead to; an error where records lead to themselves.
pub(crate) fn order(records: &[Record]) -> Result<Vec<usize>, InvalidConfig> {
    let mut missing: Vec<usize> = Vec::with_capacity(records.len());
    let mut leads_to: Vec<Vec<usize>> = vec![Vec::new(); records.len()];
    for (at, record) in records.iter().enumerate() {
        missing.push(record.inputs.iter().map(Vec::len).sum());
        for input in record.inputs.iter().flatten() {
            leads_to[input.record].push(at);
        }
    }
    let mut order: Vec<usize> = (0..records.len()).filter(|&at| missing[at] == 0).collect();
    let mut next = 0;
    while let Some(&at) = order.get(next) {
        next += 1;
        for &to in &leads_to[at] {
            missing[to] -= 1;
            if missing[to] == 0 {
                order.push(to);
            }
        }
    }
    match missing.iter().position(|&missing| missing > 0) {
        None => Ok(order),
        Some(index) => Err(InvalidConfig::Loop {
            what: "record",
            index,
        }),
    }
}

#[derive(Serialize, Deserialize)]
struct WireConfig {
    #[serde(
        default,
        deserialize_with = "listed",
        skip_serializing_if = "Vec::is_empty"
    )]
    layers: Vec<WireLayer>,
    #[serde(
        default,
        deserialize_with = "listed",
        skip_serializing_if = "Vec::is_empty"
    )]
    records: Vec<WireRecord>,
}

#[derive(Serialize, Deserialize)]
struct WireLayer {
    blob: Digest,
    #[serde(default, skip_serializing_if = "is_zero")]
    parent: i64,
}

#[derive(Serialize, Deserialize)]
struct WireRecord {
    #[serde(
        default,
        deserialize_with = "listed",
        skip_serializing_if = "Vec::is_empty"
    )]
    layers: Vec<WireResult>,
    #[serde(
        default,
        deserialize_with = "listed",
        skip_serializing_if = "Vec::is_empty"
    )]
    chains: Vec<WireChain>,
    digest: Digest,
    #[serde(
        default,
        deserialize_with = "listed",
        skip_serializing_if = "Vec::is_empty"
    )]
    inputs: Vec<Vec<WireInput>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireResult {
    #[serde(default)]
    layer: i64,
    created_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireChain {
    #[serde(default, deserialize_with = "listed")]
    layers: Vec<i64>,
    created_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct WireInput {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    selector: String,
    #[serde(default)]
    link: i64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the serializer hands over a reference"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Reads `null` as an empty list, as Go does.
fn listed<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn wire_index(at: usize) -> i64 {
    i64::try_from(at).expect("a list has fewer than 2^63 entries")
}

impl WireInput {
    fn valid(self, record: usize, records: usize) -> Result<Input, InvalidConfig> {
        let parsed = Some(&self.selector).filter(|text| !text.is_empty());
        let parsed = parsed.map(|text| text.parse()).transpose();
        let Ok(selector) = parsed else {
            let selector = self.selector;
            return Err(InvalidConfig::Selector { record, selector });
        };
        Ok(Input {
            record: index("record ID", self.link, records)?,
            selector,
        })
    }
}

impl From<&Layer> for WireLayer {
    fn from(layer: &Layer) -> Self {
        Self {
            blob: layer.blob,
            parent: layer.parent.map_or(-1, wire_index),
        }
    }
}

impl From<&Record> for WireRecord {
    fn from(record: &Record) -> Self {
        let mut wire = Self {
            layers: Vec::new(),
            chains: Vec::new(),
            digest: record.digest,
            inputs: Vec::new(),
        };
        for result in &record.results {
            let created_at = result.created_at;
            match &result.layers {
                Layers::Top(layer) => wire.layers.push(WireResult {
                    layer: wire_index(*layer),
                    created_at,
                }),
                Layers::Each(layers) => wire.chains.push(WireChain {
                    layers: layers.iter().copied().map(wire_index).collect(),
                    created_at,
                }),
            }
        }
        for input in &record.inputs {
            let each = input.iter().map(|input| WireInput {
                selector: input.selector.map_or_else(String::new, |s| s.to_string()),
                link: wire_index(input.record),
            });
            wire.inputs.push(each.collect());
        }
        wire
    }
}
