//! Copies whole directories to where nothing is yet, with all processors: each directory is one piece of work that
//! needs nothing of the others. Its subdirectories are made, its files copied, then its metadata set.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode};

use super::leaf::{Files, Leaf, Target};
use super::levels::Source;
use crate::error::{Context, Result};
use crate::parallel;
use crate::stat::{Kind, Stat};
use crate::transfer;

/// A directory of the source, and the empty one in the upper that it goes to.
pub(super) struct Task {
    pub(super) source: Source,
    pub(super) rel: PathBuf,
}

/// Copies the contents and metadata of directories and of all below them.
pub(super) fn run(files: &Files<'_>, tasks: Vec<Task>) -> Result<()> {
    parallel::run(tasks, |task| copy(files, &task))
}

fn copy(files: &Files<'_>, task: &Task) -> Result<Vec<Task>> {
    let (tree, dir) = (&files.from.tree, &task.source.dir);
    let upper = transfer::open_dir(&*files.upper, &task.rel)?;
    let mut open: Vec<(usize, OwnedFd)> = Vec::with_capacity(dir.layers.len());
    for layer in &dir.layers {
        open.push((*layer, tree.layers()[*layer].open_dir(&dir.rel)?));
    }
    let mut inner = Vec::new();
    for item in tree.list(dir)? {
        let (layer, name) = (item.layer, Path::new(&item.name));
        let fd = open.iter().find(|(of, _)| *of == layer).map(|(_, fd)| fd);
        let fd = fd.expect("an item is seen from a layer of its directory");
        let stat = Stat::at(fd, name).on("lstat", &dir.rel.join(name))?;
        let rel = task.rel.join(name);
        if item.kind == Kind::Dir {
            fs::mkdirat(&upper, name, Mode::from_raw_mode(0o700)).on("mkdir", &rel)?;
            let source = Source {
                dir: dir.child(&item),
                layer,
                stat,
            };
            inner.push(Task { source, rel });
        } else {
            let leaf = Leaf {
                fd,
                name: &item.name,
                layer,
                stat,
            };
            files.copy(
                &leaf,
                &Target {
                    dir: &upper,
                    name,
                    rel: &rel,
                },
            )?;
        }
    }
    files.dir_attributes(&upper, &task.source)?;
    Ok(inner)
}
