//! `debug workers` and `debug info`: who builds here. nerdctl reads the labels of the first worker to learn where images
//! land.

use std::time::Duration;

use shipway_proto::control::{InfoRequest, ListWorkersRequest};
use shipway_proto::pb;
use shipway_proto::types::{BuildkitVersion, CdiDevice, GcPolicy, WorkerRecord};

use crate::args::{FormatFlag, Global, ListFlags};
use crate::connect::Daemon;
use crate::error::Error;
use crate::output::{self, Table, Template, Value, record};
use crate::progress::format_short_bytes as short_bytes;

/// Lists workers.
pub(crate) async fn list(global: &Global, flags: &ListFlags) -> Result<(), Error> {
    let template = flags
        .format
        .format
        .as_deref()
        .map(Template::parse)
        .transpose()?;
    let mut control = Daemon::connect(global).await?.control();
    let request = ListWorkersRequest {
        filter: flags.filter.clone(),
    };
    let listed = control.list_workers(request).await;
    let workers = listed
        .map_err(Error::call("failed to list workers"))?
        .into_inner()
        .record;
    if let Some(template) = template {
        let value = match workers.as_slice() {
            [] => Value::Null,
            workers => Value::List(workers.iter().map(worker_value).collect()),
        };
        return output::print(&(template.apply(&value)? + "\n"));
    }
    output::print(&if flags.verbose {
        verbose(&workers)
    } else {
        table(&workers)
    })
}

/// Prints the daemon's version.
pub(crate) async fn info(global: &Global, flags: &FormatFlag) -> Result<(), Error> {
    let template = flags.format.as_deref().map(Template::parse).transpose()?;
    let mut control = Daemon::connect(global).await?.control();
    let answered = control.info(InfoRequest {}).await;
    let answer = answered
        .map_err(Error::call("failed to call info"))?
        .into_inner();
    let version = answer.buildkit_version.unwrap_or_default();
    if let Some(template) = template {
        let value = record(vec![(
            "BuildkitVersion",
            "buildkitVersion",
            version_value(&version),
        )]);
        return output::print(&(template.apply(&value)? + "\n"));
    }
    let BuildkitVersion {
        package,
        version,
        revision,
        dockerfile_version,
    } = version;
    let mut text = format!("BuildKit: {package} {version} {revision}\n");
    if !dockerfile_version.is_empty() {
        text = format!(
            "BuildKit:   {package} {version} {revision}\nDockerfile: {dockerfile_version}\n"
        );
    }
    let listed = control.list_workers(ListWorkersRequest::default()).await;
    let workers = listed.map_err(Error::call("failed to list workers"))?;
    let workers = workers.into_inner().record;
    if let Some(executor) = workers.iter().find_map(|w| w.labels.get(EXECUTOR)) {
        text = format!("{text}Executor:   {executor}\n");
    }
    output::print(&text)
}

/// Label of Shipway's worker: how steps are run in its containerd.
const EXECUTOR: &str = "shipway.dev/executor";

fn table(workers: &[WorkerRecord]) -> String {
    let mut table = Table::default();
    table.line(["ID", "PLATFORMS"]);
    for worker in workers {
        table.line([worker.id.clone(), platforms(worker)]);
    }
    table.text()
}

fn platforms(worker: &WorkerRecord) -> String {
    worker
        .platforms
        .iter()
        .map(platform_text)
        .collect::<Vec<_>>()
        .join(",")
}

fn platform_text(platform: &pb::Platform) -> String {
    let mut text = format!("{}/{}", platform.os, platform.architecture);
    // The first versions of both architectures are the default and go unsaid.
    let default = matches!(
        (platform.architecture.as_str(), platform.variant.as_str()),
        ("amd64", "v1") | ("arm64", "v8" | "8") | (_, "")
    );
    if !default {
        text.push('/');
        text.push_str(&platform.variant);
    }
    text
}

fn verbose(workers: &[WorkerRecord]) -> String {
    let mut table = Table::default();
    for worker in workers {
        let version = worker.buildkit_version.clone().unwrap_or_default();
        let BuildkitVersion {
            package,
            version,
            revision,
            dockerfile_version,
        } = version;
        table.line(["ID:", &worker.id]);
        table.line(["Platforms:".to_owned(), platforms(worker)]);
        table.line([
            "BuildKit:".to_owned(),
            format!("{package} {version} {revision}"),
        ]);
        if !dockerfile_version.is_empty() {
            table.line(["Dockerfile:", &dockerfile_version]);
        }
        table.line(["Labels:"]);
        for (key, value) in &worker.labels {
            table.line([String::new(), format!("{key}:"), value.clone()]);
        }
        devices(&mut table, &worker.cdi_devices);
        for (index, rule) in worker.gc_policy.iter().enumerate() {
            policy(&mut table, index, rule);
        }
        table.line([""]);
    }
    table.text()
}

fn devices(table: &mut Table, devices: &[CdiDevice]) {
    if devices.is_empty() {
        return;
    }
    table.line(["Devices:"]);
    for device in devices {
        table.line(["", "Name:", &device.name]);
        if device.on_demand {
            table.line(["", "OnDemand:", "true"]);
        } else {
            table.line([
                String::new(),
                "AutoAllow:".to_owned(),
                device.auto_allow.to_string(),
            ]);
        }
        for (key, value) in &device.annotations {
            table.line(["", "Annotations:", &format!("{key}:"), value]);
        }
    }
    table.line([""]);
}

fn policy(table: &mut Table, index: usize, rule: &GcPolicy) {
    table.line([format!("GC Policy rule#{index}:")]);
    table.line([String::new(), "All:".to_owned(), rule.all.to_string()]);
    if !rule.filters.is_empty() {
        table.line([String::new(), "Filters:".to_owned(), rule.filters.join(" ")]);
    }
    if let Ok(nanos @ 1..) = u64::try_from(rule.keep_duration) {
        let kept = go_duration(Duration::from_nanos(nanos));
        table.line([String::new(), "Keep duration:".to_owned(), kept]);
    }
    for (name, size) in [
        ("Reserved space:", rule.reserved_space),
        ("Minimum free space:", rule.min_free_space),
        ("Maximum used space:", rule.max_used_space),
    ] {
        if size > 0 {
            table.line([String::new(), name.to_owned(), short_bytes(size)]);
        }
    }
}

/// A duration of whole seconds as Go writes it.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds % 3600 / 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

fn worker_value(worker: &WorkerRecord) -> Value {
    let text = |text: &str| Value::Text(text.to_owned());
    record(vec![
        ("ID", "id", text(&worker.id)),
        ("Labels", "labels", Value::labels(&worker.labels)),
        (
            "Platforms",
            "platforms",
            Value::List(worker.platforms.iter().map(platform_value).collect()),
        ),
        (
            "GCPolicy",
            "gcPolicy",
            Value::List(worker.gc_policy.iter().map(policy_value).collect()),
        ),
        (
            "BuildkitVersion",
            "buildkitVersion",
            version_value(&worker.buildkit_version.clone().unwrap_or_default()),
        ),
        (
            "CDIDevices",
            "cdiDevices",
            devices_value(&worker.cdi_devices),
        ),
    ])
}

fn platform_value(platform: &pb::Platform) -> Value {
    let text = |text: &str| Value::Text(text.to_owned());
    record(vec![
        ("Architecture", "architecture", text(&platform.architecture)),
        ("OS", "os", text(&platform.os)),
        ("OSVersion", "os.version?", text(&platform.os_version)),
        (
            "OSFeatures",
            "os.features?",
            Value::texts(&platform.os_features),
        ),
        ("Variant", "variant?", text(&platform.variant)),
    ])
}

fn policy_value(policy: &GcPolicy) -> Value {
    record(vec![
        ("All", "all", Value::Bool(policy.all)),
        ("Filter", "filter", Value::texts(&policy.filters)),
        (
            "KeepDuration",
            "keepDuration",
            Value::Int(policy.keep_duration),
        ),
        (
            "ReservedSpace",
            "reservedSpace",
            Value::Int(policy.reserved_space),
        ),
        (
            "MaxUsedSpace",
            "maxUsedSpace",
            Value::Int(policy.max_used_space),
        ),
        (
            "MinFreeSpace",
            "minFreeSpace",
            Value::Int(policy.min_free_space),
        ),
    ])
}

fn version_value(version: &BuildkitVersion) -> Value {
    let text = |text: &str| Value::Text(text.to_owned());
    record(vec![
        ("Package", "package", text(&version.package)),
        ("Version", "version", text(&version.version)),
        ("Revision", "revision", text(&version.revision)),
        (
            "DockerfileVersion",
            "dockerfileVersion?",
            text(&version.dockerfile_version),
        ),
    ])
}

/// Go has no list where there are no devices.
fn devices_value(devices: &[CdiDevice]) -> Value {
    match devices {
        [] => Value::Null,
        some => Value::List(some.iter().map(device_value).collect()),
    }
}

fn device_value(device: &CdiDevice) -> Value {
    record(vec![
        ("Name", "name", Value::Text(device.name.clone())),
        ("AutoAllow", "autoAllow", Value::Bool(device.auto_allow)),
        (
            "Annotations",
            "annotations",
            Value::labels(&device.annotations),
        ),
        ("OnDemand", "onDemand", Value::Bool(device.on_demand)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_leave_default_variants_unsaid() {
        let platform = |architecture: &str, variant: &str| pb::Platform {
            architecture: architecture.into(),
            os: "linux".into(),
            variant: variant.into(),
            ..pb::Platform::default()
        };
        assert_eq!(platform_text(&platform("amd64", "")), "linux/amd64");
        assert_eq!(platform_text(&platform("amd64", "v2")), "linux/amd64/v2");
        assert_eq!(platform_text(&platform("arm64", "v8")), "linux/arm64");
        assert_eq!(platform_text(&platform("arm", "v7")), "linux/arm/v7");
    }

    #[test]
    fn an_empty_worker_has_the_json_that_go_gives_it() {
        let json = worker_value(&WorkerRecord {
            id: "x".into(),
            ..WorkerRecord::default()
        })
        .json();
        let expected = concat!(
            r#"{"id":"x","labels":null,"platforms":[],"gcPolicy":[],"buildkitVersion":"#,
            r#"{"package":"","version":"","revision":""},"cdiDevices":null}"#
        );
        assert_eq!(json, expected);
    }
}
