//! Shipway's own service beside BuildKit's: repair. Decides nothing about what is repaired.

use std::sync::Arc;

use async_trait::async_trait;
use shipway_model::Failure;
use shipway_proto::upkeep::upkeep_server::Upkeep;
use shipway_proto::upkeep::{RepairRequest, RepairResponse, Snapshot};
use tonic::{Request, Response, Status};

use crate::wire::failure::to_status;

/// What a repair found, and did unless it was only asked what it would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Entries of the layer store that containerd does not know.
    pub unknown: Vec<String>,
    /// Namespace and name of snapshots that containerd knows and the layer store does not.
    pub lost: Vec<(String, String)>,
    /// What could not be done, and why.
    pub problems: Vec<String>,
}

/// Brings the layer store and containerd into agreement.
#[async_trait]
pub trait Repair: Send + Sync {
    /// Finds where they disagree, and unless `dry_run` mends it.
    async fn repair(&self, dry_run: bool) -> Result<Repaired, Failure>;
}

/// The service.
pub(crate) struct UpkeepService(pub(crate) Arc<dyn Repair>);

#[tonic::async_trait]
impl Upkeep for UpkeepService {
    async fn repair(
        &self,
        request: Request<RepairRequest>,
    ) -> Result<Response<RepairResponse>, Status> {
        let repaired = self.0.repair(request.into_inner().dry_run).await;
        let repaired = repaired.map_err(|failure| to_status(&failure))?;
        let lost = repaired.lost.into_iter();
        Ok(Response::new(RepairResponse {
            unknown: repaired.unknown,
            lost: lost
                .map(|(namespace, name)| Snapshot { namespace, name })
                .collect(),
            problems: repaired.problems,
        }))
    }
}
