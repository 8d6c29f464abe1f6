//! What the daemon remembers of builds, as buildctl and buildx show it, and that nothing of it stays when it is removed.

use serde_json::Value;
use shipway_integration::{
    Error, Result,
    clients::Buildctl,
    command::{fail, succeed},
    stand::Stand,
};

use crate::support::{build, ensure, kind, on_stand};

const GOOD: &str = "FROM busybox:local\nRUN echo remembered >/file\n";
const BAD: &str = "FROM busybox:local\nRUN echo about to fail && exit 7\n";

/// The records that `buildctl debug histories` lists.
fn records(stand: &Stand) -> Result<Vec<Value>> {
    let address = stand.builder.address();
    let mut buildctl = stand.clients.buildctl(Buildctl::Go, &address)?;
    let listed = succeed(buildctl.args(["debug", "histories", "--format", "{{json .}}"]))?;
    let events = listed.stdout.lines().filter(|line| !line.is_empty());
    events.map(json).collect()
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| Error::Unexpected(format!("{text}: {e}")))
}

fn reference(event: &Value) -> String {
    event["record"]["Ref"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn ctl(stand: &Stand, words: &[&str]) -> Result<String> {
    let address = stand.builder.address();
    let mut buildctl = stand.clients.buildctl(Buildctl::Go, &address)?;
    Ok(succeed(buildctl.arg("debug").args(words))?.stdout)
}

#[test]
fn a_build_is_remembered_replayed_and_forgotten_with_all_its_blobs() {
    on_stand(|stand| {
        build(stand, "good", GOOD, &[])?;
        let all = records(stand)?;
        ensure(all.len() == 1, || format!("{all:?}"))?;
        let record = &all[0]["record"];
        let steps = record["numCompletedSteps"].as_i64().unwrap_or_default();
        ensure(steps > 2, || record.to_string())?;
        let id = reference(&all[0]);
        let address = stand.builder.address();
        let mut logs = stand.clients.buildctl(Buildctl::Go, &address)?;
        let logs = succeed(logs.args(["debug", "logs", "--progress=plain", &id]))?;
        let shown = format!("{}{}", logs.stdout, logs.stderr);
        ensure(shown.contains("echo remembered"), || shown.clone())?;
        let digest = record["logs"]["digest"].as_str().unwrap_or_default();
        ensure(!ctl(stand, &["get", digest])?.is_empty(), || {
            digest.to_owned()
        })?;
        // Records outlive the daemon.
        stand.builder.kill()?;
        stand.builder.restart()?;
        ensure(records(stand)?.len() == 1, || {
            "forgotten by a restart".into()
        })?;
        ctl(stand, &["ctl", "--delete", &id])?;
        ensure(records(stand)?.is_empty(), || "it is still listed".into())?;
        let namespace = format!("{}_history", stand.builder.options.namespace);
        let left = stand.containerd.list(&namespace, "content")?;
        ensure(left.is_empty(), || format!("{left:?}"))?;
        let left = stand.containerd.list(&namespace, "leases")?;
        ensure(left.is_empty(), || format!("{left:?}"))
    });
}

#[test]
fn a_failed_build_is_remembered_with_its_error() {
    on_stand(|stand| {
        let context = stand.context("bad", &[("Dockerfile", BAD)])?;
        fail(&mut stand.buildctl_build(Buildctl::from(kind()), &context)?)?;
        let all = records(stand)?;
        let error = &all[0]["record"]["error"];
        let message = error["message"].as_str().unwrap_or_default();
        ensure(message.contains("exit code: 7"), || all[0].to_string())
    });
}

/// A finished build leaves the daemon as an archive.
fn exported(stand: &Stand, id: &str) -> Result<()> {
    let bundle = stand.dir.join("bundle.dockerbuild");
    let out = bundle.display().to_string();
    succeed(stand.buildx()?.args(["history", "export", "-o", &out, id]))?;
    ensure(bundle.exists(), || "nothing was exported".into())
}

#[test]
fn buildx_lists_inspects_exports_and_removes_builds() {
    on_stand(|stand| {
        let context = stand.context("good", &[("Dockerfile", GOOD)])?;
        let bad = stand.context("bad", &[("Dockerfile", BAD)])?;
        succeed(
            stand
                .buildx()?
                .args(["build", "--progress=plain"])
                .arg(&context),
        )?;
        fail(
            stand
                .buildx()?
                .args(["build", "--progress=plain"])
                .arg(&bad),
        )?;
        let listed = succeed(stand.buildx()?.args(["history", "ls", "--format", "json"]))?;
        let listed: Vec<Value> = listed.stdout.lines().map(json).collect::<Result<_>>()?;
        ensure(listed.len() == 2, || format!("{listed:?}"))?;
        let status = |wanted: &str| {
            let found = listed.iter().find(|build| build["status"] == wanted);
            let id = found.and_then(|build| build["ref"].as_str());
            let id = id.and_then(|id| id.rsplit('/').next());
            id.map(str::to_owned)
                .ok_or_else(|| Error::Unexpected(format!("none {wanted}: {listed:?}")))
        };
        let (good, bad) = (status("Completed")?, status("Error")?);
        let inspected = succeed(stand.buildx()?.args(["history", "inspect", &good]))?.stdout;
        ensure(inspected.contains("Build Steps:"), || inspected.clone())?;
        let inspected = succeed(stand.buildx()?.args(["history", "inspect", &bad]))?.stdout;
        ensure(inspected.contains("RUN echo about to fail"), || {
            inspected.clone()
        })?;
        let logs = succeed(
            stand
                .buildx()?
                .args(["history", "logs", "--progress=plain", &bad]),
        )?;
        let logs = format!("{}{}", logs.stdout, logs.stderr);
        ensure(logs.contains("about to fail"), || logs.clone())?;
        let provenance = [
            "history",
            "inspect",
            "attachment",
            "--type=provenance",
            &good,
        ];
        let provenance = succeed(stand.buildx()?.args(provenance))?.stdout;
        ensure(provenance.contains("buildDefinition"), || {
            provenance.clone()
        })?;
        exported(stand, &good)?;
        succeed(stand.buildx()?.args(["history", "rm", &good, &bad]))?;
        let listed = succeed(stand.buildx()?.args(["history", "ls", "--format", "json"]))?;
        ensure(listed.stdout.is_empty(), || listed.stdout.clone())
    });
}

#[test]
fn prune_takes_filters_and_says_what_went() {
    on_stand(|stand| {
        let mount = "FROM busybox:local\nRUN --mount=type=cache,target=/c echo x >/c/f\n";
        build(stand, "mount", mount, &[])?;
        let address = stand.builder.address();
        let du = || -> Result<String> {
            let mut buildctl = stand.clients.buildctl(Buildctl::Go, &address)?;
            Ok(succeed(buildctl.args(["du", "--verbose"]))?.stdout)
        };
        let before = du()?;
        ensure(before.contains("exec.cachemount"), || before.clone())?;
        let mut prune = stand.clients.buildctl(Buildctl::Go, &address)?;
        let gone =
            succeed(prune.args(["prune", "--verbose", "--filter", "type==exec.cachemount"]))?;
        ensure(!gone.stdout.contains("regular"), || gone.stdout.clone())?;
        let after = du()?;
        ensure(!after.contains("exec.cachemount"), || after.clone())?;
        ensure(after.contains("regular"), || after.clone())?;
        let mut prune = stand.clients.buildctl(Buildctl::Go, &address)?;
        fail(prune.args(["prune", "--filter", "no filter at all"])).map(drop)
    });
}
