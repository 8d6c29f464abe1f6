//! Looks into trees of layers for frontends and debuggers: reads, lists and describes what is there. It never changes
//! anything, and never leaves the tree.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use shipway_backend::session::FileStat;
use shipway_model::Failure;
use shipway_model::failure::FailureKind;
use shipway_tree::{Kind, Last, Stack, Stat};

/// Largest piece of a file that is handed out at once, in bytes: what one message holds, with room to spare.
const FILE_LIMIT: u64 = 16 << 20;

/// Runs `look` on a tree of these layers, lowest first, where blocking is allowed.
pub(crate) async fn at<T: Send + 'static>(
    layers: Vec<PathBuf>,
    look: impl FnOnce(&Stack) -> Result<T, shipway_tree::Error> + Send + 'static,
) -> Result<T, Failure> {
    let looked = tokio::task::spawn_blocking(move || look(&Stack::open(layers)?));
    let looked = looked.await.map_err(|e| Failure::from_error(&e))?;
    looked.map_err(|e| {
        let kind = if e.is_not_found() {
            FailureKind::NotFound
        } else {
            FailureKind::Unknown
        };
        Failure {
            kind,
            ..Failure::from_error(&e)
        }
    })
}

/// A file, or `(offset, length)` of it.
pub(crate) fn read(
    tree: &Stack,
    path: &str,
    range: Option<(u64, u64)>,
) -> Result<Bytes, shipway_tree::Error> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let (rel, entry) = tree.find(Path::new(path), Last::Follow)?;
    if entry.stat.kind != Kind::File {
        return Err(shipway_tree::Error::Refused {
            op: "read",
            path: Path::new("/").join(path),
            why: "it is not a regular file",
        });
    }
    let io = |e| shipway_tree::Error::io("read", Path::new("/").join(path), e);
    let mut file = tree.layers()[entry.layer].open_file(&rel)?;
    let (offset, length) = range.unwrap_or((0, 0));
    file.seek(SeekFrom::Start(offset)).map_err(io)?;
    let limit = if length == 0 {
        FILE_LIMIT + 1
    } else {
        length.min(FILE_LIMIT)
    };
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(shipway_tree::Error::Refused {
            op: "read",
            path: Path::new("/").join(path),
            why: "it is larger than 16 MiB",
        });
    }
    Ok(bytes.into())
}

/// One path; its last link is not followed.
pub(crate) fn stat(tree: &Stack, path: &str) -> Result<FileStat, shipway_tree::Error> {
    if is_empty_root(tree, path) {
        return Ok(FileStat {
            path: ".".to_owned(),
            mode: (1 << 31) | 0o755,
            ..FileStat::default()
        });
    }
    let (rel, entry) = tree.find(Path::new(path), Last::Keep)?;
    let name = rel
        .file_name()
        .map_or_else(|| ".".into(), |n| n.to_string_lossy().into_owned());
    describe(tree, entry.layer, &rel, &entry.stat, name)
}

/// One path; links are followed where they lead somewhere.
pub(crate) fn stat_followed(tree: &Stack, path: &str) -> Result<FileStat, shipway_tree::Error> {
    let name = path.rsplit('/').find(|part| !part.is_empty());
    let Ok((rel, entry)) = tree.find(Path::new(path), Last::Follow) else {
        return stat(tree, path);
    };
    let name = name.map_or_else(|| "/".to_owned(), str::to_owned);
    describe(tree, entry.layer, &rel, &entry.stat, name)
}

/// What a directory holds, by names that match; an empty pattern matches all.
pub(crate) fn list(
    tree: &Stack,
    path: &str,
    pattern: &str,
) -> Result<Vec<FileStat>, shipway_tree::Error> {
    if is_empty_root(tree, path) {
        return Ok(Vec::new());
    }
    let (_, entry) = tree.find(Path::new(path), Last::Follow)?;
    let Some(dir) = entry.dir else {
        let path = Path::new("/").join(path);
        return Err(shipway_tree::Error::io(
            "open",
            path,
            rustix::io::Errno::NOTDIR,
        ));
    };
    let glob = (!pattern.is_empty())
        .then(|| shipway_tree::glob::Glob::new(pattern.as_bytes()))
        .transpose()?;
    let mut entries = Vec::new();
    for item in tree.list(&dir)? {
        let name = item.name.to_string_lossy().into_owned();
        if glob
            .as_ref()
            .is_some_and(|glob| !glob.matches(name.as_bytes()))
        {
            continue;
        }
        let rel = dir.rel.join(&item.name);
        if let Some(stat) = tree.layers()[item.layer].stat(&rel)? {
            entries.push(describe(tree, item.layer, &rel, &stat, name)?);
        }
    }
    Ok(entries)
}

/// True for the root of a tree without layers: it has no directory that shows it.
fn is_empty_root(tree: &Stack, path: &str) -> bool {
    tree.layers().is_empty() && path.split('/').all(|part| matches!(part, "" | "."))
}

/// What is known of an entry, in fsutil's terms.
fn describe(
    tree: &Stack,
    layer: usize,
    rel: &Path,
    stat: &Stat,
    path: String,
) -> Result<FileStat, shipway_tree::Error> {
    let link_name = if stat.kind == Kind::Symlink {
        tree.read_link(layer, rel)?.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    Ok(FileStat {
        path,
        mode: go_mode(stat),
        uid: stat.uid,
        gid: stat.gid,
        size: if stat.kind == Kind::Dir { 0 } else { stat.size },
        mod_time: stat.mtime.nanos(),
        link_name,
        dev_major: stat.rdev.0.into(),
        dev_minor: stat.rdev.1.into(),
        xattrs: std::collections::BTreeMap::new(),
    })
}

/// Go's `os.FileMode` of an entry.
fn go_mode(stat: &Stat) -> u32 {
    let kind = match stat.kind {
        Kind::Dir => 1 << 31,
        Kind::Symlink => 1 << 27,
        Kind::BlockDevice => 1 << 26,
        Kind::CharDevice => (1 << 26) | (1 << 21),
        Kind::Fifo => 1 << 25,
        Kind::Socket => 1 << 24,
        Kind::File => 0,
    };
    let bit = |unix: u32, go: u32| if stat.mode & unix == 0 { 0 } else { go };
    kind | (stat.mode & 0o777) | bit(0o4000, 1 << 23) | bit(0o2000, 1 << 22) | bit(0o1000, 1 << 20)
}
