//! The end of a build: what its results are for exporters, what is said of them, and the exporters' turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use shipway_backend::RegistryAccess;
use shipway_export::{
    Attestation, AttestationContent, ExportEnv, Exportable, Exporter, PlatformResult,
};
use shipway_frontend::result::CONFIG_KEY;
use shipway_frontend::{FrontendResult, Refs};
use shipway_layers::{Need, Report, Snapshot};
use shipway_model::progress::Sink;
use shipway_model::{Digest, Failure, Platform};
use shipway_source::env::SESSION_PATIENCE;

use crate::job::{Build, unique};
use crate::request::Request;
use crate::vertex::PseudoVertex;

impl Build {
    /// What is said of the results: by their frontend, and by the builder where it is wanted.
    pub(crate) async fn attestations(
        self: &Arc<Self>,
        result: &FrontendResult,
    ) -> Result<BTreeMap<String, Vec<Attestation>>, Failure> {
        let mut all: BTreeMap<String, Vec<Attestation>> = BTreeMap::new();
        for (key, said) in &result.attestations {
            for attestation in said {
                let Some(of) = &attestation.content else {
                    let message = "attestation does not have available content";
                    return Err(Failure::new(message));
                };
                let content = self.value(&of.id).await?;
                let said = Attestation {
                    head: attestation.head.clone(),
                    content: AttestationContent::Files(content),
                };
                all.entry(key.clone()).or_default().push(said);
            }
        }
        if let Some(options) = &self.wanted.provenance {
            for (key, provenance) in self.provenance(options, result).await? {
                all.entry(key).or_default().push(provenance);
            }
        }
        Ok(all)
    }

    /// Hands the results to every exporter; gives what the client is told.
    pub(crate) async fn export(
        &self,
        request: &Request,
        result: &FrontendResult,
        snapshots: Vec<(String, Snapshot)>,
        attestations: BTreeMap<String, Vec<Attestation>>,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let mut response = BTreeMap::new();
        if request.exporters.is_empty() {
            return Ok(response);
        }
        let mut what = self.exportable(request, result, snapshots);
        what.attestations = attestations;
        for export in &request.exporters {
            let exporter = Exporter::new(export)?;
            let digest = Digest::of(unique("export"));
            let sink = Arc::clone(&self.progress) as Arc<dyn Sink>;
            let vertex = PseudoVertex::start(digest, exporter.name(), sink);
            let env = self
                .export_env(Arc::clone(&vertex) as Arc<dyn Report>)
                .await?;
            let exported = async {
                self.add_inline_caches(&exporter, result, &mut what, &env)
                    .await?;
                exporter.export(&what, &env).await
            };
            let exported = exported.await;
            vertex.end(&exported);
            let exported = exported?;
            self.made.lock().export(export.index, &exported);
            response.extend(exported.response);
        }
        Ok(response)
    }

    fn exportable(
        &self,
        request: &Request,
        result: &FrontendResult,
        snapshots: Vec<(String, Snapshot)>,
    ) -> Exportable {
        let platforms = result.platforms().unwrap_or_default().platforms;
        let multi_platform = matches!(result.refs, Refs::Map(_));
        let mut snapshots = snapshots;
        // Results that came over the wire are in no order; the list of platforms is.
        let place = |key: &str| platforms.iter().position(|platform| platform.id == key);
        snapshots.sort_by_key(|(key, _)| place(key).unwrap_or(usize::MAX));
        let results = snapshots.into_iter().map(|(key, snapshot)| {
            let listed = platforms.iter().find(|p| p.id == key || key.is_empty());
            let platform = listed.map_or_else(|| self.platform_of(result), |p| p.platform.clone());
            let key = if key.is_empty() { platform.key() } else { key };
            let config = result.metadata_of(CONFIG_KEY, &key).cloned();
            PlatformResult {
                key,
                platform,
                snapshot,
                config,
                cache: None,
            }
        });
        Exportable {
            results: results.collect(),
            multi_platform,
            epoch: request.epoch().or_else(|| epoch_of(result)),
            attestations: BTreeMap::new(),
        }
    }

    /// Platform of a result that names none: what its image configuration says, else this machine's.
    pub(crate) fn platform_of(&self, result: &FrontendResult) -> Platform {
        let config = result.metadata.get(CONFIG_KEY);
        let named: Option<Platform> = config.and_then(|json| serde_json::from_slice(json).ok());
        named.unwrap_or_else(|| self.parts.settings.platform.clone())
    }

    pub(crate) async fn export_env(&self, report: Arc<dyn Report>) -> Result<ExportEnv, Failure> {
        let session = if self.session.is_empty() {
            None
        } else {
            self.parts
                .sessions
                .get(&self.session, SESSION_PATIENCE)
                .await
                .ok()
        };
        let auth = session.iter().map(|session| session.auth()).collect();
        Ok(ExportEnv {
            layers: self.parts.layers.clone(),
            need: Need {
                namespace: self.ops.env.namespace.clone(),
                lease: self.ops.env.lease.hold().await?,
                access: RegistryAccess {
                    auth,
                    insecure: false,
                },
                report,
            },
            registry: Arc::clone(&self.parts.registry),
            session,
            snapshotter: self.parts.settings.snapshotter.clone(),
            own_snapshotter: self.parts.settings.own_snapshotter.clone(),
            host: self.parts.settings.platform.clone(),
        })
    }
}

/// The time that a frontend dates its result to: `source.date.epoch`, of any platform.
fn epoch_of(result: &FrontendResult) -> Option<i64> {
    let dated = |key: &String| key.split('/').next() == Some("source.date.epoch");
    let (_, value) = result.metadata.iter().find(|(key, _)| dated(key))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}
