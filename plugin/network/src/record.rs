//! What is on disk about namespaces: a record for each, written before the first plugin runs and removed after the last
//! one has undone its part. At a start, what an earlier daemon left is undone by it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::NetworkError;
use crate::link;
use crate::list::NetworkList;
use crate::namespace;
use crate::plugin::{self, Place};

/// What names of records end with.
const ENDING: &str = "json";
/// Names the bridge that was made for namespaces and goes with the last of them.
const BRIDGE: &str = "bridge";

/// One namespace.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its id.
    pub(crate) id: String,
    /// The network that it is on.
    pub(crate) list: NetworkList,
    /// Where the plugins are.
    pub(crate) binaries: PathBuf,
    /// The step's host name, where plugins were told one.
    pub(crate) hostname: Option<String>,
    /// What the last plugin said; none where they have not all run.
    pub(crate) result: Option<Value>,
}

impl Record {
    /// The namespace itself.
    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(&self.id)
    }

    /// Makes the namespace and its network; undoes what was done where a plugin fails.
    pub(crate) async fn set_up(mut self, dir: &Path) -> Result<Self, NetworkError> {
        let path = self.path(dir);
        self.write(dir)?;
        namespace::create(&path).map_err(NetworkError::file("making network namespace", &path))?;
        match plugin::add(&self.list, self.place(&path)).await {
            Ok(result) => {
                self.result = Some(result);
                self.write(dir)?;
                Ok(self)
            }
            Err(error) => {
                if let Err(second) = self.tear_down(dir).await {
                    tracing::warn!(error = %second, "undoing a network that failed");
                }
                Err(error)
            }
        }
    }

    /// Undoes the network and removes the namespace and the record. The namespace and the record go even where a plugin
    /// fails: asking it again would not end.
    pub(crate) async fn tear_down(&self, dir: &Path) -> Result<(), NetworkError> {
        let path = self.path(dir);
        let deleted = plugin::delete(&self.list, self.result.as_ref(), self.place(&path)).await;
        namespace::remove(&path)
            .map_err(NetworkError::file("removing network namespace", &path))?;
        let record = self.file(dir);
        fs::remove_file(&record).map_err(NetworkError::file("removing", record))?;
        deleted
    }

    fn place<'a>(&'a self, path: &'a Path) -> Place<'a> {
        Place {
            id: &self.id,
            path,
            hostname: self.hostname.as_deref(),
            binaries: &self.binaries,
        }
    }

    fn file(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.{ENDING}", self.id))
    }

    fn write(&self, dir: &Path) -> Result<(), NetworkError> {
        let file = self.file(dir);
        let write = || -> io::Result<()> {
            let part = file.with_extension("part");
            fs::write(&part, serde_json::to_vec(self)?)?;
            fs::rename(part, &file)
        };
        write().map_err(NetworkError::file("writing", &file))
    }
}

/// Notes that the bridge of this name is made for namespaces and goes with them.
pub(crate) fn note_bridge(dir: &Path, name: &str) -> Result<(), NetworkError> {
    let file = dir.join(BRIDGE);
    fs::write(&file, name).map_err(NetworkError::file("writing", file))
}

/// Undoes everything that is recorded in `dir`: namespaces, their networks, and the bridge. What plugins refuse is logged.
///
/// # Errors
/// Of reading and removing what is in the directory.
pub async fn clean_up(dir: &Path) -> Result<(), NetworkError> {
    if !dir.exists() {
        return Ok(());
    }
    for record in records(dir)? {
        if let Err(error) = record.tear_down(dir).await {
            tracing::warn!(%error, "undoing a network that an earlier daemon left");
        }
    }
    namespace::close_place(dir).map_err(NetworkError::file("unmounting below", dir))?;
    let bridge = dir.join(BRIDGE);
    if let Ok(name) = fs::read_to_string(&bridge) {
        link::remove_bridge(&name)?;
    }
    fs::remove_dir_all(dir).map_err(NetworkError::file("removing", dir))
}

fn records(dir: &Path) -> Result<Vec<Record>, NetworkError> {
    let entries = fs::read_dir(dir).map_err(NetworkError::file("listing", dir))?;
    let files = entries.flatten().map(|entry| entry.path());
    let files = files.filter(|file| file.extension().is_some_and(|ending| ending == ENDING));
    let read = |file: PathBuf| {
        let bytes = fs::read(&file).map_err(NetworkError::file("reading", &file))?;
        serde_json::from_slice(&bytes).map_err(|source| NetworkError::Json {
            origin: file.display().to_string(),
            source,
        })
    };
    files.map(read).collect()
}
