//! Gets what a build is lowered from: the Dockerfile, and the context that COPY takes files from. Each may be a directory of
//! the client, a git repository, a download, or a graph that the client handed in.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use shipway_dockerfile::lint::Warning as Finding;
use shipway_dockerfile::lower::{RemoteContext, remote_context, subdirectory, unpacked};
use shipway_dockerfile::{BuildOptions, MainContext, entry};
use shipway_llb::build::BuildError;
use shipway_model::definition::SourceInfo;
use shipway_model::failure::FailureKind;
use shipway_model::progress::Warning;
use shipway_model::{Definition, Failure};

use super::failure;
use crate::{Bridge, Ref, SolveOptions};

/// Name of the client's directory that COPY takes files from, where the options name no other.
const CONTEXT: &str = "context";

/// Name of a downloaded context in its layer.
const DOWNLOADED: &str = "context";

/// As much of a download as tells what it is.
const HEAD: u64 = 1024;

/// Size of the largest Dockerfile that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// What a build is lowered from.
pub(super) struct Files {
    pub(super) dockerfile: SourceInfo,
    pub(super) context: MainContext,
    /// What the Dockerfile came from: warnings are shown there.
    source: Definition,
}

/// Where files come from if not from the client's directories.
#[derive(Default)]
struct Elsewhere {
    context: Option<Definition>,
    dockerfile: Option<Definition>,
    /// The Dockerfile's name, where it is the download itself.
    name: Option<&'static str>,
}

impl Files {
    pub(super) async fn fetch(
        bridge: &dyn Bridge,
        options: &BuildOptions,
        inputs: &BTreeMap<String, Definition>,
    ) -> Result<Self, Failure> {
        let elsewhere = elsewhere(bridge, options, inputs).await?;
        let source = match elsewhere.dockerfile {
            Some(dockerfile) => dockerfile,
            None => entry::dockerfile_source(options).map_err(graph)?,
        };
        let files = async {
            let files = solve(bridge, &source).await?;
            let files = files.ok_or_else(|| Failure::new("no directory holds the Dockerfile"))?;
            let dockerfile = read_dockerfile(bridge, &files, options, elsewhere.name).await?;
            let own = match elsewhere.context {
                Some(_) => None,
                None => read(bridge, &files, &entry::own_ignore_name(options)).await?,
            };
            Ok::<_, Failure>((dockerfile, own))
        };
        let name = options
            .raw
            .get("contextkey")
            .map_or(CONTEXT, String::as_str);
        let shared = async {
            // Only a client's directory is narrowed by its ignore file.
            if elsewhere.context.is_some() {
                return Ok(None);
            }
            shared_ignore_file(bridge, options, name).await
        };
        let ((dockerfile, own), shared) = tokio::try_join!(files, shared)?;
        let context = if let Some(context) = &elsewhere.context {
            MainContext::Other(Box::new(narrowed(context.clone(), options)?))
        } else {
            let ignore = own.or(shared).unwrap_or_default();
            let ignore = shipway_patterns::parse_ignore_file(&String::from_utf8_lossy(&ignore));
            MainContext::Local {
                name: name.to_owned(),
                ignore,
            }
        };
        let filename = elsewhere
            .name
            .unwrap_or(entry::dockerfile_name(options))
            .to_owned();
        let language = "Dockerfile".to_owned();
        let definition = Some(shipway_llb::encode_bytes(&source));
        let dockerfile = SourceInfo {
            filename,
            data: dockerfile.to_vec(),
            language,
            definition,
        };
        Ok(Self {
            dockerfile,
            context,
            source,
        })
    }

    pub(super) fn warn(&self, bridge: &dyn Bridge, findings: &[Finding]) {
        let Some(target) = self.source.target else {
            return;
        };
        let vertex = self.source.vertices[target.vertex].digest;
        let info = Arc::new(self.dockerfile.clone());
        for finding in findings {
            bridge.warn(Warning {
                vertex,
                level: 1,
                short: finding.short(),
                detail: vec![finding.rule.description().to_owned()],
                url: finding.rule.url(),
                info: Some(Arc::clone(&info)),
                ranges: finding.lines.ranges(),
            });
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "maps an error")]
fn graph(error: BuildError) -> Failure {
    Failure::from_error(&error)
}

async fn solve(bridge: &dyn Bridge, definition: &Definition) -> Result<Option<Ref>, Failure> {
    bridge
        .solve(definition.clone(), SolveOptions::default())
        .await
}

/// A remote context also holds the Dockerfile, unless the client says that it has that itself.
async fn elsewhere(
    bridge: &dyn Bridge,
    options: &BuildOptions,
    inputs: &BTreeMap<String, Definition>,
) -> Result<Elsewhere, Failure> {
    let local = entry::dockerfile_is_local(options);
    let (context, name) = match remote_context(options).map_err(|e| failure(&e, None))? {
        Some(RemoteContext::Git(tree)) => (tree, None),
        Some(RemoteContext::Http(file)) => {
            let head = downloaded(bridge, &file).await?;
            if is_archive(&head) {
                (unpacked(&file).map_err(graph)?, None)
            } else {
                (file, Some(DOWNLOADED))
            }
        }
        None => {
            if inputs.values().any(|input| input.target.is_none()) {
                let message = "invalid nil input definition to definition op";
                return Err(Failure::of_kind(FailureKind::InvalidArgument, message));
            }
            return Ok(Elsewhere {
                context: inputs.get(CONTEXT).cloned(),
                dockerfile: inputs.get("dockerfile").filter(|_| !local).cloned(),
                name: None,
            });
        }
    };
    let dockerfile = (!local).then(|| context.clone());
    let name = name.filter(|_| !local);
    Ok(Elsewhere {
        context: Some(context),
        dockerfile,
        name,
    })
}

async fn downloaded(bridge: &dyn Bridge, file: &Definition) -> Result<Bytes, Failure> {
    let solved = solve(bridge, file)
        .await
        .map_err(|e| e.context("failed to resolve httpcontext"))?;
    let solved = solved.ok_or_else(|| Failure::new("failed to resolve httpcontext"))?;
    let head = bridge.read_file(&solved, DOWNLOADED, Some((0, HEAD))).await;
    head.map_err(|e| e.context("failed to read downloaded context"))
}

fn narrowed(context: Definition, options: &BuildOptions) -> Result<Definition, Failure> {
    match options.raw.get("contextsubdir") {
        Some(dir) => subdirectory(&context, dir).map_err(graph),
        None => Ok(context),
    }
}

/// True for the beginning of a tar archive, compressed or not.
fn is_archive(head: &[u8]) -> bool {
    let magics: [&[u8]; 4] = [b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    magics.iter().any(|magic| head.starts_with(magic)) || is_tar(head)
}

/// True where the first block's checksum is that of a tar header.
fn is_tar(head: &[u8]) -> bool {
    let Some(header) = head.get(..512) else {
        return false;
    };
    let written = String::from_utf8_lossy(&header[148..156]);
    let written = written.trim_matches(['\0', ' ']);
    let Ok(written) = u64::from_str_radix(written, 8) else {
        return false;
    };
    let sum = header.iter().enumerate().map(|(at, byte)| {
        let byte = if (148..156).contains(&at) {
            b' '
        } else {
            *byte
        };
        u64::from(byte)
    });
    sum.sum::<u64>() == written
}

async fn read(bridge: &dyn Bridge, from: &Ref, path: &str) -> Result<Option<Bytes>, Failure> {
    match bridge.read_file(from, path, None).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(failure) if failure.kind == FailureKind::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The ignore file of the client's directory.
async fn shared_ignore_file(
    bridge: &dyn Bridge,
    options: &BuildOptions,
    directory: &str,
) -> Result<Option<Bytes>, Failure> {
    let ignores = entry::ignore_source(options, directory).map_err(graph)?;
    let Some(ignores) = solve(bridge, &ignores).await? else {
        return Ok(None);
    };
    match read(bridge, &ignores, entry::IGNORE_FILE).await {
        // The client serves no files at all: whether any are needed, the Dockerfile tells.
        Err(failure) if failure.kind == FailureKind::Unimplemented => Ok(None),
        read => read,
    }
}

async fn read_dockerfile(
    bridge: &dyn Bridge,
    files: &Ref,
    options: &BuildOptions,
    only: Option<&str>,
) -> Result<Bytes, Failure> {
    let names = only.map_or_else(
        || entry::dockerfile_names(options),
        |name| vec![name.to_owned()],
    );
    for name in names {
        match read(bridge, files, &name).await {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => {}
            Err(failure) => {
                let stat = bridge.stat_file(files, &name).await;
                if stat.is_ok_and(|stat| stat.size > LARGEST) {
                    let message = "Dockerfile exceeds maximum allowed size of 16 MiB";
                    return Err(Failure::new(message));
                }
                return Err(failure);
            }
        }
    }
    let name = entry::dockerfile_name(options);
    let message = format!("failed to read dockerfile: open {name}: no such file or directory");
    Err(Failure::of_kind(FailureKind::NotFound, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_known_by_its_first_bytes() {
        let mut header = [0_u8; 512];
        header[..4].copy_from_slice(b"file");
        header[100..107].copy_from_slice(b"0000644");
        let sum: u64 = header.iter().map(|b| u64::from(*b)).sum::<u64>() + 8 * 32;
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        assert!(is_archive(&header));
        header[0] = b'F';
        assert!(!is_archive(&header));
        assert!(is_archive(b"\x1f\x8b\x08\0") && is_archive(b"\x28\xb5\x2f\xfd"));
        assert!(!is_archive(b"FROM scratch\n") && !is_archive(b""));
    }
}
