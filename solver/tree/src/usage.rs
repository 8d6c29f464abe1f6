//! What a layer directory takes on disk, as `du` counts it: blocks, every inode once. It never follows a link.

use std::collections::HashSet;
use std::path::Path;

use crate::error::Result;
use crate::layer::Layer;
use crate::stat::Stat;

/// Disk space of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Inodes, the directory's own included.
    pub inodes: u64,
}

impl Usage {
    /// Of a layer.
    pub fn of(layer: &Layer) -> Result<Self> {
        let mut usage = Self::default();
        let mut seen = HashSet::new();
        let root = Path::new("");
        if let Some(stat) = layer.stat(root)? {
            usage.add(&stat, &mut seen);
        }
        usage.dir(layer, root, &mut seen)?;
        Ok(usage)
    }

    fn dir(&mut self, layer: &Layer, rel: &Path, seen: &mut HashSet<u64>) -> Result<()> {
        let open = layer.open_dir(rel)?;
        for entry in crate::layer::entries(&open, rel)? {
            let stat = match Stat::at(&open, Path::new(&entry.name)) {
                Ok(stat) => stat,
                // A running step may have removed it.
                Err(rustix::io::Errno::NOENT) => continue,
                Err(e) => return Err(crate::Error::io("lstat", rel.join(&entry.name), e)),
            };
            self.add(&stat, seen);
            if stat.is_dir() {
                self.dir(layer, &rel.join(&entry.name), seen)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, stat: &Stat, seen: &mut HashSet<u64>) {
        if stat.nlink < 2 || stat.is_dir() || seen.insert(stat.ino) {
            self.bytes += stat.blocks * 512;
            self.inodes += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_what_du_says() {
        let temp = tempfile::tempdir_in(".").unwrap();
        std::fs::create_dir(temp.path().join("d")).unwrap();
        std::fs::write(temp.path().join("d/f"), vec![1; 10_000]).unwrap();
        std::fs::hard_link(temp.path().join("d/f"), temp.path().join("g")).unwrap();
        let du = std::process::Command::new("du")
            .arg("-s")
            .arg("-B1")
            .arg(temp.path())
            .output();
        let du = String::from_utf8(du.unwrap().stdout).unwrap();
        let expected: u64 = du.split_whitespace().next().unwrap().parse().unwrap();
        let usage = Usage::of(&Layer::open(temp.path()).unwrap()).unwrap();
        assert_eq!((usage.bytes, usage.inodes), (expected, 3));
    }
}
