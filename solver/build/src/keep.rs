//! Keeps a failed step's root as an image where the client asks for that, so that it can be started and examined when
//! the build is long over. The step's failure stays what it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use shipway_export::{ExportRequest, Exportable, Exporter, PlatformResult};
use shipway_layers::Report;
use shipway_model::op::ExecOp;
use shipway_model::progress::Sink;
use shipway_model::{Digest, Failure, FailureDetail};
use shipway_ops::FailedStep;

use crate::job::{Build, unique};
use crate::request::Request;
use crate::vertex::PseudoVertex;

/// Option that names the image.
const OPTION: &str = "shipway.keep-failed";

/// Type of the detail that says what image was made.
const KEPT: &str = "shipway.dev/Kept+json";

impl Build {
    /// The failure, with the image that was made of the failed step where one was asked for and can be.
    pub(crate) async fn keep_failed_step(&self, request: &Request, failure: Failure) -> Failure {
        let Some(name) = request.options.get(OPTION) else {
            return failure;
        };
        let mut steps = failure.details.iter().filter_map(FailedStep::of);
        let Some((step, op)) = steps.find_map(|step| Some((step, step.process()?))) else {
            return failure;
        };
        match self.export_failed(name, step, op).await {
            Ok(()) => failure.with(FailureDetail::Opaque {
                type_url: KEPT.to_owned(),
                value: json!({"image": name}).to_string().into_bytes(),
            }),
            Err(error) => {
                tracing::warn!(image = name, %error, "keeping a failed step");
                let message = format!("{} (keeping the step: {error})", failure.message);
                Failure {
                    message: message.into(),
                    ..failure
                }
            }
        }
    }

    async fn export_failed(
        &self,
        name: &str,
        step: &FailedStep,
        op: &ExecOp,
    ) -> Result<(), Failure> {
        let root = op.mounts.iter().position(|mount| mount.dest == "/");
        let kept = root.and_then(|root| step.mounts.get(root)?.as_ref());
        let kept = kept.ok_or_else(|| Failure::new("the step has left no root"))?;
        let platform = self.parts.settings.platform.clone();
        let meta = &op.meta;
        let config = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {
                "Env": meta.env,
                "WorkingDir": meta.cwd,
                "User": meta.user,
                "Cmd": ["/bin/sh"],
            },
        });
        let what = Exportable {
            results: vec![PlatformResult {
                key: platform.key(),
                platform,
                snapshot: kept.snapshot.clone(),
                config: Some(config.to_string().into()),
                cache: None,
            }],
            multi_platform: false,
            epoch: None,
            attestations: BTreeMap::new(),
        };
        let attrs = [("name", name), ("unpack", "true")];
        let attrs = attrs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let export = ExportRequest {
            kind: "image".to_owned(),
            attrs: BTreeMap::from(attrs),
            index: 0,
        };
        let digest = Digest::of(unique("keep"));
        let sink = Arc::clone(&self.progress) as Arc<dyn Sink>;
        let vertex = PseudoVertex::start(digest, "keeping the failed step", sink);
        let env = self
            .export_env(Arc::clone(&vertex) as Arc<dyn Report>)
            .await?;
        let exported = Exporter::new(&export)?.export(&what, &env).await;
        vertex.end(&exported);
        exported.map(drop)
    }
}
