//! What every test here starts with.

use std::{error::Error as _, path::Path, process::Command};

use shipway_integration::{
    Error, Result,
    builder::{Kind, Options},
    clients::Buildctl,
    command::{Done, succeed},
    machine::Wanted,
    stand::Stand,
};

/// The image that most tests build.
pub(crate) const IMAGE: &str = "docker.io/library/result:latest";

/// Who builds in this run.
pub(crate) fn kind() -> Kind {
    match std::env::var("SHIPWAY_DAEMON").as_deref() {
        Ok("buildkit") => Kind::Buildkit,
        _ => Kind::Shipway,
    }
}

/// Which containerd this run is on.
pub(crate) fn wanted() -> Wanted {
    match std::env::var("SHIPWAY_CONTAINERD").as_deref() {
        Ok("one") => Wanted::One,
        Ok("two") => Wanted::Two,
        _ => Wanted::Any,
    }
}

/// Where BuildKit can't follow.
pub(crate) fn only_shipway() -> bool {
    kind() == Kind::Shipway
}

/// Runs `body` on a stand with busybox imported; ends the stand in order, and shows the daemon's log if it failed.
pub(crate) fn on_stand(body: impl FnOnce(&mut Stand) -> Result<()>) {
    on_stand_with(Options::new(kind()), body);
}

/// As `on_stand`, with other options.
pub(crate) fn on_stand_with(options: Options, body: impl FnOnce(&mut Stand) -> Result<()>) {
    let run = || -> Result<()> {
        let mut stand = Stand::start(wanted(), options)?;
        let namespace = stand.builder.options.namespace.clone();
        stand.import_busybox(&namespace)?;
        let before = stand.census()?;
        let outcome = body(&mut stand).and_then(|()| stand.expect_no_leaks(&before));
        match outcome {
            Ok(()) => stand.end(),
            Err(e) => Err(with_log(&e, &stand)),
        }
    };
    if let Err(e) = run() {
        panic!("{}", chain(&e));
    }
}

/// An error with what the daemon said last.
pub(crate) fn with_log(error: &Error, stand: &Stand) -> Error {
    let log = stand.builder.daemon().log_tail();
    Error::Unexpected(format!("{}\nthe daemon's log ends:\n{log}", chain(error)))
}

/// An error with everything that led to it.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}\n  because: {next}");
        cause = next.source();
    }
    text
}

/// `buildctl build` of `context` as `IMAGE`, unpacked.
pub(crate) fn build_image(stand: &Stand, context: &Path) -> Result<Command> {
    let mut command = stand.buildctl_build(Buildctl::from(kind()), context)?;
    command.args(["--output", &format!("type=image,name={IMAGE},unpack=true")]);
    Ok(command)
}

/// Builds `dockerfile` with `files` and returns what the client wrote.
pub(crate) fn build(
    stand: &Stand,
    name: &str,
    dockerfile: &str,
    files: &[(&str, &str)],
) -> Result<Done> {
    let files = [&[("Dockerfile", dockerfile)], files].concat();
    let context = stand.context(name, &files)?;
    succeed(&mut build_image(stand, &context)?)
}

/// Runs a shell line in `IMAGE` with `ctr` and returns its output.
pub(crate) fn run_in_image(stand: &Stand, line: &str) -> Result<String> {
    run_as(
        stand,
        &stand.builder.options.namespace,
        IMAGE,
        &["sh", "-c", line],
    )
}

/// Runs `words` in `image` of `namespace`.
pub(crate) fn run_as(
    stand: &Stand,
    namespace: &str,
    image: &str,
    words: &[&str],
) -> Result<String> {
    let snapshotter = stand.builder.options.snapshotter.as_str();
    let id = format!(
        "run-{:x}",
        std::time::UNIX_EPOCH
            .elapsed()
            .map_or(0, |now| now.as_nanos())
    );
    let mut ctr = stand.containerd.ctr(namespace);
    ctr.args(["run", "--rm", "--snapshotter", snapshotter, image, &id])
        .args(words);
    Ok(succeed(&mut ctr)?.stdout)
}

/// `condition`, or an error that says what was found.
pub(crate) fn ensure(condition: bool, found: impl FnOnce() -> String) -> Result<()> {
    if condition {
        Ok(())
    } else {
        Err(Error::Unexpected(found()))
    }
}

/// How many steps of a plain progress output came from the cache.
pub(crate) fn cached_steps(done: &Done) -> usize {
    done.stderr
        .lines()
        .filter(|line| line.starts_with('#') && line.ends_with(" CACHED"))
        .count()
}
