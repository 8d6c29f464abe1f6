//! Paths of the image's operating system. Inside of the build all paths have forward slashes and no drive letter.

use crate::error::InstructionError;
use shipway_llb::build::clean;

/// `path` under `parent`, absolute; absolute Linux paths stay as written. `keep_slash` keeps a trailing `/` or `/.`.
pub(super) fn normalize(
    parent: &str,
    path: &str,
    os: &str,
    keep_slash: bool,
) -> Result<String, InstructionError> {
    let windows = os == "windows";
    let slashed = |text: &str| {
        if windows {
            text.replace('\\', "/")
        } else {
            text.to_owned()
        }
    };
    let (written, parent) = (slashed(path), slashed(parent));
    let parent = if parent.is_empty() {
        "/".to_owned()
    } else {
        parent
    };
    let mut parent = without_drive(&parent, windows, keep_slash)?;
    if !parent.starts_with('/') {
        parent = clean(&format!("/{parent}"));
    }
    let path = if written.is_empty() {
        parent.clone()
    } else {
        written.clone()
    };
    let mut path = without_drive(&path, windows, keep_slash)?;
    if !path.starts_with('/') {
        path = clean(&format!("{parent}/{path}"));
    }
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

/// True for paths that do not depend on the directory.
pub(super) fn is_absolute(path: &str, os: &str) -> bool {
    let windows = os == "windows";
    let path = if windows {
        path.replace('\\', "/")
    } else {
        path.to_owned()
    };
    without_drive(&path, windows, false).is_ok_and(|path| path.starts_with('/'))
}

/// Drops `C:` from Windows paths; other drives are not in the image.
pub(super) fn without_drive(
    path: &str,
    windows: bool,
    keep_slash: bool,
) -> Result<String, InstructionError> {
    if !windows {
        return Ok(path.to_owned());
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
        format!("{cleaned}/")
    } else {
        cleaned
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
