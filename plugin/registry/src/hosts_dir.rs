//! Finds what containerd's directories of hosts (`certs.d/<host>/hosts.toml`) say of a registry. They are read anew for each
//! reference, as containerd does, so that a change needs no restart. What a file means is decided in `shipway_config::hosts`.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use shipway_backend::{BackendError, ErrorKind};
use shipway_config::hosts::{HostEntry, parse, with_certificates};
use tokio::fs;

/// The hosts to ask for what is at `host`, `None` where no directory says anything of it.
pub(crate) async fn find(
    roots: &[PathBuf],
    host: &str,
) -> Result<Option<Vec<HostEntry>>, BackendError> {
    for dir in roots.iter().flat_map(|root| directories(root, host)) {
        if let Some(entries) = read(&dir).await? {
            return Ok(Some(entries));
        }
    }
    Ok(None)
}

/// Where something of a host may be, in containerd's order. Underscores around a port stand for its colon.
fn directories(root: &Path, host: &str) -> Vec<PathBuf> {
    let underscored = host
        .rsplit_once(':')
        .map(|(name, port)| format!("{name}_{port}_"));
    let plain = [host.to_owned(), "_default".to_owned()];
    let names = underscored.into_iter().chain(plain);
    names.map(|name| root.join(name)).collect()
}

async fn read(dir: &Path) -> Result<Option<Vec<HostEntry>>, BackendError> {
    let path = dir.join("hosts.toml");
    match fs::read_to_string(&path).await {
        Ok(text) if !text.is_empty() => {
            let entries = parse(&text, dir).map_err(|error| failed(&path, error))?;
            Ok(Some(entries))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, error)),
        _ => certificates(dir).await,
    }
}

/// A directory without the file may still hold certificates.
async fn certificates(dir: &Path) -> Result<Option<Vec<HostEntry>>, BackendError> {
    let mut listing = match fs::read_dir(dir).await {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(dir, error)),
    };
    let mut names = Vec::new();
    while let Some(entry) = listing
        .next_entry()
        .await
        .map_err(|error| failed(dir, error))?
    {
        names.extend(entry.file_name().into_string());
    }
    Ok(Some(vec![with_certificates(dir, names)]))
}

fn failed(path: &Path, error: impl Error + Send + Sync + 'static) -> BackendError {
    let attempt = format!("reading {}", path.display());
    BackendError::caused(ErrorKind::Other, attempt, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(roots: &[PathBuf], host: &str) -> Option<String> {
        let entries = find(roots, host).await.unwrap()?;
        let server = entries.last().unwrap().server.clone();
        Some(server.map_or_else(String::new, |server| server.host))
    }

    #[tokio::test]
    async fn the_first_directory_that_is_there_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, server: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("server = {server:?}")).unwrap();
        };
        write("one/h:5000/hosts.toml", "colon");
        write("two/h:5000/hosts.toml", "second");
        write("two/_default/hosts.toml", "default");
        std::fs::create_dir_all(dir.path().join("two/bare")).unwrap();
        let roots = ["one", "absent", "two"].map(|name| dir.path().join(name));
        let of = async |host: &str| found(&roots, host).await;
        assert_eq!(of("h:5000").await.as_deref(), Some("colon"));
        assert_eq!(of("other").await.as_deref(), Some("default"));
        assert_eq!(of("bare").await.as_deref(), Some(""));
        assert_eq!(found(&roots[..2], "other").await, None);
        write("one/h_5000_/hosts.toml", "underscores");
        assert_eq!(of("h:5000").await.as_deref(), Some("underscores"));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("h/hosts.toml");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "sever = 'x'").unwrap();
        let error = find(&[dir.path().to_owned()], "h").await.unwrap_err();
        assert!(error.attempt.contains("h/hosts.toml"), "{error:?}");
    }
}
