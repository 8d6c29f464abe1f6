//! The worker record of a socket: what nerdctl checks word for word, and buildx shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use shipway_backend::Host;
use shipway_model::Platform;
use shipway_ops::cdi::Devices;
use shipway_proto::types::{BuildkitVersion, CdiDevice, WorkerRecord};
use tonic::Status;

use crate::wire::failure::to_status;
use crate::{Endpoint, Identity};

/// Prefix of the worker's labels.
const PREFIX: &str = "org.mobyproject.buildkit.worker.";

/// Label of ours: how steps are run in this containerd.
const EXECUTOR: &str = "shipway.dev/executor";

/// What worker records are made of.
#[derive(Clone)]
pub struct Workers {
    /// containerd.
    pub host: Arc<dyn Host>,
    /// How the daemon presents itself.
    pub identity: Arc<Identity>,
}

impl Workers {
    /// The record of a namespace, with containerd's UUID as it is now.
    pub(crate) async fn record(&self, namespace: &str) -> Result<WorkerRecord, Status> {
        let uuid = self.host.uuid().await.map_err(|e| to_status(&e.into()))?;
        let identity = &self.identity;
        let own = [
            ("executor", "containerd"),
            ("containerd.uuid", uuid.as_str()),
            ("containerd.namespace", namespace),
            ("snapshotter", &identity.snapshotter),
            ("hostname", &identity.hostname),
            ("network", &identity.network),
            ("selinux.enabled", "false"),
        ];
        let own = own
            .into_iter()
            .map(|(key, value)| (format!("{PREFIX}{key}"), value.to_owned()));
        let mut labels: BTreeMap<String, String> = own.collect();
        labels.insert(EXECUTOR.to_owned(), identity.executor.clone());
        labels.extend(identity.labels.clone());
        Ok(WorkerRecord {
            id: identity.worker.clone(),
            labels,
            platforms: machine_platforms(&identity.platforms)
                .iter()
                .map(shipway_llb::encode::encode_platform)
                .collect(),
            gc_policy: Vec::new(),
            buildkit_version: Some(self.version()),
            cdi_devices: self.devices().await,
        })
    }

    /// The devices that steps may ask for.
    async fn devices(&self) -> Vec<CdiDevice> {
        let dirs = self.identity.cdi.clone();
        let listed = tokio::task::spawn_blocking(move || {
            let devices = Devices::read(&dirs);
            let each = devices.list().map(|device| CdiDevice {
                name: device.name,
                auto_allow: device.auto_allow,
                annotations: device.annotations,
                on_demand: false,
            });
            each.collect()
        });
        // A worker whose devices cannot be listed is still a worker.
        listed.await.unwrap_or_default()
    }

    pub(crate) fn version(&self) -> BuildkitVersion {
        let identity = &self.identity;
        BuildkitVersion {
            package: identity.package.clone(),
            version: identity.version.clone(),
            revision: identity.revision.clone(),
            dockerfile_version: DOCKERFILE_SYNTAX.into(),
        }
    }

    /// The record as frontends in containers are told it: a list in JSON.
    pub(crate) async fn json(&self, namespace: &str) -> Result<String, Status> {
        let record = self.record(namespace).await?;
        let version = self.version();
        let platforms = machine_platforms(&self.identity.platforms);
        let platforms: Vec<_> = platforms.iter().map(platform_json).collect();
        let list = json!([{
            "id": record.id,
            "labels": record.labels,
            "platforms": platforms,
            "gcPolicy": null,
            "buildkitVersion": {
                "package": version.package,
                "version": version.version,
                "revision": version.revision,
                "dockerfileVersion": version.dockerfile_version,
            },
            "cdiDevices": null,
        }]);
        Ok(list.to_string())
    }
}

/// A platform as the OCI image specification writes it.
fn platform_json(platform: &Platform) -> Value {
    let mut json = json!({"architecture": platform.architecture, "os": platform.os});
    if !platform.variant.is_empty() {
        json["variant"] = platform.variant.clone().into();
    }
    if !platform.os_version.is_empty() {
        json["os.version"] = platform.os_version.clone().into();
    }
    if !platform.os_features.is_empty() {
        json["os.features"] = platform.os_features.clone().into();
    }
    json
}

impl Endpoint {
    /// The record of this socket's namespace.
    pub(crate) async fn worker(&self) -> Result<WorkerRecord, Status> {
        self.workers().record(&self.namespace.name).await
    }

    pub(crate) fn version(&self) -> BuildkitVersion {
        self.workers().version()
    }

    pub(crate) fn workers(&self) -> Workers {
        Workers {
            host: Arc::clone(&self.host),
            identity: Arc::clone(&self.identity),
        }
    }
}

/// Version of the Dockerfile syntax that the built-in frontend reads.
pub const DOCKERFILE_SYNTAX: &str = "1.27.0";

/// True where a record passes a filter (`id==x`, `labels."key"==y`, `id~=regex`-free subset: equality and presence).
pub(crate) fn matches(record: &WorkerRecord, filters: &[String]) -> Result<bool, Status> {
    if filters.iter().all(String::is_empty) {
        return Ok(true);
    }
    for filter in filters {
        let terms: Result<Vec<bool>, Status> = filter
            .split(',')
            .map(|term| term_matches(record, term))
            .collect();
        if terms?.into_iter().all(|matched| matched) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn term_matches(record: &WorkerRecord, term: &str) -> Result<bool, Status> {
    let (field, wanted, negated) = match (term.split_once("=="), term.split_once("!=")) {
        (Some((field, value)), _) => (field, Some(value), false),
        (None, Some((field, value))) => (field, Some(value), true),
        (None, None) => (term, None, false),
    };
    let unquoted = |text: &str| text.trim_matches('"').to_owned();
    let value = if field == "id" {
        Some(record.id.clone())
    } else if let Some(label) = field.strip_prefix("labels.") {
        record.labels.get(&unquoted(label)).cloned()
    } else {
        return Err(Status::unknown(format!(
            "filters: parse error: unknown field {field:?}"
        )));
    };
    Ok(match wanted {
        None => value.is_some(),
        Some(wanted) => (value == Some(unquoted(wanted))) != negated,
    })
}

/// The platforms that clients are told: what the operator says, else this machine's own, what its CPU runs besides, and
/// what emulators run now.
fn machine_platforms(configured: &[Platform]) -> Vec<Platform> {
    if !configured.is_empty() {
        return configured.to_vec();
    }
    let own = Platform::host();
    let mut platforms = vec![own.clone()];
    if own.architecture == "amd64" {
        platforms.push(Platform::new("linux", "386", ""));
    }
    for platform in crate::binfmt::emulated() {
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    platforms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> WorkerRecord {
        WorkerRecord {
            id: "w".into(),
            labels: BTreeMap::from([("a.b".into(), "c".into())]),
            ..WorkerRecord::default()
        }
    }

    #[test]
    fn filters_select_by_id_and_labels() {
        let check = |filter: &str| matches(&record(), &[filter.to_owned()]);
        for (filter, matched) in [
            ("", true),
            ("id==w", true),
            ("id!=w", false),
            ("labels.\"a.b\"==c", true),
            ("labels.\"a.b\"==d", false),
            ("labels.x", false),
            ("id==w,labels.\"a.b\"==d", false),
        ] {
            assert_eq!(check(filter).unwrap(), matched, "{filter}");
        }
        assert!(check("nonsense==1").is_err());
    }
}
