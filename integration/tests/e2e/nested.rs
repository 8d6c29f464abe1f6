//! Vertices that stand for other vertices: a build of a graph that lies in a file, and results that are handed on.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
};

use shipway_integration::{
    Error, Result,
    clients::Buildctl,
    command::{Done, fail, succeed},
    stand::Stand,
};

use crate::support::{cached_steps, ensure, kind, on_stand};

const BASE: &str = "docker.io/library/busybox:local";

/// Writes the definition that stands on an image and whose other step is `command`.
fn definition(stand: &Stand, base: &str, command: &str) -> Result<PathBuf> {
    let program = stand.machine.own("examples/nested")?;
    let path = stand.dir.join("nested.pb");
    let written = |source| Error::File {
        doing: "writing",
        path: path.clone(),
        source,
    };
    let to = File::create(&path).map_err(written)?;
    let mut nested = Command::new(program);
    nested.args([base, command]).stdout(Stdio::from(to));
    let status = nested.status().map_err(written)?;
    ensure(status.success(), || format!("nested: {status}"))?;
    Ok(path)
}

/// `buildctl build` of the definition, to a directory `out`.
fn build(stand: &Stand, command: &str) -> Result<Command> {
    build_on(stand, BASE, command)
}

/// The same on another image.
pub(crate) fn build_on(stand: &Stand, base: &str, command: &str) -> Result<Command> {
    let path = definition(stand, base, command)?;
    let address = stand.builder.address();
    let buildctl = stand.clients.buildctl(Buildctl::from(kind()), &address)?;
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "from=$1; shift; exec \"$@\" <\"$from\"", "sh"])
        .arg(path)
        .arg(buildctl.get_program())
        .args(buildctl.get_args())
        .args(["build", "--progress=plain", "--output"])
        .arg(format!(
            "type=local,dest={}",
            stand.dir.join("out").display()
        ));
    Ok(shell)
}

fn inner(stand: &Stand) -> Result<String> {
    let path = stand.dir.join("out/inner");
    fs::read_to_string(&path).map_err(|source| Error::File {
        doing: "reading",
        path,
        source,
    })
}

#[test]
fn a_graph_in_a_file_is_built_and_its_result_handed_on() {
    on_stand(|stand| {
        let first: Done = succeed(&mut build(stand, "true")?)?;
        ensure(inner(stand)? == "made inside\n", || first.stderr.clone())?;
        ensure(first.stderr.contains("echo made inside"), || {
            first.stderr.clone()
        })?;
        let again = succeed(&mut build(stand, "true")?)?;
        ensure(cached_steps(&again) >= 2, || again.stderr.clone())
    });
}

#[test]
fn nothing_is_handed_on_when_what_it_waits_for_fails() {
    on_stand(|stand| {
        let said = fail(&mut build(stand, "exit 7")?)?;
        ensure(said.contains("exit code: 7"), || said.clone())
    });
}
