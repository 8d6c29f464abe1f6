//! What is said of results: provenance and SBOMs beside images in containerd, and as files.

use serde_json::Value;
use shipway_integration::{Error, Result, clients::Buildctl, command::succeed, stand::Stand};

use crate::support::{IMAGE, build, ensure, kind, on_stand, only_shipway, run_in_image};

const DOCKERFILE: &str = "FROM busybox:local\nRUN echo attested >/file\n";
const SCANNER: &str = "docker.io/library/scanner:local";
/// A scanner after BuildKit's protocol, of a few lines.
const SCAN: &str = r#"#!/bin/sh
set -e
cat >$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json <<END
{"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://spdx.dev/Document", "predicate": {
  "spdxVersion": "SPDX-2.3", "name": "$(ls $BUILDKIT_SCAN_SOURCE/file)", "files": [{"fileName": "/file"}]}}
END
"#;

fn content(stand: &Stand, digest: &str) -> Result<Value> {
    let namespace = &stand.builder.options.namespace;
    let mut ctr = stand.containerd.ctr(namespace);
    let text = succeed(ctr.args(["content", "get", digest]))?.stdout;
    serde_json::from_str(&text).map_err(|e| Error::Unexpected(format!("{text}: {e}")))
}

/// What containerd's image names.
fn target(stand: &Stand) -> Result<Value> {
    let namespace = &stand.builder.options.namespace;
    let mut ctr = stand.containerd.ctr(namespace);
    let listed = succeed(ctr.args(["images", "ls"]))?.stdout;
    let line = listed.lines().find(|line| line.starts_with(IMAGE));
    let digest = line.and_then(|line| line.split_whitespace().find(|w| w.starts_with("sha256:")));
    let digest = digest.ok_or_else(|| Error::Unexpected(format!("not listed: {listed}")))?;
    content(stand, digest)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn buildx_puts_provenance_and_an_sbom_beside_the_image() {
    on_stand(|stand| {
        let scanner = "FROM busybox:local\nCOPY --chmod=755 scan /scan\nENTRYPOINT [\"/scan\"]\n";
        let context = stand.context("scanner", &[("Dockerfile", scanner), ("scan", SCAN)])?;
        let mut buildctl = stand.buildctl_build(Buildctl::from(kind()), &context)?;
        succeed(buildctl.args([
            "--output",
            &format!("type=image,name={SCANNER},unpack=true"),
        ]))?;
        let context = stand.context("attested", &[("Dockerfile", DOCKERFILE)])?;
        let mut buildx = stand.buildx()?;
        buildx.args(["build", "--progress=plain", "--provenance=mode=max"]);
        buildx.arg(format!("--sbom=generator={SCANNER}"));
        buildx.args(["--output", &format!("type=image,name={IMAGE},unpack=true")]);
        succeed(buildx.arg(&context))?;
        let index = target(stand)?;
        let manifests = index["manifests"].as_array().cloned().unwrap_or_default();
        ensure(manifests.len() == 2, || index.to_string())?;
        let annotations = &manifests[1]["annotations"];
        ensure(
            annotations["vnd.docker.reference.type"] == "attestation-manifest"
                && annotations["vnd.docker.reference.digest"] == manifests[0]["digest"],
            || index.to_string(),
        )?;
        let manifest = content(stand, text(&manifests[1]["digest"]))?;
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        let said: Vec<Value> = layers
            .iter()
            .map(|layer| content(stand, text(&layer["digest"])))
            .collect::<Result<_>>()?;
        let of = |kind: &str| {
            let found = said
                .iter()
                .find(|statement| statement["predicateType"] == kind);
            found
                .cloned()
                .ok_or_else(|| Error::Unexpected(format!("no {kind}: {manifest}")))
        };
        let sbom = of("https://spdx.dev/Document")?;
        ensure(text(&sbom["predicate"]["name"]).ends_with("/file"), || {
            sbom.to_string()
        })?;
        let comment = text(&sbom["predicate"]["files"][0]["comment"]);
        ensure(comment.starts_with("layerID: sha256:"), || sbom.to_string())?;
        let provenance = of("https://slsa.dev/provenance/v1")?;
        let definition = &provenance["predicate"]["buildDefinition"];
        let steps = &definition["internalParameters"]["buildConfig"]["llbDefinition"];
        ensure(steps.as_array().is_some_and(|s| s.len() == 3), || {
            provenance.to_string()
        })?;
        let subject = &provenance["subject"][0]["digest"]["sha256"];
        let image = text(&manifests[0]["digest"]);
        ensure(image.ends_with(text(subject)), || provenance.to_string())?;
        // The image's layers are snapshots all the same.
        let said = run_in_image(stand, "cat /file")?;
        ensure(said == "attested\n", || said.clone())
    });
}

#[test]
fn a_directory_gets_provenance_as_a_file() {
    on_stand(|stand| {
        let dockerfile = "FROM scratch\nCOPY file /file\n";
        let files = [("Dockerfile", dockerfile), ("file", "x")];
        let context = stand.context("local", &files)?;
        let out = stand.dir.join("out");
        let mut buildctl = stand.buildctl_build(Buildctl::from(kind()), &context)?;
        let to = format!("type=local,dest={},attestation-prefix=a.", out.display());
        succeed(buildctl.args(["--opt", "attest:provenance=mode=min", "--output", &to]))?;
        let read = std::fs::read(out.join("a.provenance.json")).unwrap_or_default();
        let statement: Value = serde_json::from_slice(&read).unwrap_or_default();
        ensure(statement["subject"][0]["name"] == "file", || {
            statement.to_string()
        })?;
        let predicate = &statement["predicate"]["buildDefinition"];
        ensure(
            predicate["internalParameters"]["buildConfig"].is_null(),
            || statement.to_string(),
        )
    });
}

#[test]
fn provenance_tells_what_each_step_has_used_where_it_is_asked_for() {
    // BuildKit measures with cgroups of version 2 only.
    if !only_shipway() {
        return;
    }
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local AS made\nRUN head -c 9000000 /dev/zero | md5sum >/sum\n\
            FROM scratch\nCOPY --from=made /sum /\n";
        let context = stand.context("used", &[("Dockerfile", dockerfile)])?;
        let out = stand.dir.join("used-out");
        let mut buildctl = stand.buildctl_build(Buildctl::from(kind()), &context)?;
        let to = format!("type=local,dest={}", out.display());
        let asked = "attest:provenance=mode=max,capture-usage=true";
        succeed(buildctl.args(["--opt", asked, "--output", &to]))?;
        let read = std::fs::read(out.join("provenance.json")).unwrap_or_default();
        let statement: Value = serde_json::from_slice(&read).unwrap_or_default();
        let parameters = &statement["predicate"]["buildDefinition"]["internalParameters"];
        let steps = parameters["buildConfig"]["llbDefinition"].as_array();
        let steps = steps.cloned().unwrap_or_default();
        let used = |step: &&Value| !step["resourceUsage"].is_null();
        let measured: Vec<&Value> = steps.iter().filter(used).collect();
        ensure(measured.len() == 1, || statement.to_string())?;
        for step in measured {
            let sample = &step["resourceUsage"]["samples"][0];
            let figures = [
                &sample["cpuStat"]["usageNanos"],
                &sample["memoryStat"]["peak"],
            ];
            let figures = figures.map(|figure| figure.as_u64().unwrap_or_default());
            ensure(figures.iter().all(|figure| *figure > 0), || {
                step.to_string()
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_plain_build_is_an_image_without_an_index() {
    on_stand(|stand| {
        build(stand, "plain", DOCKERFILE, &[])?;
        let image = target(stand)?;
        ensure(image["layers"].is_array(), || image.to_string())
    });
}
