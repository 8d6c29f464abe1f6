//! Exporters: a build's results as an image in containerd, as an archive, or as files at the client.

mod archive;
mod attest;
mod config;
mod files;
mod image;
mod land;
mod notes;
mod options;
mod push;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use shipway_backend::{Namespace, Registry, RegistryAccess, Session};
use shipway_layers::{Layers, Need, Report, Snapshot};
use shipway_model::failure::FailureKind;
use shipway_model::{Descriptor, Failure, Platform};

pub use attest::{Attestation, AttestationContent, MakeContent};
pub use options::{InvalidOption, Options};

/// One exporter of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportRequest {
    /// `image`, `oci`, `docker`, `local` or `tar`.
    pub kind: String,
    /// Its options, as sent.
    pub attrs: BTreeMap<String, String>,
    /// Its place among the request's exporters: names the client's receiver.
    pub index: usize,
}

/// What is exported.
#[derive(Debug, Clone, Default)]
pub struct Exportable {
    /// One result per platform, in the order asked for.
    pub results: Vec<PlatformResult>,
    /// True where the client asked for several platforms, even if one came out.
    pub multi_platform: bool,
    /// `SOURCE_DATE_EPOCH`: seconds since 1970.
    pub epoch: Option<i64>,
    /// Attestations by the keys of results.
    pub attestations: BTreeMap<String, Vec<Attestation>>,
}

impl Exportable {
    /// The attestations of a result.
    pub(crate) fn attestations_of(&self, result: &PlatformResult) -> &[Attestation] {
        self.attestations
            .get(&result.key)
            .map_or(&[], Vec::as_slice)
    }
}

/// The result for one platform.
#[derive(Debug, Clone)]
pub struct PlatformResult {
    /// Key of the platform, such as `linux/amd64`.
    pub key: String,
    /// The platform.
    pub platform: Platform,
    /// The files.
    pub snapshot: Snapshot,
    /// The image configuration that the frontend made.
    pub config: Option<Bytes>,
    /// Cache records to write into the image configuration.
    pub cache: Option<Bytes>,
}

/// Surroundings of an export.
#[derive(Clone)]
pub struct ExportEnv {
    /// Layers of this machine.
    pub layers: Layers,
    /// Namespace, lease, credentials, and where to report.
    pub need: Need,
    /// Registries.
    pub registry: Arc<dyn Registry>,
    /// The client.
    pub session: Option<Arc<dyn Session>>,
    /// Snapshotter that unpacked images land in.
    pub snapshotter: String,
    /// Our own snapshotter's name: landing there takes no copies.
    pub own_snapshotter: String,
    /// Platform of this machine: only its images are unpacked.
    pub host: Platform,
}

impl ExportEnv {
    fn namespace(&self) -> &Namespace {
        &self.need.namespace
    }

    fn report(&self) -> &dyn Report {
        &*self.need.report
    }

    fn access(&self, insecure: bool) -> RegistryAccess {
        RegistryAccess {
            insecure: insecure || self.need.access.insecure,
            ..self.need.access.clone()
        }
    }

    fn client(&self) -> Result<&Arc<dyn Session>, Failure> {
        self.session
            .as_ref()
            .ok_or_else(|| Failure::new("this export needs a client session"))
    }
}

/// What an exporter has done.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Exported {
    /// What the client is told.
    pub response: BTreeMap<String, String>,
    /// What it stored in containerd.
    pub stored: Option<Descriptor>,
}

impl From<BTreeMap<String, String>> for Exported {
    fn from(response: BTreeMap<String, String>) -> Self {
        Self {
            response,
            stored: None,
        }
    }
}

/// A checked request: what it will do is known, and that its options are valid.
#[derive(Debug, Clone)]
pub struct Exporter {
    kind: Kind,
    options: Options,
    index: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image,
    Oci,
    Docker,
    Local,
    Tar,
}

impl Exporter {
    /// Checks a request before anything runs.
    pub fn new(request: &ExportRequest) -> Result<Self, Failure> {
        let kind = match request.kind.as_str() {
            "image" => Kind::Image,
            "oci" => Kind::Oci,
            "docker" => Kind::Docker,
            "local" => Kind::Local,
            "tar" => Kind::Tar,
            other => {
                return Err(Failure::new(format!(
                    "exporter {other:?} could not be found"
                )));
            }
        };
        let mut attrs = request.attrs.clone();
        if kind == Kind::Image {
            // The image store holds indexes as well as images.
            let inline = attrs.entry("attestation-inline".to_owned());
            inline.or_insert_with(|| "true".to_owned());
        }
        let options = Options::parse(&attrs, kind == Kind::Docker)
            .map_err(|e| Failure::of_kind(FailureKind::InvalidArgument, e.to_string()))?;
        Ok(Self {
            kind,
            options,
            index: request.index,
        })
    }

    /// Text to show.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Image => "exporting to image",
            Kind::Oci => "exporting to oci image format",
            Kind::Docker => "exporting to docker image format",
            Kind::Local => "exporting to client directory",
            Kind::Tar => "exporting to client tarball",
        }
    }

    /// How this exporter's layers are compressed, where it makes blobs: a build can make them ahead.
    #[must_use]
    pub fn blob_options(&self, epoch: Option<i64>) -> Option<(shipway_layers::BlobOptions, bool)> {
        match self.kind {
            Kind::Image | Kind::Oci | Kind::Docker => Some((
                self.options.blob_options(epoch),
                self.options.force_compression,
            )),
            Kind::Local | Kind::Tar => None,
        }
    }

    /// Exports.
    pub async fn export(&self, what: &Exportable, env: &ExportEnv) -> Result<Exported, Failure> {
        let response = match self.kind {
            Kind::Image => return image::export(&self.options, what, env).await,
            Kind::Oci | Kind::Docker => {
                let docker = self.kind == Kind::Docker;
                archive::export(&self.options, docker, self.index, what, env).await?
            }
            Kind::Local => files::local(&self.options, self.index, what, env).await?,
            Kind::Tar => files::tar(&self.options, self.index, what, env).await?,
        };
        Ok(response.into())
    }
}
