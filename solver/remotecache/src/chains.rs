//! Keys of a build as a cache configuration: what the key store tells, without loops, without doubles, in an order that
//! depends on nothing but the keys and results. It knows no blobs beyond their digests.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use shipway_cache::export::ExportedLink;
use shipway_model::Digest;

use crate::config::{CachedResult, Config, Input, Layer, Layers, Record};

/// A key of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The step with its output, or the content.
    pub digest: Digest,
    /// Per input, which entries lead here.
    pub inputs: Vec<Vec<ExportedLink>>,
    /// Layers of its result, lowest first, and when it was made.
    pub result: Option<(Vec<LayerName>, Timestamp)>,
}

/// Names a layer of a result: its blob.
pub type LayerName = Digest;

/// The configuration of these keys. Links that close a loop are left out. Keys without a result stay:
/// BuildKit keeps them too, and a later export through this cache may have one.
#[must_use]
pub fn assemble(entries: &[Entry]) -> Config {
    let mut stack = LayerStack::default();
    let records = records(entries, &mut |blobs| stack.top(blobs).map(Layers::Top));
    sorted(Config {
        layers: stack.layers,
        records,
    })
}

/// The configuration over an image's layers, lowest first. A result with a layer that the image lacks is left out.
#[must_use]
pub fn assemble_inline(entries: &[Entry], image: &[LayerName]) -> Config {
    let records = records(entries, &mut |blobs| {
        if blobs.is_empty() {
            return None;
        }
        if image.starts_with(blobs) {
            return Some(Layers::Top(blobs.len() - 1));
        }
        let at = |blob: &Digest| image.iter().position(|of| of == blob);
        let each: Option<Vec<usize>> = blobs.iter().map(at).collect();
        each.map(Layers::Each)
    });
    let layers = image.iter().enumerate().map(|(at, blob)| Layer {
        blob: *blob,
        parent: at.checked_sub(1),
    });
    Config {
        layers: layers.collect(),
        records,
    }
}

/// The layers that results are made of, each once per what it stands on.
#[derive(Default)]
struct LayerStack {
    layers: Vec<Layer>,
    at: HashMap<Layer, usize>,
}

impl LayerStack {
    fn top(&mut self, blobs: &[Digest]) -> Option<usize> {
        blobs.iter().fold(None, |parent, blob| {
            let layer = Layer {
                blob: *blob,
                parent,
            };
            let fresh = self.layers.len();
            let at = *self.at.entry(layer.clone()).or_insert(fresh);
            if at == fresh {
                self.layers.push(layer);
            }
            Some(at)
        })
    }
}

type Place<'a> = &'a mut dyn FnMut(&[LayerName]) -> Option<Layers>;

fn records(entries: &[Entry], place: Place<'_>) -> Vec<Record> {
    let links = without_loops(entries);
    let mut named: Vec<Named> = Vec::new();
    let mut by_name: HashMap<Digest, usize> = HashMap::new();
    let mut at: Vec<Option<usize>> = vec![None; entries.len()];
    for entry in links.order {
        let inputs: Vec<BTreeSet<Input>> = links.inputs[entry]
            .iter()
            .map(|input| input.iter().filter_map(|link| renamed(link, &at)).collect())
            .collect();
        let digest = entries[entry].digest;
        let name = name(&digest, &inputs, &named);
        let place = *by_name.entry(name).or_insert(named.len());
        if place == named.len() {
            named.push(Named {
                name,
                digest,
                inputs,
                result: None,
            });
        }
        at[entry] = Some(place);
        newest(&mut named[place].result, entries[entry].result.as_ref());
    }
    finish(&named, place)
}

/// A record on its way: its name tells it from all others.
struct Named {
    name: Digest,
    digest: Digest,
    inputs: Vec<BTreeSet<Input>>,
    result: Option<(Vec<LayerName>, Timestamp)>,
}

fn renamed(link: &ExportedLink, at: &[Option<usize>]) -> Option<Input> {
    let record = at[link.from]?;
    let selector = link.selector;
    Some(Input { record, selector })
}

/// What a record is: its digest and what leads to it, by name.
fn name(digest: &Digest, inputs: &[BTreeSet<Input>], named: &[Named]) -> Digest {
    let mut text = digest.to_string();
    for input in inputs {
        let mut names: Vec<String> = input
            .iter()
            .map(|i| format!("{} {:?}", named[i.record].name, i.selector))
            .collect();
        names.sort_unstable();
        text.push('\n');
        text.push_str(&names.join(","));
    }
    Digest::of(text)
}

type Made = (Vec<LayerName>, Timestamp);

fn newest(known: &mut Option<Made>, other: Option<&Made>) {
    let Some(other) = other else { return };
    let newer = known
        .as_ref()
        .is_none_or(|known| (other.1, &known.0) > (known.1, &other.0));
    if newer {
        *known = Some(other.clone());
    }
}

/// Puts records in order.
fn finish(named: &[Named], place: Place<'_>) -> Vec<Record> {
    let mut order: Vec<usize> = (0..named.len()).collect();
    order.sort_by_key(|&at| (named[at].digest, named[at].name));
    let mut moved = vec![0; named.len()];
    for (new, &old) in order.iter().enumerate() {
        moved[old] = new;
    }
    let mut records = Vec::with_capacity(named.len());
    for at in order {
        let each = &named[at];
        let made = each.result.as_ref();
        let result = made.and_then(|(blobs, created_at)| {
            Some(CachedResult {
                layers: place(blobs)?,
                created_at: *created_at,
            })
        });
        let inputs = each.inputs.iter().map(|input| {
            let mut input: Vec<Input> = input.iter().copied().collect();
            for each in &mut input {
                each.record = moved[each.record];
            }
            input.sort_unstable();
            input
        });
        records.push(Record {
            digest: each.digest,
            inputs: inputs.collect(),
            results: result.into_iter().collect(),
        });
    }
    records
}

/// Layers by blob, and those of one blob by what they stand on.
fn sorted(mut config: Config) -> Config {
    let mut names: Vec<Digest> = Vec::with_capacity(config.layers.len());
    for layer in &config.layers {
        let below = layer
            .parent
            .map_or_else(String::new, |at| names[at].to_string());
        names.push(Digest::of(format!("{below} {}", layer.blob)));
    }
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|&at| (config.layers[at].blob, names[at]));
    let mut place = vec![0; order.len()];
    for (new, &old) in order.iter().enumerate() {
        place[old] = new;
    }
    let moved = order.iter().map(|&old| Layer {
        blob: config.layers[old].blob,
        parent: config.layers[old].parent.map(|at| place[at]),
    });
    config.layers = moved.collect();
    for result in config.records.iter_mut().flat_map(|r| &mut r.results) {
        match &mut result.layers {
            Layers::Top(at) => *at = place[*at],
            Layers::Each(each) => {
                for at in each {
                    *at = place[*at];
                }
            }
        }
    }
    config
}

/// Links between entries that form no loop, and the entries that all inputs lead to, inputs first.
struct Links {
    inputs: Vec<Vec<Vec<ExportedLink>>>,
    order: Vec<usize>,
}

fn without_loops(entries: &[Entry]) -> Links {
    let count = entries.len();
    let mut inputs: Vec<Vec<Vec<ExportedLink>>> = vec![Vec::new(); count];
    let mut complete = vec![false; count];
    // Links are taken from entries that are complete; nothing has a link from one that is not, so that none closes a loop.
    loop {
        let before = complete.iter().filter(|&&done| done).count();
        for at in 0..count {
            if complete[at] {
                continue;
            }
            let usable = |link: &&ExportedLink| complete.get(link.from) == Some(&true);
            let taken: Vec<Vec<ExportedLink>> = entries[at]
                .inputs
                .iter()
                .map(|input| input.iter().filter(usable).cloned().collect())
                .collect();
            if taken.iter().all(|input| !input.is_empty()) {
                inputs[at] = taken;
                complete[at] = true;
            }
        }
        if complete.iter().filter(|&&done| done).count() == before {
            break;
        }
    }
    for at in (0..count).filter(|&at| complete[at]) {
        for (input, links) in entries[at].inputs.iter().enumerate() {
            for link in links {
                let usable = complete.get(link.from) == Some(&true);
                let new = usable && !inputs[at][input].contains(link);
                if new && !stands_on(&inputs, link.from, at) {
                    inputs[at][input].push(link.clone());
                }
            }
        }
    }
    let order = in_order(&inputs, &complete);
    Links { inputs, order }
}

/// True where `upper` is `lower`, or something leads from `lower` to it.
fn stands_on(inputs: &[Vec<Vec<ExportedLink>>], upper: usize, lower: usize) -> bool {
    let mut seen = vec![false; inputs.len()];
    let mut open = vec![upper];
    while let Some(at) = open.pop() {
        if at == lower {
            return true;
        }
        if !std::mem::replace(&mut seen[at], true) {
            open.extend(inputs[at].iter().flatten().map(|link| link.from));
        }
    }
    false
}

fn in_order(inputs: &[Vec<Vec<ExportedLink>>], complete: &[bool]) -> Vec<usize> {
    let mut order = Vec::new();
    let mut placed = vec![false; inputs.len()];
    let mut open: Vec<(usize, bool)> = (0..inputs.len())
        .rev()
        .filter(|&at| complete[at])
        .map(|at| (at, false))
        .collect();
    while let Some((at, inputs_done)) = open.pop() {
        if placed[at] {
            continue;
        }
        if inputs_done {
            placed[at] = true;
            order.push(at);
            continue;
        }
        open.push((at, true));
        open.extend(inputs[at].iter().flatten().map(|link| (link.from, false)));
    }
    order
}
