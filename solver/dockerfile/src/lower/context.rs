//! Build contexts: the main one, and named ones that stand in for stages, images and `--from`.

use super::{Lowering, git};
use crate::error::{Error, ErrorKind, OptionError, StageError};
use crate::image::Image;
use crate::options::{BuildOptions, OptionMap};
use crate::resolve::{ImageRequest, layout_store};
use crate::syntax::go_bool;
use shipway_llb::build::{
    self, BuildError, Copy, Deferred, FileActions, Git, Http, Local, LocalDiffer, State,
};
use shipway_llb::{Graph, VertexOptions};
use shipway_model::{Definition, Failure, ImageRef, Platform};
use shipway_patterns::{PatternMatcher, parse_ignore_file};

/// The file that lists what a context leaves out.
pub(super) const IGNORE_FILE: &str = ".dockerignore";

/// Where COPY and ADD take files from.
#[derive(Debug, Clone)]
pub enum MainContext {
    /// A directory of the client.
    Local {
        /// Its name, mostly `context`.
        name: String,
        /// Patterns of what is left out.
        ignore: Vec<String>,
    },
    /// Something else that is already LLB.
    Other(Box<Definition>),
}

impl MainContext {
    /// Matches what is left out; none where nothing is, or where the patterns are broken, which the transfer reports.
    pub(super) fn ignore_matcher(&self) -> Option<PatternMatcher> {
        match self {
            Self::Local { ignore, .. } if !ignore.is_empty() => PatternMatcher::new(ignore).ok(),
            Self::Local { .. } | Self::Other(_) => None,
        }
    }

    /// True where some pattern leaves out all there is.
    pub(super) fn ignores_everything(&self) -> bool {
        let all = |pattern: &String| matches!(pattern.as_str(), "*" | "**" | "**/*");
        matches!(self, Self::Local { ignore, .. } if ignore.iter().any(all))
    }
}

/// A context that the client names by a URL.
#[derive(Debug, Clone)]
pub enum RemoteContext {
    /// A git repository.
    Git(Definition),
    /// A file: an archive of the context, or a Dockerfile alone. Its name in the result is `context`.
    Http(Definition),
}

/// The remote context that the options name, if they name one.
///
/// # Errors
/// A git reference that cannot be read.
pub fn remote_context(options: &BuildOptions) -> Result<Option<RemoteContext>, Error> {
    let raw = &options.raw;
    let key = raw.get("contextkey").map_or("context", String::as_str);
    let Some(url) = raw.get(key) else {
        return Ok(None);
    };
    let mut graph = Graph::default();
    if let Some(mut source) = git::context(url).map_err(Error::new)? {
        let keep = raw
            .get("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR")
            .and_then(|v| go_bool(v));
        source.keep_git_dir |= keep == Some(true);
        source.advice = options.git_advice;
        let dated = raw
            .get("build-arg:SOURCE_DATE_EPOCH")
            .is_some_and(|epoch| !epoch.is_empty());
        if source.mtime.is_empty() && dated {
            source.mtime = "commit".into();
        }
        let state = git_source(&mut graph, source, url);
        return Ok(Some(RemoteContext::Git(graph.definition(&state, None)?)));
    }
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        return Ok(None);
    }
    let http = Http {
        url: url.clone(),
        filename: "context".into(),
        ..Http::default()
    };
    let state = graph.http(http, internal("load remote build context"));
    Ok(Some(RemoteContext::Http(graph.definition(&state, None)?)))
}

/// The tree that an archive holds, which is the file `context` of another definition.
///
/// # Errors
/// Never in practice: the graph is complete.
pub fn unpacked(archive: &Definition) -> Result<Definition, BuildError> {
    let copy = Copy {
        src: "/context".into(),
        dest: "/".into(),
        unpack: true,
        ..Copy::default()
    };
    copied(archive, copy)
}

/// A directory of another definition, as root.
///
/// # Errors
/// Never in practice: the graph is complete.
pub fn subdirectory(tree: &Definition, dir: &str) -> Result<Definition, BuildError> {
    let copy = Copy {
        src: dir.to_owned(),
        dest: "/".into(),
        contents_only: true,
        ..Copy::default()
    };
    copied(tree, copy)
}

fn copied(from: &Definition, copy: Copy) -> Result<Definition, BuildError> {
    let mut graph = Graph::default();
    let source = graph.import(from);
    let copy = FileActions::new().copy(&source, copy);
    let state = graph.file(&State::scratch(), copy, VertexOptions::default());
    graph.definition(&state, None)
}

pub(super) fn internal(name: &str) -> VertexOptions {
    VertexOptions::named(format!("[internal] {name}"))
}

fn git_source(graph: &mut Graph, source: Git, written: &str) -> State {
    graph.git(source, internal(&format!("load git source {written}")))
}

/// A context that the client gave a name, such as `context:base=docker-image://…`.
#[derive(Debug, Clone)]
pub(super) struct NamedContext {
    /// Name without platform.
    name: String,
    /// Name under which it was found.
    full_name: String,
    /// Kind and place.
    input: String,
    platform: Option<Platform>,
}

/// A named context that is known.
pub(super) struct Loaded {
    kind: LoadedKind,
    pub(super) image: Option<Image>,
}

enum LoadedKind {
    Scratch,
    Image {
        reference: String,
        options: VertexOptions,
    },
    Layout {
        reference: String,
        store: (String, String),
        options: VertexOptions,
    },
    Git(Box<Git>, String),
    Http(String, VertexOptions),
    Local(LocalContext),
    Input(Box<Definition>),
}

/// A directory of the client, before it is known which of its paths are needed.
#[derive(Debug, Clone)]
struct LocalContext {
    local: Local,
    options: VertexOptions,
}

/// A local context whose place in the graph waits for its paths.
pub(super) struct PendingLocal {
    place: Deferred,
    context: LocalContext,
    used: usize,
}

impl Lowering<'_> {
    /// The context of that name, if the client gave one. `as_stage` looks it up for a stage, whose platform may be open.
    pub(super) fn named_context(
        &self,
        name: &str,
        platform: Option<&Platform>,
        as_stage: bool,
    ) -> Result<Option<NamedContext>, Error> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return Ok(None);
        }
        let requested = (!self.implicit_platform).then_some(&self.platform);
        let platform = if as_stage {
            platform.or(requested)
        } else {
            platform
        };
        let reference: ImageRef = name
            .parse()
            .map_err(|_| Error::new(OptionError::ContextName(name.to_owned())))?;
        let familiar = reference.familiar();
        let name = familiar
            .strip_suffix(":latest")
            .unwrap_or(&familiar)
            .to_owned();
        let normal = platform.map_or_else(Platform::host, Platform::normalized);
        let specific = format!("{name}::{}", crate::platform::format_all(&normal));
        let found = [&specific, &name].into_iter().find_map(|full_name| {
            let input = self.options.raw.get(&format!("context:{full_name}"))?;
            Some((full_name.clone(), input.clone()))
        });
        Ok(found.map(|(full_name, input)| NamedContext {
            name: name.clone(),
            full_name,
            input,
            platform: platform.cloned(),
        }))
    }

    /// Finds out what a named context is.
    pub(super) async fn load_context(&self, context: &NamedContext) -> Result<Loaded, Error> {
        let (kind, rest) = context.input.split_once(':').ok_or_else(|| {
            let text = format!(
                "invalid context specifier {} for {}",
                context.input, context.full_name
            );
            Error::new(ErrorKind::Failed(Failure::new(text)))
        })?;
        let kind = if kind.starts_with("git@") {
            "git"
        } else {
            kind
        };
        match kind {
            "docker-image" => {
                self.load_image(context, rest.trim_start_matches("//"))
                    .await
            }
            "oci-layout" => {
                self.load_layout(context, rest.trim_start_matches("//"))
                    .await
            }
            "git" | "http" | "https" => self.load_remote(context, kind),
            "local" => self.load_local(context, rest).await,
            "input" => self.load_input(context, rest).await,
            other => {
                let name = &context.full_name;
                Err(failed(format!(
                    "unsupported context source {other} for {name}"
                )))
            }
        }
    }

    async fn load_image(&self, context: &NamedContext, name: &str) -> Result<Loaded, Error> {
        if name == "scratch" {
            return Ok(Loaded {
                kind: LoadedKind::Scratch,
                image: None,
            });
        }
        let reference = reference(name)?;
        let label = format!("[context {}]", context.full_name);
        let request = ImageRequest {
            reference: reference.to_string(),
            platform: context.platform.clone(),
            resolve_mode: self.options.resolve_mode,
            log_name: format!("{label} load metadata for {name}"),
            layout: None,
        };
        let resolved = self.resolver.image_config(request).await;
        let resolved = resolved.map_err(|error| Error::new(ErrorKind::Failed(error)))?;
        if let Some(other) = &resolved.replaced {
            let (kind, rest) = other
                .split_once("://")
                .ok_or_else(|| failed(format!("could not parse ref: {other}")))?;
            let context = NamedContext {
                input: format!("{kind}:{rest}"),
                ..context.clone()
            };
            return Box::pin(self.load_context(&context)).await;
        }
        let mut image = parse_config(&resolved.config)?;
        image.created = None;
        let options = VertexOptions::named(format!("{label} {name}"));
        let options = with_platform(options, context.platform.as_ref());
        // Upstream pins nothing here: what it resolved is what the name means during one build.
        let reference = resolved.reference;
        Ok(Loaded {
            kind: LoadedKind::Image { reference, options },
            image: Some(image),
        })
    }

    async fn load_layout(&self, context: &NamedContext, place: &str) -> Result<Loaded, Error> {
        let named = reference(place)?;
        let Some(digest) = named.digest else {
            return Err(failed(format!(
                "oci-layout reference {place:?} has no digest"
            )));
        };
        let store = place.split(['@']).next().unwrap_or_default();
        let store = match store.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name,
            _ => store,
        };
        // The store's name means nothing to people: the context's own stands in its place.
        let mut dummy = reference(&context.name)?;
        dummy.tag = None;
        let dummy = dummy.with_digest(digest).to_string();
        let label = format!("[context {}]", context.full_name);
        let store = (self.options.session.clone(), store.to_owned());
        let request = ImageRequest {
            reference: dummy.clone(),
            platform: context.platform.clone(),
            resolve_mode: self.options.resolve_mode,
            log_name: format!("{label} load metadata for {dummy}"),
            layout: Some(store.clone()),
        };
        let resolved = self.resolver.image_config(request).await;
        let resolved = resolved.map_err(|error| Error::new(ErrorKind::Failed(error)))?;
        let image = parse_config(&resolved.config)?;
        let options = VertexOptions::named(format!("{label} OCI load from client"));
        let options = with_platform(options, context.platform.as_ref());
        let kind = LoadedKind::Layout {
            reference: dummy,
            store,
            options,
        };
        Ok(Loaded {
            kind,
            image: Some(image),
        })
    }

    fn load_remote(&self, context: &NamedContext, kind: &str) -> Result<Loaded, Error> {
        let input = &context.input;
        if let Some(mut source) = git::context(input).map_err(Error::new)? {
            source.advice = self.options.git_advice;
            return Ok(Loaded {
                kind: LoadedKind::Git(Box::new(source), input.clone()),
                image: None,
            });
        }
        if kind == "git" {
            return Err(failed(format!("invalid git context {input}")));
        }
        let options = VertexOptions::named(format!("[context {}] {input}", context.full_name));
        Ok(Loaded {
            kind: LoadedKind::Http(input.clone(), options),
            image: None,
        })
    }

    async fn load_local(&self, context: &NamedContext, name: &str) -> Result<Loaded, Error> {
        let full = &context.full_name;
        let session = Some(self.options.session_of(name).to_owned());
        let ignore = Local {
            name: name.to_owned(),
            session: session.clone(),
            follow: vec![IGNORE_FILE.into()],
            shared_key_hint: format!("context:{full}-{IGNORE_FILE}"),
            differ: Some(LocalDiffer::None),
            ..Local::default()
        };
        let mut graph = Graph::default();
        let label = format!("[context {full}] load {IGNORE_FILE}");
        let state = graph.local(ignore, VertexOptions::named(label));
        let definition = graph.definition(&state, None)?;
        let file = self
            .resolver
            .inner()
            .read_file(&definition, IGNORE_FILE)
            .await;
        let file = file.map_err(|error| Error::new(ErrorKind::Failed(error)))?;
        let text = String::from_utf8_lossy(file.as_deref().unwrap_or_default()).into_owned();
        let key = format!("sharedkey:localdir:{full}");
        let key = self.options.raw.get(&key).map_or("", String::as_str);
        let local = Local {
            name: name.to_owned(),
            session,
            exclude: parse_ignore_file(&text),
            shared_key_hint: format!("context:{full}-{key}"),
            ..Local::default()
        };
        let options = VertexOptions::named(format!("[context {full}] load from client"));
        let kind = LoadedKind::Local(LocalContext { local, options });
        Ok(Loaded { kind, image: None })
    }

    async fn load_input(&self, context: &NamedContext, name: &str) -> Result<Loaded, Error> {
        let found = self.resolver.inner().input(name).await;
        let found = found.map_err(|error| Error::new(ErrorKind::Failed(error)))?;
        let full = &context.full_name;
        let definition = found.ok_or_else(|| failed(format!("invalid input {name} for {full}")))?;
        let image = input_image(&self.options.raw, name)?;
        Ok(Loaded {
            kind: LoadedKind::Input(Box::new(definition)),
            image,
        })
    }

    /// A loaded context in the graph, with the settings of its image.
    pub(super) fn context_state(&mut self, loaded: &Loaded, used: usize) -> State {
        let state = match &loaded.kind {
            LoadedKind::Scratch => State::scratch(),
            LoadedKind::Image { reference, options } => self
                .graph
                .image(build::Image::new(reference), options.clone()),
            LoadedKind::Layout {
                reference,
                store,
                options,
            } => self
                .graph
                .oci_layout(reference, &layout_store(store), options.clone()),
            LoadedKind::Git(source, written) => {
                git_source(&mut self.graph, (**source).clone(), written)
            }
            LoadedKind::Http(url, options) => {
                let http = Http {
                    url: url.clone(),
                    filename: "context".into(),
                    ..Http::default()
                };
                self.graph.http(http, options.clone())
            }
            LoadedKind::Local(context) => {
                let (place, state) = self.graph.deferred();
                self.local_contexts.push(PendingLocal {
                    place,
                    context: context.clone(),
                    used,
                });
                state
            }
            LoadedKind::Input(definition) => self.graph.import(definition),
        };
        match &loaded.image {
            Some(image) => with_image(state, image),
            None => state,
        }
    }

    /// Names the paths that contexts are needed for, once all instructions are known.
    pub(super) fn bind_contexts(&mut self) {
        let stages = self.stages.iter_mut();
        let paths = stages.flat_map(|stage| std::mem::take(&mut stage.context_paths));
        let follow = follow_paths(paths);
        let state = match &self.request.context {
            MainContext::Other(definition) => self.graph.import(definition),
            MainContext::Local { name, ignore } => {
                let local = Local {
                    name: name.clone(),
                    session: Some(self.options.session_of(name).to_owned()),
                    exclude: ignore.clone(),
                    follow,
                    shared_key_hint: name.clone(),
                    ..Local::default()
                };
                self.graph.local(local, internal("load build context"))
            }
        };
        self.graph.bind(self.context_place, &state);
        for pending in std::mem::take(&mut self.local_contexts) {
            let follow = follow_paths(self.used_paths[pending.used].iter().cloned());
            let local = Local {
                follow,
                ..pending.context.local
            };
            let state = self.graph.local(local, pending.context.options);
            self.graph.bind(pending.place, &state);
        }
    }
}

/// The paths to transfer; none means all of them.
fn follow_paths(paths: impl Iterator<Item = String>) -> Vec<String> {
    let mut all = Vec::new();
    for mut path in paths {
        if path == "/" {
            return Vec::new();
        }
        path.drain(..path.len() - path.trim_start_matches('/').len());
        all.push(path);
    }
    all.sort();
    all.dedup();
    all
}

fn with_platform(options: VertexOptions, platform: Option<&Platform>) -> VertexOptions {
    match platform {
        Some(platform) => options.platform(platform.clone()),
        None => options,
    }
}

fn with_image(mut state: State, image: &Image) -> State {
    state = state.envs(image.config.env.iter().filter(|(name, _)| !name.is_empty()));
    state = state.dir(&image.config.working_dir);
    if image.architecture.is_empty() || image.os.is_empty() {
        return state;
    }
    state.platform(&image.platform())
}

/// The image configuration that a client sent along with an input.
fn input_image(raw: &OptionMap, name: &str) -> Result<Option<Image>, Error> {
    use base64::Engine as _;
    let Some(text) = raw.get(&format!("input-metadata:{name}")) else {
        return Ok(None);
    };
    let bad = || failed(format!("failed to parse input metadata {text}"));
    let metadata: std::collections::BTreeMap<String, Option<String>> =
        serde_json::from_str(text).map_err(|_| bad())?;
    let Some(Some(encoded)) = metadata.get("containerimage.config") else {
        return Ok(None);
    };
    let json = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .map_err(|_| bad())?;
    parse_config(&json).map(Some)
}

fn parse_config(json: &[u8]) -> Result<Image, Error> {
    Image::parse(json).map_err(|error| Error::new(StageError::Config(error.to_string())))
}

fn reference(name: &str) -> Result<ImageRef, Error> {
    name.parse().map_err(|source| {
        Error::new(StageError::BaseName {
            name: name.to_owned(),
            source,
        })
    })
}

pub(super) fn failed(text: String) -> Error {
    Error::new(ErrorKind::Failed(Failure::new(text)))
}
