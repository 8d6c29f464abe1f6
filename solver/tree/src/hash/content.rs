//! The merged contents of a stack of indices: looking a path up through links, listing a directory, and BuildKit's
//! recursive checksum of a directory. Reads files only to take digests that no index has yet.

use std::collections::VecDeque;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::index::{LayerIndex, NodeId, NodeKind, Sum};
use crate::error::{Error, Result};
use crate::layer::Layer;

const MAX_LINKS: usize = 255;

/// A layer with its index.
#[derive(Debug, Clone)]
pub struct Indexed {
    /// The directory.
    pub layer: Arc<Layer>,
    /// What it holds.
    pub index: Arc<LayerIndex>,
}

impl Indexed {
    /// Scans a layer.
    pub fn scan(layer: &Arc<Layer>) -> Result<Self> {
        let index = Arc::new(LayerIndex::scan(layer)?);
        Ok(Self {
            layer: Arc::clone(layer),
            index,
        })
    }
}

/// The contents of a stack, bottom layer first.
#[derive(Debug, Clone, Default)]
pub struct Content {
    layers: Vec<Indexed>,
}

/// An entry of the merged contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// Not a directory.
    Leaf(usize, NodeId),
    /// A directory: its entries in the layers that it merges, top first.
    Dir(Vec<(usize, NodeId)>),
}

impl Found {
    /// Where its attributes are.
    pub(super) fn top(&self) -> (usize, NodeId) {
        match self {
            Self::Leaf(layer, node) => (*layer, *node),
            Self::Dir(parts) => parts[0],
        }
    }
}

impl Content {
    /// Of indexed layers, bottom first.
    #[must_use]
    pub fn new(layers: Vec<Indexed>) -> Self {
        Self { layers }
    }

    /// Whether it has no layer at all, not even an empty one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    pub(super) fn root(&self) -> Found {
        Found::Dir(
            (0..self.layers.len())
                .rev()
                .map(|layer| (layer, 0))
                .collect(),
        )
    }

    fn kind(&self, (layer, node): (usize, NodeId)) -> NodeKind {
        self.layers[layer].index.kind(node)
    }

    pub(super) fn is_symlink(&self, found: &Found) -> bool {
        self.kind(found.top()) == NodeKind::Symlink
    }

    /// Names and entries of a directory, sorted by name.
    pub(super) fn list(&self, parts: &[(usize, NodeId)]) -> Vec<(&[u8], Found)> {
        let mut all: Vec<(&[u8], usize, usize, NodeId)> = Vec::new();
        for (order, (layer, dir)) in parts.iter().enumerate() {
            let index = &self.layers[*layer].index;
            all.extend(
                index
                    .children(*dir)
                    .map(|node| (index.name(node), order, *layer, node)),
            );
        }
        if parts.len() > 1 {
            all.sort_unstable();
        }
        let groups = all.chunk_by(|a, b| a.0 == b.0);
        groups
            .filter_map(|group| Some((group[0].0, self.merge(group)?)))
            .collect()
    }

    fn merge(&self, group: &[(&[u8], usize, usize, NodeId)]) -> Option<Found> {
        let mut dirs = Vec::new();
        for (_, _, layer, node) in group {
            match self.kind((*layer, *node)) {
                NodeKind::Leaf | NodeKind::Symlink if dirs.is_empty() => {
                    return Some(Found::Leaf(*layer, *node));
                }
                NodeKind::Whiteout | NodeKind::Leaf | NodeKind::Symlink => break,
                NodeKind::Dir => dirs.push((*layer, *node)),
                NodeKind::OpaqueDir => {
                    dirs.push((*layer, *node));
                    break;
                }
            }
        }
        (!dirs.is_empty()).then_some(Found::Dir(dirs))
    }

    fn child(&self, parts: &[(usize, NodeId)], name: &[u8]) -> Option<Found> {
        let mut group = Vec::new();
        for (order, (layer, dir)) in parts.iter().enumerate() {
            let index = &self.layers[*layer].index;
            let found = index.children(*dir).find(|node| index.name(*node) == name);
            group.extend(found.map(|node| (name, order, *layer, node)));
        }
        self.merge(&group)
    }

    /// Follows a clean path (`/a/b`, or empty for the root), links inside the root only; `last` says whether the last
    /// component is followed too. Gives where it ends, even if nothing is there.
    pub(super) fn lookup(&self, path: &[u8], last: bool) -> Result<(Vec<u8>, Option<Found>)> {
        let mut rest: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut seen = vec![Some(self.root())];
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                names.pop();
                seen.truncate(names.len() + 1);
                continue;
            }
            let found = match seen.last() {
                Some(Some(Found::Dir(parts))) => self.child(parts, &name),
                _ => None,
            };
            let link = found.as_ref().filter(|found| self.is_symlink(found));
            let Some(link) = link.filter(|_| last || !rest.is_empty()) else {
                names.push(name);
                seen.push(found);
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::TooManyLinks(
                    String::from_utf8_lossy(path).into_owned().into(),
                ));
            }
            let (layer, node) = link.top();
            let target = self.layers[layer].index.target(node);
            if target.starts_with(b"/") {
                names.clear();
                seen.truncate(1);
            }
            for part in components(target).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(part.to_vec());
            }
        }
        let found = seen.pop().flatten();
        let path = names
            .iter()
            .flat_map(|name| [&b"/"[..], name])
            .collect::<Vec<_>>()
            .concat();
        Ok((path, found))
    }

    /// Takes the digests of entries, where they have not been.
    pub(super) fn complete(&self, wanted: &[(usize, NodeId)]) -> Result<()> {
        let mut by_layer = vec![Vec::new(); self.layers.len()];
        for (layer, node) in wanted {
            by_layer[*layer].push(*node);
        }
        for (layer, wanted) in self.layers.iter().zip(&by_layer) {
            if !wanted.is_empty() {
                layer.index.complete(&layer.layer, wanted)?;
            }
        }
        Ok(())
    }

    pub(super) fn sum(&self, (layer, node): (usize, NodeId)) -> Result<Sum> {
        let sum = self.layers[layer].index.sum(node);
        sum.copied().ok_or(Error::Index("digest was not taken"))
    }

    /// The checksum of an entry with everything below it.
    pub(super) fn recursive(&self, found: &Found) -> Result<Sum> {
        let mut wanted = Vec::new();
        self.collect(found, &mut wanted);
        self.complete(&wanted)?;
        self.fold(found)
    }

    fn collect(&self, found: &Found, wanted: &mut Vec<(usize, NodeId)>) {
        wanted.push(found.top());
        if let Found::Dir(parts) = found {
            for (_, child) in self.list(parts) {
                self.collect(&child, wanted);
            }
        }
    }

    fn fold(&self, found: &Found) -> Result<Sum> {
        let own = self.sum(found.top())?;
        let Found::Dir(parts) = found else {
            return Ok(own);
        };
        let mut hash = Sha256::new_with_prefix(b"\0");
        hash.update(text(own));
        for (name, child) in self.list(parts) {
            hash.update(b"\0");
            hash.update(name);
            hash.update(text(self.fold(&child)?));
        }
        Ok(hash.finalize().into())
    }
}

/// A digest as it is hashed into others: `sha256:` and hex digits.
pub(super) fn text(sum: Sum) -> [u8; 71] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 71];
    text[..7].copy_from_slice(b"sha256:");
    for (pair, byte) in text[7..].chunks_exact_mut(2).zip(sum) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
}
