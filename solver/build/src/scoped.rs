//! A build as one frontend sees it: what it solves and looks up is noted as asked for by its request.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use shipway_frontend::{
    Bridge, DirEntry, FrontendRequest, FrontendResult, Ref, ResolveRequest, ResolvedConfig,
    SolveOptions,
};
use shipway_model::metadata::SourceMeta;
use shipway_model::op::SourceOp;
use shipway_model::progress::Warning;
use shipway_model::{Definition, Failure};

use crate::job::Build;
use crate::scope::Scope;

/// A frontend's bridge.
pub(crate) struct Scoped {
    build: Arc<Build>,
    scope: Arc<Scope>,
}

impl Scoped {
    pub(crate) fn new(build: Arc<Build>, scope: Arc<Scope>) -> Self {
        Self { build, scope }
    }
}

#[async_trait]
impl Bridge for Scoped {
    async fn solve(
        &self,
        definition: Definition,
        options: SolveOptions,
    ) -> Result<Option<Ref>, Failure> {
        let added = self.build.add(definition, &options, &self.scope);
        let solved = added.await?;
        if options.evaluate
            && let Some(solved) = &solved
        {
            self.build.value(&solved.id).await?;
        }
        Ok(solved)
    }

    async fn frontend(
        self: Arc<Self>,
        name: &str,
        request: FrontendRequest,
    ) -> Result<FrontendResult, Failure> {
        let solved = self.build.solve_frontend(name, request, &self.scope);
        solved.await
    }

    async fn evaluate(&self, result: &Ref) -> Result<(), Failure> {
        self.build.evaluate(result).await
    }

    async fn read_file(
        &self,
        result: &Ref,
        path: &str,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, Failure> {
        self.build.read_file(result, path, range).await
    }

    async fn read_dir(
        &self,
        result: &Ref,
        path: &str,
        pattern: &str,
    ) -> Result<Vec<DirEntry>, Failure> {
        self.build.read_dir(result, path, pattern).await
    }

    async fn stat_file(&self, result: &Ref, path: &str) -> Result<DirEntry, Failure> {
        self.build.stat_file(result, path).await
    }

    async fn resolve_image(&self, request: ResolveRequest) -> Result<ResolvedConfig, Failure> {
        self.build.look_up(request, &self.scope).await
    }

    async fn resolve_source(
        &self,
        source: &SourceOp,
        log_name: &str,
        git_objects: bool,
    ) -> Result<SourceMeta, Failure> {
        let resolved = self.build.resolve_source(source, log_name, git_objects);
        resolved.await
    }

    fn warn(&self, warning: Warning) {
        self.build.warn(warning);
    }

    fn session(&self) -> &str {
        self.build.session()
    }
}
