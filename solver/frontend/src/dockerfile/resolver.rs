//! Answers the lowering's questions over the bridge.

use std::collections::BTreeMap;

use async_trait::async_trait;
use shipway_dockerfile::MetaResolver;
use shipway_dockerfile::resolve::{ImageRequest, ResolvedImage};
use shipway_llb::build::ResolveMode as Asked;
use shipway_model::failure::FailureKind;
use shipway_model::metadata::SourceMeta;
use shipway_model::op::Op;
use shipway_model::{Definition, Failure};

use crate::{Bridge, ResolveMode, ResolveRequest, SolveOptions};

pub(super) struct BridgeResolver<'a> {
    pub(super) bridge: &'a dyn Bridge,
    pub(super) inputs: &'a BTreeMap<String, Definition>,
}

impl BridgeResolver<'_> {
    /// The age of a download whose server doesn't know it: that of the newest file, if it is an archive.
    async fn archive_epoch(&self, source: &Definition, name: &str) -> Result<Option<i64>, Failure> {
        if name.is_empty() {
            return Ok(None);
        }
        let Some(archive) = self.read_file(source, name).await? else {
            return Ok(None);
        };
        let newest = tokio::task::spawn_blocking(move || shipway_tree::newest_file(&archive[..]));
        newest.await.map_err(|e| Failure::from_error(&e))
    }
}

#[async_trait]
impl MetaResolver for BridgeResolver<'_> {
    async fn image_config(&self, request: ImageRequest) -> Result<ResolvedImage, Failure> {
        let mode = match request.resolve_mode {
            Asked::Default => ResolveMode::Default,
            Asked::Pull => ResolveMode::ForcePull,
            Asked::Local => ResolveMode::PreferLocal,
        };
        let found = self.bridge.resolve_image(ResolveRequest {
            reference: request.reference,
            platform: request.platform,
            mode,
            log_name: request.log_name,
            oci_layout: request.layout,
            policies: Vec::new(),
        });
        let found = found.await?;
        Ok(ResolvedImage {
            reference: found.reference,
            digest: Some(found.digest),
            config: found.config.to_vec(),
            replaced: found.replaced.map(|source| source.identifier),
        })
    }

    async fn read_file(
        &self,
        definition: &Definition,
        path: &str,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let solved = self
            .bridge
            .solve(definition.clone(), SolveOptions::default())
            .await?;
        let Some(solved) = solved else {
            return Ok(None);
        };
        match self.bridge.read_file(&solved, path, None).await {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(failure) if failure.kind == FailureKind::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn input(&self, name: &str) -> Result<Option<Definition>, Failure> {
        Ok(self.inputs.get(name).cloned())
    }

    async fn source_epoch(
        &self,
        source: &Definition,
        log_name: &str,
    ) -> Result<Option<i64>, Failure> {
        let op = source.vertices.iter().find_map(|vertex| match &vertex.op {
            Op::Source(op) => Some(op),
            _ => None,
        });
        // Only sources over git and http have an age.
        let Some(op) = op.filter(|op| matches!(op.split(), Some(("git" | "http" | "https", _))))
        else {
            return Ok(None);
        };
        Ok(
            match self.bridge.resolve_source(op, log_name, true).await? {
                // Images have an age of their own, which nobody asks for here.
                SourceMeta::Image(_) => None,
                SourceMeta::Git(git) => git.objects.map(|objects| objects.committed),
                SourceMeta::Http(http) if http.last_modified.is_some() => http.last_modified,
                SourceMeta::Http(_) => {
                    let name = op.attrs.get("http.filename").map_or("", String::as_str);
                    self.archive_epoch(source, name).await?
                }
            },
        )
    }
}
