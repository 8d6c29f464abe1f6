//! Caches that travel: from one empty daemon to another through a registry, a directory or an image, between ours and
//! BuildKit's in both directions.

use std::{fs, path::Path};

use shipway_integration::{
    Result,
    builder::{Kind, Options},
    clients::Buildctl,
    command::{Done, fail, succeed},
    registry::Registry,
    stand::Stand,
};

use crate::support::{cached_steps, ensure, kind, on_stand, on_stand_with, only_shipway};

/// A step whose result tells whether it ran again, found by the content of what was copied before it.
const DOCKERFILE: &str = "FROM busybox:local AS base\nCOPY foo const\n\
     RUN head -c 100 /dev/urandom | sha256sum >unique\n\
     FROM scratch\nCOPY --from=base const /\nCOPY --from=base unique /\n";

fn context(stand: &Stand) -> Result<std::path::PathBuf> {
    stand.context("cached", &[("Dockerfile", DOCKERFILE), ("foo", "foobar")])
}

/// Builds with these arguments and gives the unique file, and what the client wrote.
fn build(stand: &Stand, arguments: &[&str]) -> Result<(String, Done)> {
    let out = stand.dir.join("out");
    if out.exists() {
        fs::remove_dir_all(&out).unwrap_or_default();
    }
    let client = Buildctl::from(stand.builder.options.kind);
    let mut buildctl = stand.buildctl_build(client, &context(stand)?)?;
    buildctl.args(["--output", &format!("type=local,dest={}", out.display())]);
    let done = succeed(buildctl.args(arguments))?;
    let unique = fs::read_to_string(out.join("unique")).unwrap_or_default();
    ensure(unique.len() > 60, || format!("no unique file: {unique:?}"))?;
    Ok((unique, done))
}

/// Builds on a daemon of one kind, then on an empty one of another, and wants the step's result to have travelled.
fn travels(from: Kind, to: Kind, export: &str, import: &str) {
    let mut made = String::new();
    on_stand_with(Options::new(from), |stand| {
        made = build(stand, &["--export-cache", export])?.0;
        Ok(())
    });
    on_stand_with(Options::new(to), |stand| {
        let (found, done) = build(stand, &["--import-cache", import])?;
        ensure(found == made, || {
            format!("{from:?} to {to:?}: {}", done.stderr)
        })?;
        ensure(
            done.stderr.contains("importing cache manifest from"),
            || done.stderr.clone(),
        )?;
        ensure(cached_steps(&done) >= 2, || done.stderr.clone())
    });
}

#[test]
fn a_cache_travels_through_a_registry_between_every_two_daemons() {
    if !only_shipway() {
        return;
    }
    let registry = Registry::start().expect("a registry starts");
    for (at, (from, to)) in [
        (Kind::Shipway, Kind::Shipway),
        (Kind::Buildkit, Kind::Shipway),
        (Kind::Shipway, Kind::Buildkit),
    ]
    .into_iter()
    .enumerate()
    {
        let reference = format!("{}/cache:{at}", registry.host());
        let export = format!("type=registry,mode=max,ref={reference}");
        travels(from, to, &export, &format!("type=registry,ref={reference}"));
    }
}

#[test]
fn an_index_of_docker_s_types_travels_as_well() {
    let registry = Registry::start().expect("a registry starts");
    let reference = format!("{}/cache:index", registry.host());
    let export = format!(
        "type=registry,mode=max,oci-mediatypes=false,image-manifest=false,compression=zstd,ref={reference}"
    );
    let import = format!("type=registry,ref={reference}");
    travels(kind(), kind(), &export, &import);
}

#[test]
fn a_cache_travels_through_a_directory() {
    let dir = std::env::temp_dir().join(format!("shipway-cache-{}", std::process::id()));
    let (dest, src) = (dir.display(), dir.display());
    let others = if only_shipway() {
        vec![Kind::Shipway, Kind::Buildkit]
    } else {
        vec![kind()]
    };
    for to in others {
        let export = format!("type=local,mode=max,dest={dest}");
        travels(kind(), to, &export, &format!("type=local,src={src}"));
        ensure(Path::new(&dir).join("index.json").exists(), || {
            "the directory has no index".into()
        })
        .expect("a local cache is an OCI layout");
        fs::remove_dir_all(&dir).unwrap_or_default();
    }
}

/// One image whose configuration carries the cache of its own layers.
const INLINE: &str = "FROM busybox:local\nCOPY foo const\n\
     RUN head -c 100 /dev/urandom | sha256sum >unique\nRUN cat unique const >both\n";

#[test]
fn a_cache_travels_inside_of_an_image() {
    let registry = Registry::start().expect("a registry starts");
    let reference = format!("{}/image:inline", registry.host());
    let push = format!("type=image,name={reference},push=true");
    let image = |stand: &Stand, output: &str, arguments: &[&str]| {
        let context = stand.context("inline", &[("Dockerfile", INLINE), ("foo", "foobar")])?;
        let client = Buildctl::from(stand.builder.options.kind);
        let mut buildctl = stand.buildctl_build(client, &context)?;
        succeed(buildctl.args(["--output", output]).args(arguments))
    };
    let import = format!("type=registry,ref={reference}");
    let mut first = String::new();
    on_stand(|stand| {
        image(stand, &push, &["--export-cache", "type=inline"])?;
        first = digest(stand, &reference)?;
        Ok(())
    });
    on_stand(|stand| {
        let arguments = [
            "--import-cache",
            import.as_str(),
            "--export-cache",
            "type=inline",
        ];
        let done = image(stand, &push, &arguments)?;
        ensure(cached_steps(&done) >= 3, || done.stderr.clone())?;
        let second = digest(stand, &reference)?;
        ensure(first == second, || format!("{first} became {second}"))?;
        // Layers that are compressed anew are the image's all the same.
        let plain = format!("{push},compression=uncompressed,force-compression=true");
        image(stand, &plain, &arguments).map(drop)
    });
    on_stand(|stand| {
        let done = image(stand, &push, &["--import-cache", &import])?;
        ensure(cached_steps(&done) >= 3, || done.stderr.clone())
    });
}

fn digest(stand: &Stand, reference: &str) -> Result<String> {
    let mut ctr = stand.containerd.ctr(&stand.builder.options.namespace);
    let listed = succeed(ctr.args(["images", "ls"]))?.stdout;
    let line = listed.lines().find(|line| line.starts_with(reference));
    let digest = line.and_then(|line| line.split_whitespace().nth(2));
    Ok(digest.unwrap_or(&listed).to_owned())
}

#[test]
fn a_cache_that_is_missing_is_a_warning_and_one_that_cannot_be_written_an_error() {
    on_stand(|stand| {
        let nowhere = "type=registry,ref=localhost:1/no/cache:none";
        build(stand, &["--import-cache", nowhere])?;
        let context = context(stand)?;
        let mut buildctl =
            stand.buildctl_build(Buildctl::from(stand.builder.options.kind), &context)?;
        let failed = fail(buildctl.args(["--export-cache", nowhere]))?;
        ensure(failed.contains("localhost:1"), || failed.clone())?;
        let ignored = format!("{nowhere},ignore-error=true");
        build(stand, &["--export-cache", &ignored]).map(drop)
    });
}

#[test]
fn a_kind_of_cache_that_is_not_offered_is_refused_by_name() {
    if !only_shipway() {
        return;
    }
    on_stand(|stand| {
        let context = context(stand)?;
        let mut buildctl = stand.buildctl_build(Buildctl::Shipway, &context)?;
        let s3 = "type=s3,region=x,bucket=y,name=z";
        let failed = fail(buildctl.args(["--export-cache", s3]))?;
        ensure(
            failed.contains("cache export of type \"s3\" is not supported"),
            || failed.clone(),
        )
    });
}

#[test]
fn nerdctl_and_buildx_leave_and_take_caches_in_directories() {
    on_stand(|stand| {
        let context = context(stand)?;
        for client in ["nerdctl", "buildx"] {
            let dir = stand.dir.join(format!("cache-{client}"));
            let to = format!("type=local,mode=max,dest={}", dir.display());
            let from = format!("type=local,src={}", dir.display());
            let run = |flag: &str, value: &str| {
                let mut command = match client {
                    "nerdctl" => stand.nerdctl(Buildctl::from(kind()))?,
                    _ => stand.buildx()?,
                };
                command.args(["build", "--progress=plain", flag, value]);
                succeed(command.arg(&context))
            };
            run("--cache-to", &to)?;
            ensure(dir.join("index.json").exists(), || {
                format!("{client} left no cache in {}", dir.display())
            })?;
            let done = run("--cache-from", &from)?;
            let said = done.stdout + &done.stderr;
            ensure(
                said.contains("importing cache manifest from local:"),
                || said.clone(),
            )?;
        }
        Ok(())
    });
}
