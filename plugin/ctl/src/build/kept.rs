//! A failed step that the daemon keeps as an image: how it is asked for, and what the user is told about starting it.

use prost::Message as _;
use serde_json::Value;
use shipway_proto::rpc;
use shipway_proto::types::WorkerRecord;

use crate::error::Error;

/// Option that names the image.
pub(super) const OPTION: &str = "shipway.keep-failed";

/// Type of the detail that says what image was made.
const KEPT: &str = "shipway.dev/Kept+json";

/// Prefix of the worker's labels.
const LABEL: &str = "org.mobyproject.buildkit.worker";

/// Name for the image of a build's failed step.
pub(super) fn image(reference: &str) -> String {
    let short = reference.get(..12).unwrap_or(reference);
    format!("shipway.local/failed:{short}")
}

/// Tells how to start what was kept, or why there is nothing.
pub(super) fn tell(error: &Error, workers: &[WorkerRecord]) {
    match kept(error) {
        Some(image) => eprintln!("{}", lines(&image, workers)),
        None => eprintln!(
            "nothing is kept: what failed is no process that left a filesystem, or the daemon is not Shipway"
        ),
    }
}

fn kept(error: &Error) -> Option<String> {
    let Error::Call { status, .. } = error else {
        return None;
    };
    let status = rpc::Status::decode(status.details()).ok()?;
    let mut details = status.details.iter();
    let detail = details.find(|detail| detail.type_url == KEPT)?;
    let value: Value = serde_json::from_slice(&detail.value).ok()?;
    value["image"].as_str().map(str::to_owned)
}

fn lines(image: &str, workers: &[WorkerRecord]) -> String {
    let label = |name: &str| {
        let labels = workers.first().map(|worker| &worker.labels);
        let label = labels.and_then(|labels| labels.get(&format!("{LABEL}.{name}")));
        label.map_or("default", String::as_str)
    };
    let (namespace, snapshotter) = (label("containerd.namespace"), label("snapshotter"));
    format!(
        "the failed step is kept as image {image}; to start it:\n  \
         ctr -n {namespace} run --rm -t --snapshotter {snapshotter} {image} failed-step /bin/sh\n  \
         nerdctl -n {namespace} --snapshotter {snapshotter} run --rm -it {image} /bin/sh\n\
         and to remove it:\n  ctr -n {namespace} images rm {image}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_name_namespace_and_snapshotter() {
        let label = |name: &str, value: &str| (format!("{LABEL}.{name}"), value.to_owned());
        let worker = WorkerRecord {
            labels: [
                label("containerd.namespace", "n"),
                label("snapshotter", "s"),
            ]
            .into(),
            ..WorkerRecord::default()
        };
        let lines = lines("i", &[worker]);
        assert!(lines.contains("ctr -n n run --rm -t --snapshotter s i "));
        assert_eq!(
            image("0123456789abcdef"),
            "shipway.local/failed:0123456789ab"
        );
    }
}
