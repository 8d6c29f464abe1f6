//! Mounts trees of layers, and takes mounts away again. It never follows a link out of a tree, and never deletes what a
//! mount shows.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use shipway_step::LayerStack;

/// The kernel takes one page of options, and a NUL.
const OPTIONS: usize = 4095;

/// Mounts a stack of layers on a directory that exists.
pub(super) fn mount_stack(stack: &LayerStack, on: &Path) -> io::Result<()> {
    match (&stack.lower[..], &stack.writable) {
        ([], Some(writable)) => bind(&writable.upper, on),
        ([only], None) => {
            bind(only, on)?;
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            Ok(mount(None::<&str>, on, None::<&str>, flags, None::<&str>)?)
        }
        _ => overlay(stack, on),
    }
}

/// Shows a directory or file a second time.
pub(super) fn bind(from: &Path, on: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    Ok(mount(Some(from), on, None::<&str>, flags, None::<&str>)?)
}

/// Shows a part of a tree; links are followed inside the tree only.
pub(super) fn bind_part(tree: &Path, part: &Path, on: &Path) -> io::Result<()> {
    let part = open_inside(tree, part)?;
    bind(
        &PathBuf::from(format!("/proc/self/fd/{}", part.as_raw_fd())),
        on,
    )
}

/// Opens (as a path) what is inside a tree; links are followed inside the tree only.
pub(super) fn open_inside(tree: &Path, part: &Path) -> io::Result<OwnedFd> {
    let tree = open(tree, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(&tree, part, flags, Mode::empty(), resolve)?)
}

/// Many layers have long paths: they are named from the directory that they have in common, in a thread that has a
/// working directory of its own.
fn overlay(stack: &LayerStack, on: &Path) -> io::Result<()> {
    let own = stack.writable.iter().flat_map(|w| [&w.upper, &w.work]);
    let all: Vec<&PathBuf> = stack.lower.iter().chain(own).collect();
    let common = common_parent(&all);
    let options = options(stack, &common);
    if options.len() > OPTIONS {
        let layers = stack.lower.len();
        let why = format!("{layers} layers are more than this kernel's overlay takes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let on = on.to_owned();
    let thread = std::thread::Builder::new()
        .name("mount".to_owned())
        .spawn(move || {
            unshare(CloneFlags::CLONE_FS)?;
            nix::unistd::chdir(&common)?;
            let kind = Some("overlay");
            mount(kind, &on, kind, MsFlags::empty(), Some(options.as_os_str()))
        })?;
    let mounted = thread
        .join()
        .map_err(|_| io::Error::other("the mounting thread died"))?;
    Ok(mounted?)
}

fn common_parent(paths: &[&PathBuf]) -> PathBuf {
    let mut common = PathBuf::from("/");
    let Some(first) = paths.first().and_then(|path| path.parent()) else {
        return common;
    };
    for ancestor in first.ancestors() {
        if paths
            .iter()
            .all(|path| path.parent().is_some_and(|p| p.starts_with(ancestor)))
        {
            ancestor.clone_into(&mut common);
            break;
        }
    }
    common
}

fn options(stack: &LayerStack, from: &Path) -> OsString {
    let named = |path: &Path| escape(path.strip_prefix(from).unwrap_or(path));
    let mut options = b"lowerdir=".to_vec();
    let lower: Vec<Vec<u8>> = stack.lower.iter().map(|path| named(path)).collect();
    options.extend(lower.join(&b':'));
    if let Some(writable) = &stack.writable {
        options.extend(b",upperdir=");
        options.extend(named(&writable.upper));
        options.extend(b",workdir=");
        options.extend(named(&writable.work));
        options.extend(b",index=off,redirect_dir=off,metacopy=off");
    }
    OsString::from_vec(options)
}

/// What separates options and layers is escaped as overlayfs reads it.
fn escape(path: &Path) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    escaped
}

/// Takes a mount away, at the latest when the last user of it is gone.
pub(super) fn unmount(on: &Path) {
    if umount2(on, MntFlags::UMOUNT_NOFOLLOW).is_ok() {
        return;
    }
    let lazily = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    if let Err(error) = umount2(on, lazily) {
        tracing::warn!(on = %on.display(), %error, "a mount stays");
    }
}

/// Takes every mount below a directory away, the deepest first.
///
/// # Errors
/// Of reading the table of mounts. A mount that can't be taken away stays, and the log says so.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    let table = fs::read("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(dir))
        .collect();
    points.reverse();
    for point in points {
        unmount(&point);
    }
    Ok(())
}

/// The kernel writes space, tab, newline and backslash as octal numbers.
fn unescape(text: &[u8]) -> OsString {
    let mut plain = Vec::new();
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let octal = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) if *first == b'\\' => {
                plain.push(byte);
                rest = &after[3..];
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_from_what_they_have_in_common() {
        let stack = LayerStack::writable(["/l/2/fs", "/l/a:b/fs"], "/l/3/fs", "/l/3/work");
        let all = ["/l/2/fs", "/l/a:b/fs", "/l/3/fs", "/l/3/work"].map(PathBuf::from);
        let common = common_parent(&all.iter().collect::<Vec<_>>());
        assert_eq!(common, Path::new("/l"));
        assert_eq!(
            options(&stack, &common),
            "lowerdir=2/fs:a\\:b/fs,upperdir=3/fs,workdir=3/work,index=off,redirect_dir=off,metacopy=off"
        );
    }

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescape(b"/a\\040b\\134c"), "/a b\\c");
    }
}
