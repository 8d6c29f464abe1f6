//! Keys and links in the order a cache manifest wants them: sources before what follows. It decides no wire form and
//! loads no result.

use std::collections::HashMap;

use shipway_model::Digest;

use crate::{KeyId, KeyIndex, Record};

/// One key of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The key.
    pub key: KeyId,
    /// The step's digest with its output, as a cache manifest's record has it.
    pub digest: Digest,
    /// Per input, which entries of the export lead here, and with what selector.
    pub inputs: Vec<Vec<ExportedLink>>,
    /// Results, newest first. A source's may be left out by an exporter that exports no sources.
    pub records: Vec<Record>,
}

/// A link of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedLink {
    /// Position in the export of the entry that leads here.
    pub from: usize,
    /// The part of the input that is used.
    pub selector: Option<Digest>,
}

/// Adds the other ways by which a store knows the keys of an export: keys of earlier builds that lead to them. Added
/// entries stand after the given ones, and links to them may point forward. They bring no results: those are other builds'.
pub fn add_other_ways(index: &dyn KeyIndex, exported: &mut Vec<Exported>) {
    let positions = exported.iter().enumerate();
    let mut at: HashMap<KeyId, usize> = positions.map(|(at, e)| (e.key, at)).collect();
    let mut next = 0;
    while next < exported.len() {
        for (from, link) in index.backlinks(&exported[next].key) {
            if link.step != exported[next].digest {
                continue;
            }
            let from = *at.entry(from).or_insert_with(|| {
                exported.push(entry(index, from));
                exported.len() - 1
            });
            let link_to = ExportedLink {
                from,
                selector: link.selector,
            };
            let inputs = &mut exported[next].inputs;
            let input = link.input as usize;
            if inputs.len() <= input {
                inputs.resize_with(input + 1, Vec::new);
            }
            if !inputs[input].contains(&link_to) {
                inputs[input].push(link_to);
            }
        }
        next += 1;
    }
}

fn entry(index: &dyn KeyIndex, key: KeyId) -> Exported {
    let step = index.backlinks(&key).first().map(|(_, link)| link.step);
    Exported {
        key,
        // A key that nothing leads to is a root: its own digest.
        digest: step.unwrap_or_else(|| Digest::from_bytes(*key.as_bytes())),
        inputs: Vec::new(),
        records: Vec::new(),
    }
}
