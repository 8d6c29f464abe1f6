//! A build as its frontend sees it: solving graphs, reading results, finding images.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use shipway_backend::session::FileStat;
use shipway_frontend::{
    Bridge, DirEntry, GitMeta, GitObjects, HttpMeta, Ref, ResolveMode, ResolveRequest,
    ResolvedConfig, SolveOptions, SourceMeta,
};
use shipway_layers::{Need, NoReport, Snapshot};
use shipway_model::failure::FailureKind;
use shipway_model::op::SourceOp;
use shipway_model::progress::{Event, Sink, Warning};
use shipway_model::{Definition, Digest, Failure, ImageRef};
use shipway_source::git::GitRepo;
use shipway_source::http::HttpFile;
use shipway_source::layout::LayoutImage;
use shipway_source::resolve::{Lookup, LookupEnv};
use shipway_tree::{Kind, Last, Stack, Stat};

use crate::job::Build;
use crate::vertex::PseudoVertex;

/// Largest piece of a file that is handed out at once, in bytes: what one message holds, with room to spare.
const FILE_LIMIT: u64 = 16 << 20;

#[async_trait]
impl Bridge for Build {
    async fn solve(
        &self,
        definition: Definition,
        options: SolveOptions,
    ) -> Result<Option<Ref>, Failure> {
        self.import_caches(&options.cache_imports)?;
        let definition = self.policies(&options.policies)?.apply(definition)?;
        let solved = self.add_ref(definition)?;
        if options.evaluate
            && let Some(solved) = &solved
        {
            self.value(&solved.id).await?;
        }
        Ok(solved)
    }

    async fn evaluate(&self, result: &Ref) -> Result<(), Failure> {
        self.value(&result.id).await.map(drop)
    }

    async fn read_file(
        &self,
        result: &Ref,
        path: &str,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, Failure> {
        let path = path.to_owned();
        self.with_tree(result, move |tree| read(tree, &path, range))
            .await
    }

    async fn read_dir(
        &self,
        result: &Ref,
        path: &str,
        pattern: &str,
    ) -> Result<Vec<DirEntry>, Failure> {
        let (path, pattern) = (path.to_owned(), pattern.to_owned());
        self.with_tree(result, move |tree| list(tree, &path, &pattern))
            .await
    }

    async fn stat_file(&self, result: &Ref, path: &str) -> Result<DirEntry, Failure> {
        let path = path.to_owned();
        self.with_tree(result, move |tree| stat(tree, &path)).await
    }

    async fn resolve_image(&self, request: ResolveRequest) -> Result<ResolvedConfig, Failure> {
        let name = if request.log_name.is_empty() {
            format!("resolve image config for {}", request.reference)
        } else {
            request.log_name.clone()
        };
        let digest = Digest::of(format!("{name} {:?}", request.platform));
        let sink = Arc::clone(self.progress()) as Arc<dyn Sink>;
        let vertex = PseudoVertex::start(digest, &name, sink);
        let resolved = self.resolve(&request).await;
        vertex.end(&resolved);
        resolved
    }

    async fn resolve_source(
        &self,
        source: &SourceOp,
        log_name: &str,
        git_objects: bool,
    ) -> Result<SourceMeta, Failure> {
        let name = match log_name {
            "" => format!("resolve {}", source.identifier),
            name => name.to_owned(),
        };
        let digest = Digest::of(format!("{name} {:?}", source.attrs));
        let sink = Arc::clone(self.progress()) as Arc<dyn Sink>;
        let judged = self.policies(&[])?.judge(source);
        let judged = judged
            .map_err(|e| Failure::from(e).context("could not resolve image due to policy"))?;
        let vertex = PseudoVertex::start(digest, &name, sink);
        let resolved = self
            .source_meta(judged.as_ref().unwrap_or(source), git_objects)
            .await;
        vertex.end(&resolved);
        resolved
    }

    fn warn(&self, warning: Warning) {
        self.progress().send(Event::Warning(Box::new(warning)));
    }

    fn session(&self) -> &str {
        &self.session
    }
}

impl Build {
    async fn resolve(&self, request: &ResolveRequest) -> Result<ResolvedConfig, Failure> {
        let judged = self.judged_image(request)?;
        let reference: Result<ImageRef, _> = match &judged {
            None => request.reference.parse(),
            Some(source) => match source.split() {
                Some(("docker-image", rest)) => rest.parse(),
                _ => {
                    return Ok(ResolvedConfig {
                        reference: request.reference.clone(),
                        digest: Digest::of([]),
                        config: Bytes::new(),
                        replaced: judged,
                    });
                }
            },
        };
        let reference = reference
            .map_err(|e: shipway_model::reference::InvalidReference| Failure::from_error(&e))?;
        let env = &self.ops.env;
        let access = env.access(&[self.session.as_str().into()]).await;
        let lookup = match request.mode {
            ResolveMode::ForcePull => Lookup::Registry,
            ResolveMode::Default | ResolveMode::PreferLocal => Lookup::LocalFirst,
        };
        let platform = request.platform.as_ref().unwrap_or(&env.platform);
        if let Some((session, store)) = &request.oci_layout {
            let layout = LayoutImage::new(&request.reference, session, store)?;
            let own = [self.session.as_str().into()];
            let (image, _) = layout.resolve(env, &own, platform).await?;
            let (digest, config) = (image.target.digest, image.config);
            return Ok(ResolvedConfig {
                reference: reference.to_string(),
                digest,
                config,
                replaced: None,
            });
        }
        let lookup_env = LookupEnv {
            namespace: &env.namespace,
            lease: &env.lease,
            access: &access,
        };
        let image = env
            .resolver
            .resolve(&reference, platform, lookup, &lookup_env)
            .await?;
        Ok(ResolvedConfig {
            reference: reference.to_string(),
            digest: image.target.digest,
            config: image.config,
            replaced: None,
        })
    }

    /// What policies put in an image's place; `None` where it stays. Images of clients' layouts are judged when they are used.
    fn judged_image(&self, request: &ResolveRequest) -> Result<Option<SourceOp>, Failure> {
        if request.oci_layout.is_some() {
            return Ok(None);
        }
        let source = SourceOp {
            identifier: format!("docker-image://{}", request.reference),
            attrs: BTreeMap::new(),
        };
        let judged = self.policies(&request.policies)?.judge(&source);
        judged.map_err(|e| Failure::from(e).context("could not resolve image due to policy"))
    }

    async fn source_meta(
        &self,
        source: &SourceOp,
        git_objects: bool,
    ) -> Result<SourceMeta, Failure> {
        let (env, sessions) = (&self.ops.env, [self.session.as_str().into()]);
        match source.split() {
            Some(("git", rest)) => {
                let repo = GitRepo::new(rest, &source.attrs)?;
                let (revision, objects) = if git_objects {
                    let found = repo.objects(env, &sessions).await?;
                    let objects = GitObjects {
                        commit: found.commit_object,
                        tag: found.tag_object,
                        committed: found.committed,
                    };
                    (found.revision, Some(objects))
                } else {
                    (repo.resolve(env, &sessions).await?, None)
                };
                Ok(SourceMeta::Git(GitMeta {
                    checksum: revision.checksum,
                    reference: revision.reference,
                    commit_checksum: revision.commit,
                    objects,
                }))
            }
            Some(("http" | "https", _)) => {
                let file = HttpFile::new(&source.identifier, &source.attrs)?;
                let (checksum, filename, modified) = file.meta(env, &sessions).await?;
                let last_modified = modified.map(u64::cast_signed);
                Ok(SourceMeta::Http(HttpMeta {
                    checksum,
                    filename,
                    last_modified,
                }))
            }
            _ => {
                let message = format!("resolving {:?} is not supported", source.identifier);
                Err(Failure::of_kind(FailureKind::Unimplemented, message))
            }
        }
    }

    /// Runs `look` on the files of a result, where blocking is allowed.
    async fn with_tree<T: Send + 'static>(
        &self,
        result: &Ref,
        look: impl FnOnce(&Stack) -> Result<T, shipway_tree::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let snapshot: Snapshot = self.value(&result.id).await?;
        let need = Need {
            namespace: self.ops.env.namespace.clone(),
            lease: self.ops.env.lease.clone(),
            access: self.ops.env.access(&[self.session.as_str().into()]).await,
            report: Arc::new(NoReport),
        };
        let paths = snapshot.materialise(&self.parts.layers, &need).await?;
        let looked = tokio::task::spawn_blocking(move || look(&Stack::open(paths)?));
        looked
            .await
            .map_err(|e| Failure::from_error(&e))?
            .map_err(|e| {
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
}

fn read(tree: &Stack, path: &str, range: Option<(u64, u64)>) -> Result<Bytes, shipway_tree::Error> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let (rel, entry) = tree.find(Path::new(path), Last::Follow)?;
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

fn stat(tree: &Stack, path: &str) -> Result<FileStat, shipway_tree::Error> {
    let (rel, entry) = tree.find(Path::new(path), Last::Keep)?;
    let name = rel
        .file_name()
        .map_or_else(|| ".".into(), |n| n.to_string_lossy().into_owned());
    describe(tree, entry.layer, &rel, &entry.stat, name)
}

fn list(tree: &Stack, path: &str, pattern: &str) -> Result<Vec<FileStat>, shipway_tree::Error> {
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
