//! What a layer holds, for checksums: names, kinds and link targets of all entries in the order of a walk, and the
//! digest of each one that has been asked for. Digests are taken in parallel and only once; an index survives as
//! bytes, because a committed layer never changes. It knows nothing of other layers.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::Digest as _;

use super::header;
use crate::error::{Context, Error, Result, shown};
use crate::layer::{self, Layer};
use crate::stat::Kind;

/// Position of an entry in an index; the root is 0.
pub type NodeId = u32;

/// sha256 of an entry.
pub type Sum = [u8; 32];

const AT_ONCE: usize = 32;
const READ: usize = 64 << 10;
const MAGIC: &[u8; 8] = b"SWINDEX1";

/// Kind of an entry, as far as checksums care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// Anything that has no entries below it and is no link.
    Leaf,
    /// Symbolic link.
    Symlink,
    /// Directory.
    Dir,
    /// Directory that hides those of lower layers.
    OpaqueDir,
    /// Mark of a removal.
    Whiteout,
}

impl NodeKind {
    const ALL: [Self; 5] = [
        Self::Leaf,
        Self::Symlink,
        Self::Dir,
        Self::OpaqueDir,
        Self::Whiteout,
    ];

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(self) -> bool {
        matches!(self, Self::Dir | Self::OpaqueDir)
    }
}

#[derive(Debug, Clone, Copy)]
struct Node {
    kind: NodeKind,
    parent: NodeId,
    /// The first entry after everything below this one.
    next: NodeId,
    name: (u32, u32),
    target: (u32, u32),
}

/// An index of one layer.
#[derive(Debug, Default)]
pub struct LayerIndex {
    nodes: Vec<Node>,
    text: Vec<u8>,
    sums: Vec<OnceLock<Sum>>,
}

impl LayerIndex {
    /// Reads the names of a layer; no file is opened yet.
    pub fn scan(layer: &Layer) -> Result<Self> {
        let mut index = Builder::default();
        let root = Path::new("");
        index.open(b"", layer.is_opaque(root)?);
        scan_dir(layer, root, &mut index)?;
        index.close();
        Ok(index.finish())
    }

    /// Entries, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is not even a root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn kind(&self, node: NodeId) -> NodeKind {
        self.nodes[node as usize].kind
    }

    pub(super) fn name(&self, node: NodeId) -> &[u8] {
        self.slice(self.nodes[node as usize].name)
    }

    pub(super) fn target(&self, node: NodeId) -> &[u8] {
        self.slice(self.nodes[node as usize].target)
    }

    fn slice(&self, (from, len): (u32, u32)) -> &[u8] {
        &self.text[from as usize..][..len as usize]
    }

    /// The entries of a directory, sorted by name.
    pub(super) fn children(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let end = self.nodes[node as usize].next;
        let first = (node + 1 < end).then_some(node + 1);
        std::iter::successors(first, move |at| {
            Some(self.nodes[*at as usize].next).filter(|next| *next < end)
        })
    }

    /// The digest of an entry (of a directory: of its attributes), if it has been taken.
    pub(super) fn sum(&self, node: NodeId) -> Option<&Sum> {
        self.sums[node as usize].get()
    }

    fn path(&self, mut node: NodeId) -> PathBuf {
        let mut names = Vec::new();
        while node != 0 {
            names.push(self.name(node));
            node = self.nodes[node as usize].parent;
        }
        names.reverse();
        PathBuf::from(std::ffi::OsString::from_vec(names.join(&b'/')))
    }

    /// Sets the digests of files that are known from elsewhere, by path.
    pub fn learn(&self, sums: &HashMap<PathBuf, Sum>) {
        let count = NodeId::try_from(self.nodes.len()).unwrap_or(NodeId::MAX);
        let leaves = (0..count).filter(|&node| self.kind(node) == NodeKind::Leaf);
        for node in leaves {
            if let Some(sum) = sums.get(&self.path(node)) {
                self.sums[node as usize].get_or_init(|| *sum);
            }
        }
    }

    /// Takes those digests that have not been taken, with as many threads as there are processors.
    ///
    /// # Panics
    /// Never: threads that hash do not.
    pub fn complete(&self, layer: &Layer, wanted: &[NodeId]) -> Result<()> {
        let missing = |node: &&NodeId| self.sum(**node).is_none();
        let wanted: Vec<NodeId> = wanted.iter().filter(missing).copied().collect();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(wanted.len().div_ceil(AT_ONCE)).max(1);
        let cursor = AtomicUsize::new(0);
        thread::scope(|scope| {
            let run = || self.complete_some(layer, &wanted, &cursor);
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
            let mine = run();
            let others = others
                .into_iter()
                .map(|other| other.join().expect("hashing does not panic"));
            others.fold(mine, Result::and)
        })
    }

    fn complete_some(&self, layer: &Layer, wanted: &[NodeId], cursor: &AtomicUsize) -> Result<()> {
        let mut buffer = vec![0; READ];
        loop {
            let from = cursor.fetch_add(AT_ONCE, Ordering::Relaxed);
            let Some(some) = wanted.get(from..) else {
                return Ok(());
            };
            for &node in &some[..some.len().min(AT_ONCE)] {
                let sum = self.take_sum(layer, node, &mut buffer)?;
                self.sums[node as usize].get_or_init(|| sum);
            }
        }
    }

    fn take_sum(&self, layer: &Layer, node: NodeId, buffer: &mut [u8]) -> Result<Sum> {
        let path = self.path(node);
        let Some(stat) = layer.stat(&path)? else {
            return Err(Error::io("lstat", shown(&path), rustix::io::Errno::NOENT));
        };
        if stat.kind != Kind::File {
            let xattrs = layer.xattrs(&path)?;
            return Ok(header::start(&stat, self.target(node), &xattrs)
                .finalize()
                .into());
        }
        let mut file = layer.open_file(&path)?;
        let xattrs = layer::xattrs_of(&file, &path)?;
        let mut hash = header::start(&stat, b"", &xattrs);
        let mut left = stat.size;
        while left > 0 {
            let got = file.read(buffer).on("read", &path)?;
            if got == 0 {
                break;
            }
            hash.update(&buffer[..got]);
            left = left.saturating_sub(got as u64);
        }
        Ok(hash.finalize().into())
    }

    /// The index as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        out.extend_from_slice(&count(self.nodes.len()));
        out.extend_from_slice(&count(self.text.len()));
        for (node, sum) in self.nodes.iter().zip(&self.sums) {
            out.push(node.kind as u8 | u8::from(sum.get().is_some()) << 7);
            for value in [
                node.parent,
                node.next,
                node.name.0,
                node.name.1,
                node.target.0,
                node.target.1,
            ] {
                out.extend_from_slice(&value.to_le_bytes());
            }
            out.extend_from_slice(sum.get().map_or(&[][..], |sum| sum));
        }
        out.extend_from_slice(&self.text);
        out
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut input = Input(
            bytes
                .strip_prefix(MAGIC)
                .ok_or(Error::Index("unknown format"))?,
        );
        let (count, text) = (input.number()?, input.number()? as usize);
        let mut index = Self::default();
        for at in 0..count {
            let flags = input.take(1)?[0];
            let kind = NodeKind::ALL.get(usize::from(flags & 0x7f)).copied();
            let kind = kind.ok_or(Error::Index("unknown kind"))?;
            let (parent, next) = (input.number()?, input.number()?);
            let name = (input.number()?, input.number()?);
            let target = (input.number()?, input.number()?);
            let fits = |(from, len): (u32, u32)| from as usize + len as usize <= text;
            if next <= at
                || next > count
                || parent > at.saturating_sub(1)
                || !fits(name)
                || !fits(target)
            {
                return Err(Error::Index("entry out of range"));
            }
            index.nodes.push(Node {
                kind,
                parent,
                next,
                name,
                target,
            });
            let sum = OnceLock::new();
            if flags & 0x80 != 0 {
                let value = input
                    .take(32)?
                    .try_into()
                    .map_err(|_| Error::Index("too short"))?;
                sum.get_or_init(|| value);
            }
            index.sums.push(sum);
        }
        index.text = input.take(text)?.to_vec();
        Ok(index)
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(Error::Index("too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32> {
        let bytes = self
            .take(4)?
            .try_into()
            .map_err(|_| Error::Index("too short"))?;
        Ok(u32::from_le_bytes(bytes))
    }
}

fn scan_dir(layer: &Layer, rel: &Path, index: &mut Builder) -> Result<()> {
    let mut entries = layer.entries(rel)?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in entries {
        let (path, name) = (rel.join(&entry.name), entry.name.as_bytes());
        match entry.kind {
            Kind::Dir => {
                index.open(name, layer.is_opaque(&path)?);
                scan_dir(layer, &path, index)?;
                index.close();
            }
            Kind::Symlink => index.leaf(name, NodeKind::Symlink, &layer.read_link(&path)?, None),
            Kind::CharDevice if layer.stat(&path)?.is_some_and(|stat| stat.is_whiteout()) => {
                index.leaf(name, NodeKind::Whiteout, b"", None);
            }
            _ => index.leaf(name, NodeKind::Leaf, b"", None),
        }
    }
    Ok(())
}

/// Makes an index from entries in the order of a walk, siblings sorted by name.
#[derive(Debug, Default)]
pub struct Builder {
    index: LayerIndex,
    open: Vec<NodeId>,
}

impl Builder {
    fn push(&mut self, name: &[u8], kind: NodeKind, target: &[u8]) -> NodeId {
        let number = |value: usize| u32::try_from(value).expect("an index stays below 4 GiB");
        let text = &mut self.index.text;
        let mut span = |bytes: &[u8]| {
            let at = text.len();
            text.extend_from_slice(bytes);
            (number(at), number(bytes.len()))
        };
        let (name, target) = (span(name), span(target));
        let id = number(self.index.nodes.len());
        let parent = self.open.last().copied().unwrap_or(0);
        self.index.nodes.push(Node {
            kind,
            parent,
            next: id + 1,
            name,
            target,
        });
        self.index.sums.push(OnceLock::new());
        id
    }

    /// Begins a directory; what follows until [`Self::close`] is in it. The first one is the root.
    pub fn open(&mut self, name: &[u8], opaque: bool) -> NodeId {
        let kind = if opaque {
            NodeKind::OpaqueDir
        } else {
            NodeKind::Dir
        };
        let id = self.push(name, kind, b"");
        self.open.push(id);
        id
    }

    /// Ends the directory that was begun last.
    ///
    /// # Panics
    /// With more than 4 thousand million entries.
    pub fn close(&mut self) {
        if let Some(dir) = self.open.pop() {
            self.index.nodes[dir as usize].next =
                u32::try_from(self.index.nodes.len()).expect("an index stays below 4 GiB");
        }
    }

    /// Adds an entry that has none below it.
    pub fn leaf(&mut self, name: &[u8], kind: NodeKind, target: &[u8], sum: Option<Sum>) {
        let id = self.push(name, kind, target);
        self.set(id, sum);
    }

    /// Sets the digest of an entry.
    pub fn set(&mut self, id: NodeId, sum: Option<Sum>) {
        if let Some(sum) = sum {
            self.index.sums[id as usize].get_or_init(|| sum);
        }
    }

    /// The index.
    #[must_use]
    pub fn finish(mut self) -> LayerIndex {
        while !self.open.is_empty() {
            self.close();
        }
        self.index
    }
}
