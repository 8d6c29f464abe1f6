//! Finds the program to run and words what is wrong with it as container runtimes do. It never runs it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::error::StartError;

/// Finds the program as a shell would; relative names with a slash are relative to the current directory.
pub(crate) fn find(name: &str, path_variable: Option<&str>) -> Result<PathBuf, StartError> {
    let refuse = |reason: String| StartError::Command {
        name: name.to_owned(),
        reason,
    };
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match check(&path) {
            Ok(()) => Ok(path),
            Err(Unfit::Missing(error)) => {
                Err(refuse(format!("stat {name}: {}", errno_text(&error))))
            }
            Err(Unfit::Directory) => Err(refuse("is a directory".to_owned())),
            Err(Unfit::NotExecutable) => Err(refuse("permission denied".to_owned())),
        };
    }
    path_variable
        .unwrap_or_default()
        .split(':')
        .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name))
        .find(|candidate| check(candidate).is_ok())
        .ok_or_else(|| refuse("executable file not found in $PATH".to_owned()))
}

/// The kernel's words for an error, in lower case and without its number.
pub(crate) fn errno_text(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else {
        return error.to_string();
    };
    nix::errno::Errno::from_raw(number).desc().to_lowercase()
}

enum Unfit {
    Missing(io::Error),
    Directory,
    NotExecutable,
}

fn check(path: &Path) -> Result<(), Unfit> {
    let metadata = fs::metadata(path).map_err(Unfit::Missing)?;
    if metadata.is_dir() {
        return Err(Unfit::Directory);
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(Unfit::NotExecutable);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_program_is_said_as_runtimes_do() {
        let cases = [
            (
                "nosuch",
                "exec: \"nosuch\": executable file not found in $PATH",
            ),
            (
                "/no/such",
                "exec: \"/no/such\": stat /no/such: no such file or directory",
            ),
            ("/bin", "exec: \"/bin\": is a directory"),
            ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ];
        for (name, message) in cases {
            assert_eq!(
                find(name, Some("/usr/bin:/bin")).unwrap_err().to_string(),
                message
            );
        }
        assert_eq!(
            find("sh", Some("/nowhere:/bin")).unwrap(),
            PathBuf::from("/bin/sh")
        );
    }
}
