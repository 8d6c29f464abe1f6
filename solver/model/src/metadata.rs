//! What is known of a source beside its content. Plain data; how it is found out is decided elsewhere.

use bytes::Bytes;

use crate::Digest;

/// What is known of a source beside its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceMeta {
    /// An image.
    Image(ImageMeta),
    /// A git reference.
    Git(GitMeta),
    /// A file on the web.
    Http(HttpMeta),
}

/// What an image reference names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageMeta {
    /// Digest of what the reference names (an index where it is one).
    pub digest: Digest,
    /// The configuration's bytes; empty where nobody asked.
    pub config: Bytes,
}

/// What a git reference names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitMeta {
    /// Commit or annotated tag.
    pub checksum: String,
    /// Full reference.
    pub reference: String,
    /// Commit behind an annotated tag.
    pub commit_checksum: Option<String>,
    /// The objects, where they were asked for.
    pub objects: Option<GitObjects>,
}

/// Objects of a git reference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitObjects {
    /// The commit.
    pub commit: String,
    /// The annotated tag.
    pub tag: Option<String>,
    /// When the commit was made, in seconds since 1970.
    pub committed: i64,
}

/// What a URL gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpMeta {
    /// Digest of the content.
    pub checksum: Digest,
    /// Name of the file.
    pub filename: String,
    /// When it was changed, in seconds since 1970.
    pub last_modified: Option<i64>,
}
