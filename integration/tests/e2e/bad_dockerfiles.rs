//! Mistakes in a Dockerfile end in an error that names the line or the object. Nothing else is harmed by them.

use shipway_integration::{Result, command::fail, stand::Stand};

use crate::support::{build, build_image, ensure, on_stand};

/// A Dockerfile, and what its refusal must say.
type Case = (&'static str, &'static [&'static str]);

const SYNTAX: &[Case] = &[
    ("FROM\n", &["line 1", "FROM"]),
    ("FROM busybox:local\nRUNN x\n", &["line 2", "RUNN"]),
    (
        "FROM busybox:local\nRUN --mount=type=nope x\n",
        &["line 2", "nope"],
    ),
    ("FROM busybox:local\nRUN --bogus x\n", &["line 2", "bogus"]),
    ("FROM busybox:local\nCOPY onlyone\n", &["line 2", "COPY"]),
    ("FROM busybox:local\nCOPY --chmod\n", &["line 2"]),
    ("FROM busybox:local\nADD onlyone\n", &["line 2", "ADD"]),
    ("FROM busybox:local\nENV\n", &["line 2", "ENV"]),
    ("FROM busybox:local\nENV A\n", &["line 2"]),
    ("FROM busybox:local\nLABEL\n", &["line 2", "LABEL"]),
    ("FROM busybox:local\nARG\n", &["line 2", "ARG"]),
    ("FROM busybox:local\nWORKDIR\n", &["line 2", "WORKDIR"]),
    ("FROM busybox:local\nUSER\n", &["line 2", "USER"]),
    ("FROM busybox:local\nEXPOSE\n", &["line 2", "EXPOSE"]),
    ("FROM busybox:local\nEXPOSE seven\n", &["seven"]),
    ("FROM busybox:local\nVOLUME\n", &["line 2", "VOLUME"]),
    (
        "FROM busybox:local\nSTOPSIGNAL\n",
        &["line 2", "STOPSIGNAL"],
    ),
    (
        "FROM busybox:local\nHEALTHCHECK NOPE\n",
        &["line 2", "HEALTHCHECK"],
    ),
    (
        "FROM busybox:local\nHEALTHCHECK --interval=soon CMD x\n",
        &["line 2", "soon"],
    ),
    ("FROM busybox:local\nSHELL /bin/sh\n", &["line 2", "SHELL"]),
    (
        "FROM busybox:local\nONBUILD FROM x\n",
        &["line 2", "ONBUILD"],
    ),
    ("FROM busybox:local\nONBUILD\n", &["line 2", "ONBUILD"]),
    (
        "FROM busybox:local\nMAINTAINER\n",
        &["line 2", "MAINTAINER"],
    ),
    ("FROM --bogus=x busybox:local\n", &["line 1", "bogus"]),
    ("FROM busybox:local AS 1bad\n", &["1bad"]),
    (
        "FROM busybox:local\nCOPY --bogus=x a b\n",
        &["line 2", "bogus"],
    ),
    (
        "FROM busybox:local\nADD --bogus=x a b\n",
        &["line 2", "bogus"],
    ),
    (
        "FROM busybox:local\nHEALTHCHECK --bogus=x CMD y\n",
        &["line 2", "bogus"],
    ),
    (
        "FROM busybox:local\nENTRYPOINT --bogus x\n",
        &["line 2", "bogus"],
    ),
    ("FROM busybox:local\nCMD --bogus x\n", &["line 2", "bogus"]),
    ("FROM busybox:local\nRUN <<EOF\nnever ended\n", &["EOF"]),
    ("RUN before from\n", &["no build stage"]),
    ("", &["empty"]),
];

const OBJECTS: &[Case] = &[
    (
        "FROM busybox:local\nCOPY missing /x\n",
        &["Dockerfile:2", "/missing", "not found"],
    ),
    (
        "FROM busybox:local\nCOPY --from=nowhere /a /b\n",
        &["nowhere"],
    ),
    (
        "FROM busybox:local AS a\nFROM a AS b\nCOPY --from=b /x /y\n",
        &["Dockerfile:3"],
    ),
    ("FROM busybox:local\nUSER ghost\nRUN true\n", &["ghost"]),
    (
        "FROM busybox:local\nRUN --mount=type=secret,id=s,required=true true\n",
        &["s: not found"],
    ),
    (
        "FROM busybox:local\nRUN --mount=type=ssh,required=true true\n",
        &["ssh"],
    ),
    ("FROM $NOTHING\n", &["Dockerfile:1"]),
    ("FROM Upper/Case\n", &["Upper/Case"]),
];

fn refused(stand: &Stand, cases: &[Case]) -> Result<()> {
    let mut wrong = Vec::new();
    for (number, (dockerfile, parts)) in cases.iter().enumerate() {
        let context = stand.context(&format!("bad-{number}"), &[("Dockerfile", dockerfile)])?;
        let said = fail(&mut build_image(stand, &context)?)?;
        // BuildKit names the place as `Dockerfile:2` with the source, or as `line 2` where it can't be parsed at all.
        let names = |part: &str| {
            said.contains(part) || said.contains(&part.replace("line ", "Dockerfile:"))
        };
        if !parts.iter().all(|part| names(part)) {
            wrong.push(format!(
                "{dockerfile:?} must be refused with {parts:?}:\n{said}"
            ));
        }
    }
    ensure(wrong.is_empty(), || wrong.join("\n"))
}

#[test]
fn a_syntax_error_is_named_with_its_line() {
    on_stand(|stand| refused(stand, SYNTAX));
}

#[test]
fn a_missing_object_is_named() {
    on_stand(|stand| refused(stand, OBJECTS));
}

#[test]
fn a_missing_target_is_named() {
    on_stand(|stand| {
        let context = stand.context("target", &[("Dockerfile", "FROM busybox:local AS here\n")])?;
        let said = fail(build_image(stand, &context)?.args(["--opt", "target=there"]))?;
        ensure(
            said.contains("there") && said.contains("not be found"),
            || said.clone(),
        )
    });
}

#[test]
fn an_unknown_flag_of_the_client_is_named() {
    on_stand(|stand| {
        let context = stand.context("flag", &[("Dockerfile", "FROM busybox:local\n")])?;
        let said = fail(build_image(stand, &context)?.arg("--bogus"))?;
        ensure(said.contains("bogus"), || said.clone())?;
        let said =
            fail(build_image(stand, &context)?.args(["--opt", "platform=no/such/one/here"]))?;
        ensure(said.contains("no/such/one/here"), || said.clone())
    });
}

#[test]
fn a_missing_dockerfile_is_named() {
    on_stand(|stand| {
        let context = stand.context("nothing", &[("file", "x")])?;
        let said = fail(&mut build_image(stand, &context)?)?;
        ensure(
            said.contains("Dockerfile") && said.contains("no such file"),
            || said.clone(),
        )
    });
}

#[test]
fn what_was_built_before_a_mistake_stays_cached() {
    on_stand(|stand| {
        build(
            stand,
            "good",
            "FROM busybox:local\nRUN echo one >/one\n",
            &[],
        )?;
        let context = stand.context(
            "good",
            &[(
                "Dockerfile",
                "FROM busybox:local\nRUN echo one >/one\nRUN false\n",
            )],
        )?;
        let said = fail(&mut build_image(stand, &context)?)?;
        ensure(
            said.contains("CACHED") && said.contains("exit code: 1"),
            || said.clone(),
        )
    });
}
