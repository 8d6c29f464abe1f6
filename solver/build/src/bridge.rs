//! A build as its frontend sees it: solving graphs, reading results, finding images.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use shipway_attest::capture::ImageSource;
use shipway_frontend::{
    Bridge, DirEntry, FrontendRequest, FrontendResult, Ref, ResolveMode, ResolveRequest,
    ResolvedConfig, SolveOptions,
};
use shipway_layers::{Need, NoReport, Snapshot};
use shipway_model::metadata::SourceMeta;
use shipway_model::op::SourceOp;
use shipway_model::progress::{Event, Sink, Warning};
use shipway_model::{Definition, Digest, Failure, ImageRef};
use shipway_source::layout::LayoutImage;
use shipway_source::resolve::Lookup;
use shipway_tree::Stack;

use crate::job::Build;
use crate::look;
use crate::scope::Scope;
use crate::vertex::PseudoVertex;

#[async_trait]
impl Bridge for Build {
    async fn solve(
        &self,
        definition: Definition,
        options: SolveOptions,
    ) -> Result<Option<Ref>, Failure> {
        let solved = self.add(definition, &options, self.root()).await?;
        if options.evaluate
            && let Some(solved) = &solved
        {
            self.value(&solved.id).await?;
        }
        Ok(solved)
    }

    async fn frontend(
        self: Arc<Self>,
        name: &str,
        request: FrontendRequest,
    ) -> Result<FrontendResult, Failure> {
        self.solve_frontend(name, request, self.root()).await
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
        self.with_tree(result, move |tree| look::read(tree, &path, range))
            .await
    }

    async fn read_dir(
        &self,
        result: &Ref,
        path: &str,
        pattern: &str,
    ) -> Result<Vec<DirEntry>, Failure> {
        let (path, pattern) = (path.to_owned(), pattern.to_owned());
        self.with_tree(result, move |tree| look::list(tree, &path, &pattern))
            .await
    }

    async fn stat_file(&self, result: &Ref, path: &str) -> Result<DirEntry, Failure> {
        let path = path.to_owned();
        self.with_tree(result, move |tree| look::stat(tree, &path))
            .await
    }

    async fn resolve_image(&self, request: ResolveRequest) -> Result<ResolvedConfig, Failure> {
        self.look_up(request, self.root()).await
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
        let judged = self.judges.judge(source, None, &[]).await;
        let judged =
            judged.map_err(|failure| failure.context("could not resolve image due to policy"))?;
        let vertex = PseudoVertex::start(digest, &name, sink);
        let source = judged.as_ref().unwrap_or(source);
        let resolved = self.judges.lookup.remote(source, git_objects).await;
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
    /// Adds a graph, as the build's policies have it.
    pub(crate) async fn add(
        &self,
        definition: Definition,
        options: &SolveOptions,
        scope: &Arc<Scope>,
    ) -> Result<Option<Ref>, Failure> {
        self.import_caches(&options.cache_imports)?;
        let definition = self.judges.apply(definition, &options.policies).await?;
        self.add_ref(definition, scope)
    }

    /// Looks an image up, and notes for whom: provenance tells it.
    pub(crate) async fn look_up(
        &self,
        request: ResolveRequest,
        scope: &Scope,
    ) -> Result<ResolvedConfig, Failure> {
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
        let resolved = resolved?;
        // A policy may have put something else than an image in its place.
        let is_image = !resolved.config.is_empty();
        if let (true, Ok(reference)) = (is_image, resolved.reference.parse()) {
            scope.looked_up(ImageSource {
                reference,
                platform: request.platform,
                digest: Some(resolved.digest),
                local: request.oci_layout.is_some(),
            });
        }
        Ok(resolved)
    }

    async fn resolve(&self, request: &ResolveRequest) -> Result<ResolvedConfig, Failure> {
        let judged = self.judged_image(request).await?;
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
        let (lookup, platform) = (&self.judges.lookup, request.platform.as_ref());
        let found = if let Some((session, store)) = &request.oci_layout {
            let layout = LayoutImage::new(&request.reference, session, store)?;
            lookup.layout_image(&layout, platform).await?
        } else {
            let place = match request.mode {
                ResolveMode::ForcePull => Lookup::Registry,
                ResolveMode::Default | ResolveMode::PreferLocal => Lookup::LocalFirst,
            };
            lookup.image(&reference, platform, place).await?
        };
        Ok(ResolvedConfig {
            reference: reference.to_string(),
            digest: found.digest,
            config: found.config,
            replaced: None,
        })
    }

    /// What policies put in an image's place; `None` where it stays. Images of clients' layouts are judged when they are used.
    async fn judged_image(&self, request: &ResolveRequest) -> Result<Option<SourceOp>, Failure> {
        if request.oci_layout.is_some() {
            return Ok(None);
        }
        let source = SourceOp {
            identifier: format!("docker-image://{}", request.reference),
            attrs: BTreeMap::new(),
        };
        let platform = request.platform.as_ref();
        let judged = self.judges.judge(&source, platform, &request.policies);
        let judged = judged.await;
        judged.map_err(|failure| failure.context("could not resolve image due to policy"))
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
            lease: self.ops.env.lease.hold().await?,
            access: self.ops.env.access(&[self.session.as_str().into()]).await,
            report: Arc::new(NoReport),
        };
        let paths = snapshot.materialise(&self.parts.layers, &need).await?;
        look::at(paths, look).await
    }
}
