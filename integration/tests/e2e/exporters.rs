//! Results that go elsewhere: archives, directories, registries.

use std::{fs, path::Path, process::Command};

use shipway_integration::{
    Result, builder::Options, clients::Buildctl, command::succeed, registry::Registry, stand::Stand,
};

use crate::support::{ensure, kind, on_stand, on_stand_with};

const DOCKERFILE: &str = "FROM busybox:local\nRUN mkdir /d && echo text >/d/file && ln -s file /d/link && chmod 750 /d\n";

fn export(stand: &Stand, output: &str) -> Result<()> {
    let context = stand.context("export", &[("Dockerfile", DOCKERFILE)])?;
    let mut buildctl = stand.buildctl_build(Buildctl::from(kind()), &context)?;
    succeed(buildctl.args(["--output", output])).map(drop)
}

#[test]
fn a_directory_gets_the_whole_tree() {
    on_stand(|stand| {
        let out = stand.dir.join("out");
        export(stand, &format!("type=local,dest={}", out.display()))?;
        let text = fs::read_to_string(out.join("d/file")).unwrap_or_default();
        ensure(text == "text\n", || format!("{text:?}"))?;
        let link = fs::read_link(out.join("d/link")).unwrap_or_default();
        ensure(link == Path::new("file"), || format!("{}", link.display()))
    });
}

#[test]
fn a_tar_gets_the_whole_tree() {
    on_stand(|stand| {
        let out = stand.dir.join("out.tar");
        export(stand, &format!("type=tar,dest={}", out.display()))?;
        let listed = succeed(Command::new("tar").arg("-tvf").arg(&out))?.stdout;
        let line = |name: &str| {
            listed
                .lines()
                .find(|line| line.contains(name))
                .unwrap_or_default()
                .to_owned()
        };
        ensure(
            line(" d/\n").starts_with("drwxr-x---") || listed.contains("drwxr-x---"),
            || listed.clone(),
        )?;
        ensure(line("d/link -> file").starts_with('l'), || listed.clone())
    });
}

#[test]
fn archives_are_images_that_containerd_imports() {
    on_stand(|stand| {
        for (kind, name) in [
            ("docker", "docker.io/library/a:docker"),
            ("oci", "docker.io/library/a:oci"),
        ] {
            let archive = stand.dir.join(format!("{kind}.tar"));
            export(
                stand,
                &format!("type={kind},name={name},dest={}", archive.display()),
            )?;
            let archive = archive.display().to_string();
            stand
                .containerd
                .run_ctr("elsewhere", &["images", "import", &archive])?;
            let images = stand.containerd.list("elsewhere", "images")?;
            ensure(images.iter().any(|image| image == name), || {
                format!("{images:?}")
            })?;
        }
        Ok(())
    });
}

#[test]
fn compressions_and_media_types_are_as_asked_for() {
    on_stand(|stand| {
        for (compression, suffix) in [
            ("gzip", "tar+gzip"),
            ("zstd", "tar+zstd"),
            ("uncompressed", "layer.v1.tar\""),
        ] {
            let name = format!("docker.io/library/c:{compression}");
            export(
                stand,
                &format!(
                    "type=image,name={name},oci-mediatypes=true,compression={compression},force-compression=true"
                ),
            )?;
            let inspected = manifest(stand, &name)?;
            ensure(inspected.contains(suffix), || {
                format!("{compression}: {inspected}")
            })?;
        }
        Ok(())
    });
}

/// The manifest of an image, as text.
fn manifest(stand: &Stand, name: &str) -> Result<String> {
    let images = stand
        .containerd
        .run_ctr("default", &["images", "ls", &format!("name=={name}")])?
        .stdout;
    let digest = images
        .split_whitespace()
        .find(|word| word.starts_with("sha256:"))
        .unwrap_or_default()
        .to_owned();
    let mut text = stand
        .containerd
        .run_ctr("default", &["content", "get", &digest])?
        .stdout;
    // With an index in between, one step further.
    let parsed = serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default();
    if let Some(inner) = parsed["manifests"][0]["digest"].as_str() {
        text = stand
            .containerd
            .run_ctr("default", &["content", "get", inner])?
            .stdout;
    }
    Ok(text)
}

#[test]
fn a_registry_takes_a_push_and_serves_the_next_builds_base() {
    let registry = Registry::start().expect("the machine has docker-registry");
    let host = registry.host();
    let mut options = Options::new(kind());
    options.more_config = format!("[registry.\"{host}\"]\nhttp = true\n");
    on_stand_with(options, |stand| {
        let name = format!("{host}/pushed:1");
        export(stand, &format!("type=image,name={name},push=true"))?;
        stand
            .containerd
            .run_ctr("elsewhere", &["images", "pull", "--plain-http", &name])?;
        let dockerfile = format!("FROM {name}\nRUN cat /d/file >/copy\n");
        let context = stand.context("from-registry", &[("Dockerfile", &dockerfile)])?;
        let mut buildctl = stand.buildctl_build(Buildctl::from(kind()), &context)?;
        let out = stand.dir.join("from-registry");
        succeed(buildctl.args(["--output", &format!("type=local,dest={}", out.display())]))?;
        let text = fs::read_to_string(out.join("copy")).unwrap_or_default();
        ensure(text == "text\n", || format!("{text:?}"))
    });
}
