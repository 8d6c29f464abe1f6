//! Content keys of inputs, and opening a snapshot's files: the bridge between operations and the tree library.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use shipway_engine::{ContentKey, OpContext, Prepare};
use shipway_layers::Snapshot;
use shipway_model::op::FileCopy;
use shipway_model::{Digest, Failure};
use shipway_source::Env;
use shipway_tree::hash::deduplicate;
use shipway_tree::{Composer, Kind, Last, Origin, Stack, everything, transfer};

use crate::exec::Marshalled;
use crate::exec::failed::FailedStep;

/// What of an input is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selector(shipway_tree::hash::Selector);

impl Selector {
    /// A path, links followed.
    pub(crate) fn follow(path: &str) -> Self {
        Self(shipway_tree::hash::Selector {
            path: path.to_owned(),
            follow_links: true,
            ..Default::default()
        })
    }

    /// The source of a copy.
    pub(crate) fn of_copy(copy: &FileCopy) -> Self {
        Self(shipway_tree::hash::Selector {
            path: copy.src.clone(),
            wildcard: copy.allow_wildcard && has_wildcard(&copy.src),
            follow_links: copy.follow_symlink,
            include: copy.include_patterns.clone(),
            exclude: copy.exclude_patterns.clone(),
            required: copy.required_paths.clone(),
        })
    }

    /// The path.
    pub(crate) fn path(&self) -> &str {
        &self.0.path
    }
}

/// True where a path has a wildcard that is not escaped.
fn has_wildcard(path: &str) -> bool {
    let mut escaped = false;
    path.chars().any(|c| {
        let special = !escaped && matches!(c, '*' | '?' | '[');
        escaped = !escaped && c == '\\';
        special
    })
}

/// Digest of the paths that are selected: joined by NUL, in the order given.
pub(crate) fn selector_digest<S: AsRef<str>>(paths: impl Iterator<Item = S>) -> Digest {
    let paths: Vec<String> = paths.map(|path| path.as_ref().to_owned()).collect();
    Digest::of(paths.join("\0"))
}

/// An input that counts by its content.
#[derive(Clone, Copy)]
pub(crate) struct ContentInput<'a> {
    /// What its vertex works with.
    pub(crate) env: &'a Arc<Env>,
    /// Its vertex.
    pub(crate) vertex: &'a Marshalled,
    /// Its place among the inputs.
    pub(crate) input: usize,
}

/// Keys an input by what mounts see of it; a mount of everything makes the rest meaningless.
pub(crate) fn content_dep(of: ContentInput<'_>, paths: &[String]) -> Arc<dyn ContentKey<Snapshot>> {
    let everything = paths.iter().any(|path| path.is_empty() || path == "/");
    let selectors: Vec<_> = paths.iter().map(|path| Selector::follow(path).0).collect();
    let selectors = if everything {
        Vec::new()
    } else {
        deduplicate(&selectors)
    };
    by_selectors(of, selectors)
}

/// Keys an input by what file actions see of it.
pub(crate) fn file_content_dep(
    of: ContentInput<'_>,
    selectors: Vec<Selector>,
) -> Arc<dyn ContentKey<Snapshot>> {
    let selectors: Vec<_> = selectors.into_iter().map(|selector| selector.0).collect();
    by_selectors(of, deduplicate(&selectors))
}

fn by_selectors(
    of: ContentInput<'_>,
    selectors: Vec<shipway_tree::hash::Selector>,
) -> Arc<dyn ContentKey<Snapshot>> {
    Arc::new(BySelectors {
        env: Arc::clone(of.env),
        vertex: of.vertex.clone(),
        input: of.input,
        selectors,
    })
}

struct BySelectors {
    env: Arc<Env>,
    vertex: Marshalled,
    input: usize,
    selectors: Vec<shipway_tree::hash::Selector>,
}

#[async_trait]
impl ContentKey<Snapshot> for BySelectors {
    async fn digest(&self, ctx: &OpContext, input: &Snapshot) -> Result<Digest, Failure> {
        let need = self.env.need(ctx).await?;
        let selectors = self.selectors.clone();
        let digest = self.env.layers.content_digest(input, selectors, &need);
        digest.await.map_err(|failure| {
            if failure.is_cancelled() {
                return failure;
            }
            // Who looks for the missing file starts a container with this input.
            let step = FailedStep::unkeyed(self.input, input.clone());
            failure.with(step.detail(&self.vertex))
        })
    }
}

/// Fetches what is lazy before it is used.
pub(crate) struct Unlazy(pub(crate) Arc<Env>);

#[async_trait]
impl Prepare<Snapshot> for Unlazy {
    async fn prepare(&self, ctx: &OpContext, input: &Snapshot) -> Result<(), Failure> {
        if input.layers().iter().all(|layer| layer.id().is_some()) {
            return Ok(());
        }
        let need = self.0.need(ctx).await?;
        input.materialise(&self.0.layers, &need).await.map(drop)
    }
}

/// The merged view of a snapshot whose layers are directories.
pub(crate) fn tree_of(snapshot: &Snapshot) -> Result<Stack, Failure> {
    let paths = snapshot.layers().iter().filter_map(|layer| layer.path());
    Stack::open(paths).map_err(|e| Failure::from_error(&e))
}

/// Copies a part of a tree into a directory, sharing no inode with it.
pub(crate) fn copy_out<'a>(
    layers: impl Iterator<Item = &'a Path>,
    selector: &str,
    to: &Path,
) -> Result<(), Failure> {
    let copied = Stack::open(layers).and_then(|tree| {
        let mut to = Composer::open(to, &Stack::default())?;
        let copy = FileCopy {
            follow_symlink: true,
            ..everything(selector, "/")
        };
        let (rel, entry) = tree.find(Path::new(selector), Last::Follow)?;
        let from = Arc::clone(&tree.layers()[entry.layer]);
        let origin = Origin {
            tree,
            linkable: false,
        };
        to.copy(&origin, &copy, None)?;
        // A copy leaves the top directory as it was; a cache mount starts as its source is.
        let xattrs = from.xattrs(&rel)?;
        let attributes = transfer::Attributes::of(&entry.stat);
        let root = Path::new(".");
        transfer::set_attributes(&**to.upper(), root, Kind::Dir, &attributes, &xattrs)
    });
    copied.map_err(|e| Failure::from_error(&e).context("filling a cache mount"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_wildcard_is_none() {
        for (path, has) in [
            ("/a*", true),
            ("/a\\*", false),
            ("/a\\\\*", true),
            ("/a", false),
        ] {
            assert_eq!(has_wildcard(path), has, "{path}");
        }
    }
}
