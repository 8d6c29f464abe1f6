//! Identity of cache keys and the links between them. A key is reached from a key of *every* input through that input's
//! link; it decides no storage.
//!
//! ```text
//! root key        sha256("<digest>@<output>")            sources, content keys (output -1)
//! link            (input, step, selector)  with  step = sha256("<op digest>@<output>")
//! derived key     the first set of links that led to it, hashed; later links may lead to it too
//! ```

use std::fmt;

use sha2::{Digest as _, Sha256};
use shipway_model::Digest;

/// Identity of one cache key: of one output of one step on inputs with certain keys, or of some content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// Key of an output of a step without inputs.
    #[must_use]
    pub fn root(digest: &Digest, output: usize) -> Self {
        Self(*step(digest, output).as_bytes())
    }

    /// Key of content, whatever made it.
    #[must_use]
    pub fn content(digest: &Digest) -> Self {
        Self(*Digest::of(format!("{digest}@-1")).as_bytes())
    }

    /// Key of a step's output that these links lead to: `links[i]` are the keys of input `i`, with their selectors.
    #[must_use]
    pub fn derived(step: &Digest, links: &[Vec<(Self, Option<Digest>)>]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"shipway.key.v0\0");
        hasher.update(step.as_bytes());
        for (input, keys) in links.iter().enumerate() {
            let mut keys = keys.clone();
            keys.sort_unstable();
            keys.dedup();
            hasher.update(u64::try_from(input).unwrap_or(u64::MAX).to_be_bytes());
            for (key, selector) in keys {
                hasher.update(key.0);
                hasher.update(selector.map_or([0; 32], |s| *s.as_bytes()));
            }
        }
        Self(hasher.finalize().into())
    }

    /// A key from the 32 bytes of one.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Digest::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Digest of one output of an operation, as a cache manifest writes it.
#[must_use]
pub fn step(digest: &Digest, output: usize) -> Digest {
    Digest::of(format!("{digest}@{output}"))
}

/// How a key of an input contributes to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    /// Which input.
    pub input: u32,
    /// The operation and its output: [`step`].
    pub step: Digest,
    /// The part of the input that is used; `None` for all of it, and for content keys.
    pub selector: Option<Digest>,
}

/// A link between two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkRow {
    /// Key of the input.
    pub from: KeyId,
    /// How it contributes.
    pub link: Link,
    /// Key that it leads to.
    pub to: KeyId,
}

/// What a key was made of: named parts, so that two keys can be compared part by part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyParts(pub Vec<(String, String)>);
