//! Paths of the image's operating system. Inside of the build all paths have forward slashes and no drive letter.

use crate::error::InstructionError;
use shipway_llb::build::clean;
use std::borrow::Cow;

/// `path` under `parent`, absolute; absolute Linux paths stay as written. `keep_slash` keeps a trailing `/` or `/.`.
pub(super) fn normalize(
    parent: &str,
    path: &str,
    os: &str,
    keep_slash: bool,
) -> Result<String, InstructionError> {
    let windows = os == "windows";
    let (written, parent) = (slashed(path, windows), slashed(parent, windows));
    let parent = if parent.is_empty() { "/" } else { &parent };
    let parent = without_drive(parent, windows, keep_slash)?;
    let parent = if parent.starts_with('/') {
        parent
    } else {
        clean(&format!("/{parent}")).into()
    };
    let path = if written.is_empty() {
        &parent
    } else {
        &written
    };
    let path = without_drive(path, windows, keep_slash)?;
    let mut path = if path.starts_with('/') {
        path.into_owned()
    } else {
        clean(&[&parent, "/", &*path].concat())
    };
    if keep_slash && written.ends_with('/') && !path.ends_with('/') {
        path.push('/');
    } else if keep_slash && written.ends_with("/.") {
        if path != "/" {
            path.push('/');
        }
        path.push('.');
    }
    Ok(path)
}

/// A path of the build with forward slashes.
pub(super) fn slashed(path: &str, windows: bool) -> Cow<'_, str> {
    if windows {
        path.replace('\\', "/").into()
    } else {
        path.into()
    }
}

/// True for paths that do not depend on the directory.
pub(super) fn is_absolute(path: &str, os: &str) -> bool {
    let windows = os == "windows";
    let path = slashed(path, windows);
    without_drive(&path, windows, false).is_ok_and(|path| path.starts_with('/'))
}

/// Drops `C:` from Windows paths; other drives are not in the image.
pub(super) fn without_drive(
    path: &str,
    windows: bool,
    keep_slash: bool,
) -> Result<Cow<'_, str>, InstructionError> {
    if !windows {
        return Ok(path.into());
    }
    if path.len() == 2 && path.ends_with(':') {
        return Err(InstructionError::WindowsPath("No relative path specified"));
    }
    if path.starts_with("//") {
        return Err(InstructionError::WindowsPath("UNC paths are not supported"));
    }
    let path = match path.split_once(':') {
        None => path,
        Some((drive, rest)) if drive.eq_ignore_ascii_case("c") => rest,
        Some(_) => {
            let text = "The specified path is not on the system drive (C:)";
            return Err(InstructionError::WindowsPath(text));
        }
    };
    let cleaned = clean(path);
    let slash = keep_slash && cleaned.len() > 1 && path.ends_with('/');
    Ok(if slash {
        format!("{cleaned}/").into()
    } else {
        cleaned.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute() {
        let cases = [
            ("/w", "a", "linux", true, "/w/a"),
            ("/w", "a/", "linux", true, "/w/a/"),
            ("/w", "./", "linux", true, "/w/"),
            ("/w", "../../x", "linux", false, "/x"),
            ("/w", "/x//y", "linux", false, "/x//y"),
            ("", "a", "linux", false, "/a"),
            ("/w", "", "linux", false, "/w"),
            ("/", "a/.", "linux", true, "/a/."),
            ("\\w", "C:\\x\\y", "windows", false, "/x/y"),
            ("\\w", "y", "windows", false, "/w/y"),
        ];
        for (parent, path, os, keep, want) in cases {
            assert_eq!(normalize(parent, path, os, keep).unwrap(), want, "{path}");
        }
        assert!(normalize("/", "d:\\x", "windows", false).is_err());
    }
}
