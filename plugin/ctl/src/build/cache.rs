//! Caches in local directories: which are there, and which content stores the daemon needs for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use shipway_proto::control;

use super::index::Index;
use super::plan::{Plan, Sink};
use crate::args::outputs::CacheEntry;
use crate::error::Error;
use crate::session::Store;

/// Everything about caches and stores that a build needs to know.
#[derive(Debug, Default)]
pub(super) struct Caches {
    /// For the daemon.
    pub(super) options: control::CacheOptions,
    /// Those imports that are there.
    pub(super) imports: Vec<CacheEntry>,
    /// Content stores of the session by their names.
    pub(super) stores: Vec<(String, Arc<Store>)>,
    /// Directories whose index gets the cache's manifest, with the tag.
    pub(super) cache_indexes: Vec<(PathBuf, String)>,
    /// Directories whose index gets the image's manifest.
    pub(super) image_indexes: Vec<PathBuf>,
}

/// Looks at every cache and store of a plan; an import that is not there is left out with a warning.
pub(super) fn prepare(plan: &Plan, warn: &mut dyn FnMut(String)) -> Result<Caches, Error> {
    let mut caches = Caches::default();
    for entry in &plan.cache_exports {
        if entry.kind == "local" {
            let dir = entry.attrs["dest"].clone();
            caches.store(format!("local:{dir}"), &PathBuf::from(&dir))?;
            let tag = entry.attrs.get("tag").map_or("latest", String::as_str);
            caches.cache_indexes.push((dir.into(), tag.to_owned()));
        }
        caches.options.exports.push(wire(entry));
    }
    for entry in &plan.cache_imports {
        let entry = match entry.kind.as_str() {
            "local" => match local_import(entry) {
                Ok(found) => found,
                Err(reason) => {
                    warn(format!(
                        "local cache import at {} skipped: {reason}",
                        entry.attrs["src"]
                    ));
                    continue;
                }
            },
            _ => entry.clone(),
        };
        if entry.kind == "local" {
            let dir = entry.attrs["src"].clone();
            caches.store(format!("local:{dir}"), Path::new(&dir))?;
        }
        caches.options.imports.push(wire(&entry));
        caches.imports.push(entry);
    }
    for (name, dir) in &plan.layouts {
        caches.store(format!("oci:{name}"), dir)?;
    }
    for export in &plan.exports {
        if let Sink::Store(dir) = &export.sink {
            caches.store("export".to_owned(), dir)?;
            caches.image_indexes.push(dir.clone());
        }
    }
    Ok(caches)
}

impl Caches {
    fn store(&mut self, name: String, dir: &Path) -> Result<(), Error> {
        if self.stores.iter().all(|(known, _)| *known != name) {
            self.stores.push((name, Arc::new(Store::open(dir)?)));
        } else if name == "export" {
            return Err(Error::flag(
                "--output",
                "only one OCI layout can be written by a build",
            ));
        }
        Ok(())
    }
}

fn wire(entry: &CacheEntry) -> control::CacheOptionsEntry {
    control::CacheOptionsEntry {
        r#type: entry.kind.clone(),
        attrs: entry.attrs.clone(),
    }
}

/// The import with the digest of its manifest filled in.
fn local_import(entry: &CacheEntry) -> Result<CacheEntry, String> {
    let mut entry = entry.clone();
    let dir = PathBuf::from(&entry.attrs["src"]);
    let given = entry
        .attrs
        .get("digest")
        .filter(|digest| !digest.is_empty());
    let digest = if let Some(digest) = given {
        digest.clone()
    } else {
        let tag = entry.attrs.get("tag").map_or("latest", String::as_str);
        let digest = Index::open(&dir).find(tag).map_err(|error| error.chain())?;
        digest.ok_or_else(|| format!("no digest found for tag {tag}"))?
    };
    let store = Store::open(&dir).map_err(|error| error.chain())?;
    if !store.has(&digest) {
        return Err(format!("digest {digest} unavailable"));
    }
    entry.attrs.insert("digest".to_owned(), digest);
    Ok(entry)
}
