//! Disk use of a layer's directory, as `du` counts it: allocated blocks, hard links once.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use shipway_backend::Usage;

/// Measures everything below `dir`, itself included.
pub fn measure(dir: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let mut open = vec![dir.to_owned()];
    add(&mut usage, &std::fs::symlink_metadata(dir)?);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                open.push(entry.path());
            } else if meta.nlink() > 1 && !linked.insert(meta.ino()) {
                continue;
            }
            add(&mut usage, &meta);
        }
    }
    Ok(usage)
}

fn add(usage: &mut Usage, meta: &std::fs::Metadata) {
    usage.bytes += meta.blocks() * 512;
    usage.inodes += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), vec![1; 8192]).unwrap();
        let before = measure(dir.path()).unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(measure(dir.path()).unwrap(), before);
        assert_eq!(before.inodes, 2);
    }
}
