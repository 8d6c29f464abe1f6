//! Every client that people build with gets its image into containerd, where others find and start it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use shipway_integration::{
    Result,
    builder::{Kind, Options},
    clients::Buildctl,
    command::succeed,
    stand::{Stand, write},
};

use crate::support::{
    IMAGE, build, ensure, kind, on_stand, on_stand_with, only_shipway, run_as, run_in_image,
};

const TWO_STAGES: &str = "FROM busybox:local AS make\nCOPY greeting /greeting\nRUN tr a-z A-Z </greeting >/loud\n\
    FROM busybox:local\nCOPY --from=make /loud /loud\nCMD [\"cat\", \"/loud\"]\n";
const FILES: &[(&str, &str)] = &[("greeting", "hello\n"), ("Dockerfile", TWO_STAGES)];

fn listed_and_started(stand: &Stand, namespace: &str) -> Result<()> {
    let images = stand.containerd.list(namespace, "images")?;
    ensure(images.iter().any(|name| name == IMAGE), || {
        format!("not listed: {images:?}")
    })?;
    let said = run_as(stand, namespace, IMAGE, &[])?;
    ensure(said == "HELLO\n", || format!("the container said {said:?}"))
}

fn buildctl_builds(whose: Buildctl) {
    on_stand(|stand| {
        let context = stand.context("two-stages", FILES)?;
        let mut buildctl = stand.buildctl_build(whose, &context)?;
        succeed(buildctl.args(["--output", &format!("type=image,name={IMAGE},unpack=true")]))?;
        listed_and_started(stand, "default")
    });
}

#[test]
fn buildkits_buildctl_builds_what_ctr_lists_and_starts() {
    buildctl_builds(Buildctl::Go);
}

#[test]
fn our_buildctl_builds_what_ctr_lists_and_starts() {
    buildctl_builds(Buildctl::Shipway);
}

#[test]
fn buildx_builds_through_the_remote_driver() {
    on_stand(|stand| {
        let context = stand.context("two-stages", FILES)?;
        let mut buildx = stand.buildx()?;
        buildx.args(["build", "--progress=plain", "--provenance=false"]);
        buildx
            .args(["--output", &format!("type=image,name={IMAGE},unpack=true")])
            .arg(&context);
        succeed(&mut buildx)?;
        listed_and_started(stand, "default")
    });
}

/// Puts a script in the place of `buildctl` that writes down how it is called; returns what it writes to.
fn spy_on_buildctl(stand: &Stand, whose: Buildctl) -> Result<(PathBuf, PathBuf)> {
    let dir = stand.dir.join("spy");
    let calls = dir.join("calls");
    let program = stand.clients.buildctl_program(whose)?;
    let script = dir.join("buildctl");
    let text = format!(
        "#!/bin/sh\necho \"$@\" >>{}\nexec {} \"$@\"\n",
        calls.display(),
        program.display()
    );
    write(&script, &text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
        .expect("the script was just written");
    Ok((dir, calls))
}

fn nerdctl_builds(snapshotter: &str) {
    let mut options = Options::new(kind());
    snapshotter.clone_into(&mut options.snapshotter);
    on_stand_with(options, |stand| {
        let whose = Buildctl::from(kind());
        let context = stand.context("two-stages", FILES)?;
        let (spy, calls) = spy_on_buildctl(stand, whose)?;
        let mut nerdctl = stand.nerdctl(whose)?;
        let path = format!(
            "{}:{}",
            spy.display(),
            std::env::var("PATH").unwrap_or_default()
        );
        succeed(
            nerdctl
                .env("PATH", path)
                .args(["build", "--progress=plain", "-t", "result"])
                .arg(&context),
        )?;
        let calls = fs::read_to_string(&calls).unwrap_or_default();
        let build = calls
            .lines()
            .find(|line| line.contains(" build "))
            .unwrap_or_default();
        // Through a tar it would ask for `type=docker` and load the result.
        ensure(
            build.contains("type=image") && !build.contains("type=docker"),
            || calls.clone(),
        )?;
        let said = succeed(
            stand
                .nerdctl(whose)?
                .args(["run", "--rm", "--net=none", "result"]),
        )?
        .stdout;
        ensure(said == "HELLO\n", || {
            format!("nerdctl's container said {said:?}")
        })?;
        listed_and_started(stand, "default")
    });
}

#[test]
fn nerdctl_takes_the_image_path_and_runs_from_overlayfs() {
    nerdctl_builds("overlayfs");
}

#[test]
fn nerdctl_takes_the_image_path_and_runs_from_shipways_own_snapshots() {
    if only_shipway() {
        nerdctl_builds("shipway");
    }
}

#[test]
fn nerdctl_finds_a_namespaces_own_socket_and_builds_share_one_cache() {
    if !only_shipway() {
        return;
    }
    let mut options = Options::new(Kind::Shipway);
    options.more_namespaces = vec!["other".to_owned()];
    on_stand_with(options, |stand| {
        stand.import_busybox("other")?;
        build(stand, "two-stages", TWO_STAGES, FILES)?;
        let address = format!("unix://{}", stand.builder.socket_of("other").display());
        let mut buildctl = stand.clients.buildctl(Buildctl::Shipway, &address)?;
        let context = stand.context("two-stages", FILES)?;
        buildctl.args(["build", "--progress=plain", "--frontend=dockerfile.v0"]);
        for name in ["context", "dockerfile"] {
            buildctl
                .arg("--local")
                .arg(format!("{name}={}", context.display()));
        }
        let done =
            succeed(buildctl.args(["--output", &format!("type=image,name={IMAGE},unpack=true")]))?;
        ensure(done.stderr.contains("CACHED"), || {
            format!("nothing was cached:\n{}", done.stderr)
        })?;
        listed_and_started(stand, "default")?;
        listed_and_started(stand, "other")?;
        // Removing it in one namespace leaves the other's alone.
        stand
            .containerd
            .run_ctr("default", &["images", "rm", "--sync", IMAGE])?;
        listed_and_started(stand, "other")
    });
}

#[test]
fn a_pull_by_another_client_is_extracted_into_our_snapshots() {
    if !only_shipway() {
        return;
    }
    on_stand(|stand| {
        build(stand, "two-stages", TWO_STAGES, FILES)?;
        let archive = stand.dir.join("result.tar");
        let archive = archive.display().to_string();
        stand
            .containerd
            .run_ctr("default", &["images", "export", &archive, IMAGE])?;
        stand.containerd.run_ctr(
            "elsewhere",
            &["images", "import", "--snapshotter", "shipway", &archive],
        )?;
        listed_and_started(stand, "elsewhere")
    });
}

#[test]
fn workers_are_listed_as_nerdctl_checks_them() {
    on_stand(|stand| {
        let mut buildctl = stand
            .clients
            .buildctl(Buildctl::Go, &stand.builder.address())?;
        let workers =
            succeed(buildctl.args(["debug", "workers", "--format", "{{json .}}"]))?.stdout;
        let workers = serde_json::from_str::<serde_json::Value>(&workers).unwrap_or_default();
        let labels = &workers[0]["labels"];
        let label = |name: &str| {
            labels[format!("org.mobyproject.buildkit.worker.{name}")]
                .as_str()
                .unwrap_or("")
        };
        ensure(label("containerd.namespace") == "default", || {
            format!("{labels}")
        })?;
        ensure(
            label("snapshotter") == stand.builder.options.snapshotter,
            || format!("{labels}"),
        )?;
        let uuid = stand.containerd.daemon().pid();
        ensure(!label("containerd.uuid").is_empty(), || {
            format!("no UUID for containerd {uuid}: {labels}")
        })
    });
}

#[test]
fn what_was_built_can_be_changed_and_built_again() {
    on_stand(|stand| {
        build(stand, "changing", TWO_STAGES, FILES)?;
        build(stand, "changing", TWO_STAGES, &[("greeting", "goodbye\n")])?;
        let said = run_in_image(stand, "cat /loud")?;
        ensure(said == "GOODBYE\n", || said.clone())
    });
}
