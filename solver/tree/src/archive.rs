//! Writes the changes of an upper directory as a layer archive, with the headers that BuildKit gives them. It
//! decides nothing about compression.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::differ::{self, CAPABILITY, Change};
use crate::error::{Context, Error, Result};
use crate::layer::{self, Layer};
use crate::stack::Stack;
use crate::stat::{Kind, Stat, Time};
use crate::tarball::{Header, Type, Writer, Xattr};

/// How a layer is archived.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Times later than this become this.
    pub latest: Option<Time>,
}

/// Archives what `upper` changes against `lower`.
pub fn write_layer(upper: &Layer, lower: &Stack, options: Options, out: impl Write) -> Result<()> {
    let mut writer = Writer::new(out);
    differ::changes(upper, lower, &mut |change| {
        write_change(&mut writer, upper, options, &change)
    })?;
    writer.finish().map_err(Error::Sink)?;
    Ok(())
}

/// Archives everything that a stack shows, root left out: the contents of a `tar` or `local` export.
pub fn write_tree(tree: &Stack, options: Options, writer: &mut Writer<impl Write>) -> Result<()> {
    let empty = Stack::default();
    let [layer] = tree.layers() else {
        return write_merged(tree, options, writer);
    };
    differ::changes(layer, &empty, &mut |change| {
        write_change(writer, layer, options, &change)
    })
}

fn write_merged(tree: &Stack, options: Options, writer: &mut Writer<impl Write>) -> Result<()> {
    let mut names: HashMap<(usize, u64), PathBuf> = HashMap::new();
    tree.walk(&tree.root(), &mut |path, item| {
        let from = &tree.layers()[item.layer];
        let Some(stat) = from.stat(path)?.filter(|stat| stat.kind != Kind::Socket) else {
            return Ok(());
        };
        let mut same_as = None;
        if stat.nlink > 1 && !stat.is_dir() {
            let inode = (item.layer, stat.ino);
            same_as = names.get(&inode).cloned();
            names.entry(inode).or_insert_with(|| path.to_path_buf());
        }
        let path = path.to_path_buf();
        write_change(
            writer,
            from,
            options,
            &Change::Present {
                path,
                stat,
                same_as,
            },
        )
    })
}

fn write_change(
    writer: &mut Writer<impl Write>,
    from: &Layer,
    options: Options,
    change: &Change,
) -> Result<()> {
    let (path, stat, same_as) = match change {
        Change::Removed(path) => {
            let name = differ::whiteout_name(path).into_os_string().into_vec();
            return writer
                .header(&Header::new(name, Type::File))
                .map_err(Error::Sink);
        }
        Change::Present {
            path,
            stat,
            same_as,
        } => (path, stat, same_as),
    };
    let mut header = header(from, path, stat, same_as.as_deref(), options)?;
    match (header.kind, stat.kind) {
        (Type::File, Kind::File) => {
            let file = from.open_file(path)?;
            header.xattrs = capability(layer::xattr_of(&file, path, CAPABILITY)?);
            return writer.file(&header, file).on("read", path);
        }
        (_, Kind::Symlink) => {}
        _ => header.xattrs = capability(from.xattr(path, CAPABILITY)?),
    }
    writer.header(&header).map_err(Error::Sink)
}

/// The only extended attribute that layers carry.
fn capability<'a>(value: Option<Vec<u8>>) -> Vec<Xattr<'a>> {
    let value = value.filter(|value| !value.is_empty());
    value
        .map(|value| (Cow::Borrowed(CAPABILITY.as_bytes()), value.into()))
        .into_iter()
        .collect()
}

/// The header of an entry.
fn header<'a>(
    from: &Layer,
    path: &'a Path,
    stat: &Stat,
    same_as: Option<&'a Path>,
    options: Options,
) -> Result<Header<'a>> {
    let mut name = Cow::Borrowed(path.as_os_str().as_bytes());
    let kind = match stat.kind {
        Kind::Dir => Type::Dir,
        _ if same_as.is_some() => Type::HardLink,
        Kind::File | Kind::Socket => Type::File,
        Kind::Symlink => Type::Symlink,
        Kind::CharDevice => Type::Char,
        Kind::BlockDevice => Type::Block,
        Kind::Fifo => Type::Fifo,
    };
    if kind == Type::Dir {
        name.to_mut().push(b'/');
    }
    let link = match (same_as, stat.kind) {
        (Some(same_as), _) => Cow::Borrowed(same_as.as_os_str().as_bytes()),
        (None, Kind::Symlink) => Cow::Owned(from.read_link(path)?),
        (None, _) => Cow::Borrowed(&b""[..]),
    };
    let device = matches!(stat.kind, Kind::CharDevice | Kind::BlockDevice);
    Ok(Header {
        name,
        kind,
        link,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        size: if kind == Type::File { stat.size } else { 0 },
        mtime: options
            .latest
            .map_or(stat.mtime, |latest| stat.mtime.min(latest)),
        device: if device { stat.rdev } else { (0, 0) },
        xattrs: Vec::new(),
    })
}
