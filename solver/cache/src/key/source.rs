//! Keys of sources: by what they are, not by what they are called.

use shipway_model::{Digest, Platform};

use super::gojson::{Object, list, string};

/// Key of a source operation from its source's own key.
#[must_use]
pub fn source(key: &str) -> Digest {
    Digest::of(format!("buildkit.source.v0:{key}"))
}

/// Key of an image: the digest that its reference resolves to, of the index where it is one.
#[must_use]
pub fn image(target: &Digest, platform: &Platform, layer_limit: Option<usize>) -> Digest {
    let json = Object::new()
        .text("Digest", &target.to_string())
        .text("OS", &platform.os)
        .text("Arch", &platform.architecture)
        .string("Variant", &platform.variant)
        .string("OSVersion", &platform.os_version)
        .strings("OSFeatures", &platform.os_features)
        .optional("Limit", layer_limit.map(|limit| limit.to_string()))
        .end();
    source(&Digest::of(json).to_string())
}

/// A directory of a client.
#[derive(Debug, Clone, Copy)]
pub struct Local<'a> {
    /// Name of the directory.
    pub name: &'a str,
    /// Session that has it.
    pub session: &'a str,
    /// Only these.
    pub include: &'a [String],
    /// Not these.
    pub exclude: &'a [String],
    /// And what these lead to.
    pub follow: &'a [String],
    /// Names and attributes only.
    pub metadata_only: bool,
    /// With content after all.
    pub metadata_exceptions: &'a [String],
}

/// Key of a client's directory. It is never seen again: mark its cache map as volatile.
#[must_use]
pub fn local(of: &Local<'_>) -> Digest {
    let json = Object::new()
        .text("SessionID", of.session)
        .raw("IncludePatterns", &nullable(of.include))
        .raw("ExcludePatterns", &nullable(of.exclude))
        .raw("FollowPaths", &nullable(of.follow))
        .bool("MetadataTransfer", of.metadata_only)
        .strings("MetadataExceptions", of.metadata_exceptions)
        .end();
    source(&format!("session:{}:{}", of.name, Digest::of(json)))
}

/// Go writes a slice that was never made as null.
fn nullable(values: &[String]) -> String {
    if values.is_empty() {
        return "null".to_owned();
    }
    list(values.iter().map(|value| string(value)))
}

/// A file from the web.
#[derive(Debug, Clone, Copy)]
pub struct Http<'a> {
    /// Name that it is saved as.
    pub filename: &'a str,
    /// Permission bits; 0 for the default.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Digest of its content.
    pub digest: &'a Digest,
    /// `Last-Modified` as HTTP writes it; empty where unknown, or where the digest was given.
    pub last_modified: &'a str,
    /// Name of the secret that authorizes.
    pub auth_secret: &'a str,
    /// Headers that were asked for, by name.
    pub headers: &'a [(String, String)],
}

/// Key of a file from the web: its URL does not count.
#[must_use]
pub fn http(of: &Http<'_>) -> Digest {
    let headers = of
        .headers
        .iter()
        .map(|(name, value)| Object::new().text("Name", name).text("Value", value).end());
    let json = Object::new()
        .text("Filename", of.filename)
        .raw("Perm", &of.mode.to_string())
        .raw("UID", &of.uid.to_string())
        .raw("GID", &of.gid.to_string())
        .text("Checksum", &of.digest.to_string())
        .string("LastModTime", of.last_modified)
        .string("AuthHeaderSecret", of.auth_secret)
        .list("Header", headers)
        .end();
    source(&Digest::of(json).to_string())
}

/// A commit of a git repository.
#[expect(
    clippy::struct_excessive_bools,
    reason = "the source's own independent options"
)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Git<'a> {
    /// The commit; where an annotated tag points, unless the git directory is kept.
    pub commit: &'a str,
    /// The git directory is kept, with this ref.
    pub keep_git_dir: Option<&'a str>,
    /// Only this directory; empty for all.
    pub subdir: &'a str,
    /// Without submodules.
    pub skip_submodules: bool,
    /// What times files get; empty and `checkout` for the time of checkout.
    pub mtime: &'a str,
    /// As a bundle.
    pub bundle: bool,
}

/// Key of a commit: its repository's address does not count.
#[must_use]
pub fn git(of: &Git<'_>) -> Digest {
    let mut key = of.commit.to_owned();
    if let Some(reference) = of.keep_git_dir {
        key.push_str(".git");
        if !reference.is_empty() {
            key.push('#');
            key.push_str(reference);
        }
    }
    if !of.subdir.is_empty() {
        key.push(':');
        key.push_str(of.subdir);
    }
    if of.skip_submodules {
        key.push_str("(skip-submodules)");
    }
    if !matches!(of.mtime, "" | "checkout") {
        key.push_str("(mtime=");
        key.push_str(of.mtime);
        key.push(')');
    }
    if of.bundle {
        key.push_str("(bundle)");
    }
    source(&key)
}
