//! The change of a mirror's tree to what was announced, once all data is there. Files come by renaming, so that no
//! inode is changed; directories get their attributes when everything below them is in place.

use std::path::Path;

use rustix::fs;

use super::Mirror;
use super::entry::Entry;
use super::plan::{Incoming, Plan, Source, finish_file, on_disk};
use crate::error::{Context, Result};
use crate::stat::{Kind, Time, set_mtime};
use crate::transfer::{self, Attributes, Linked};

impl Plan<'_> {
    /// Changes the tree and writes its index.
    pub(super) fn apply(mut self) -> Result<Mirror> {
        if !self.direct {
            self.mirror.begin_change()?;
        }
        let mut touched: Vec<String> = Vec::new();
        let mut gone: Option<&str> = None;
        for path in &self.removed {
            let inside = |dir: &str| {
                path.strip_prefix(dir)
                    .is_some_and(|rest| rest.starts_with('/'))
            };
            if !gone.is_some_and(inside) {
                transfer::remove_all(&self.tree, Path::new(path))?;
                touched.push(parent(path).to_owned());
                gone = Some(path);
            }
        }
        for id in 0..self.incoming.len() {
            if self.put(id)? {
                touched.push(parent(&self.incoming[id].stat.path).to_owned());
            }
        }
        self.dir_attributes(touched)?;
        let incoming = std::mem::take(&mut self.incoming);
        let entries = incoming
            .into_iter()
            .map(|i| Entry {
                stat: i.stat,
                sum: i.sum,
            })
            .collect();
        let mut mirror = self.mirror;
        mirror.end_change(entries)?;
        Ok(mirror)
    }

    /// Puts one entry in its place; gives whether its directory was changed.
    fn put(&self, id: usize) -> Result<bool> {
        let Incoming { stat, source, .. } = &self.incoming[id];
        let path = Path::new(&stat.path);
        match source {
            Source::Kept => return Ok(false),
            Source::Staged if self.direct => return Ok(true),
            Source::Staged => {
                let name = id.to_string();
                fs::renameat(&self.stage, name.as_str(), &self.tree, path).on("rename", path)?;
                return Ok(true);
            }
            Source::Made if stat.kind() == Kind::Dir => {
                transfer::remove_all(&self.tree, path)?;
                return self.make_dir(stat).map(|()| true);
            }
            Source::Made => transfer::remove_all(&self.tree, path)?,
        }
        match stat.kind() {
            _ if stat.is_hard_link() => {
                let first = Path::new(&stat.link);
                return match transfer::link(&self.tree, first, &self.tree, path)? {
                    Linked::Done => Ok(true),
                    Linked::Never | Linked::NotThis => Err(stat.refused("it cannot be linked")),
                };
            }
            Kind::File => {
                finish_file(&transfer::create_file(&self.tree, path)?, stat)?;
                return Ok(true);
            }
            Kind::Symlink => {
                fs::symlinkat(stat.link.as_str(), &self.tree, path).on("symlink", path)?;
            }
            _ => transfer::create_node(&self.tree, path, &stat.stat())?,
        }
        let attributes = Attributes::of(&stat.stat());
        transfer::set_attributes(&self.tree, path, stat.kind(), &attributes, &on_disk(stat))?;
        Ok(true)
    }

    /// Gives directories their attributes, the innermost first, and their times again where entries were changed.
    fn dir_attributes(&self, mut touched: Vec<String>) -> Result<()> {
        touched.sort();
        touched.dedup();
        for Incoming {
            stat,
            altered,
            source,
            ..
        } in self.incoming.iter().rev()
        {
            if stat.kind() != Kind::Dir {
                continue;
            }
            let path = Path::new(&stat.path);
            if *altered || *source == Source::Made {
                let attributes = Attributes::of(&stat.stat());
                transfer::set_attributes(&self.tree, path, Kind::Dir, &attributes, &on_disk(stat))?;
            } else if touched.binary_search(&stat.path).is_ok() {
                set_mtime(&self.tree, path, Time::from_nanos(stat.mtime))?;
            }
        }
        Ok(())
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
