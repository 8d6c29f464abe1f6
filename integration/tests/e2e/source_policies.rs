//! Rules about sources: denied by name, put in another's place, and judged for every kind of source; and a client's own policy,
//! which is asked while the build runs.

use std::fs;

use shipway_integration::{
    Result,
    clients::Buildctl,
    command::{fail, succeed},
    stand::Stand,
};

use crate::support::{ensure, kind, on_stand};

/// `buildctl build` of this Dockerfile under a policy of these rules.
fn build(stand: &Stand, dockerfile: &str, rules: &str) -> Result<std::process::Command> {
    let context = stand.context("judged", &[("Dockerfile", dockerfile), ("file", "text")])?;
    let policy = stand.dir.join("policy.json");
    fs::write(&policy, format!("{{\"rules\":[{rules}]}}")).unwrap_or_default();
    let mut buildctl = stand.buildctl_build(Buildctl::from(kind()), &context)?;
    buildctl.arg("--source-policy-file").arg(policy);
    Ok(buildctl)
}

const DENY: &str =
    r#"{"action":"DENY","selector":{"identifier":"docker-image://docker.io/library/*"}}"#;

#[test]
fn a_denied_image_is_named() {
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local\nRUN true\n";
        let denied = fail(&mut build(stand, dockerfile, DENY)?)?;
        let text = "source \"docker-image://docker.io/library/busybox:local\" denied by policy";
        ensure(denied.contains(text), || denied.clone())?;
        let allow = DENY.replace("DENY", "ALLOW");
        let rules = format!("{DENY},{allow}");
        succeed(&mut build(stand, dockerfile, &rules)?).map(drop)
    });
}

#[test]
fn an_image_is_put_in_another_s_place() {
    on_stand(|stand| {
        let convert = r#"{"action":"CONVERT",
            "selector":{"identifier":"docker-image://docker.io/nowhere/*:1"},
            "updates":{"identifier":"docker-image://docker.io/library/${1}:local"}}"#;
        let dockerfile = "FROM nowhere/busybox:1\nCOPY file /\nRUN test \"$(cat /file)\" = text\n";
        succeed(&mut build(stand, dockerfile, convert)?).map(drop)
    });
}

/// `buildx build` with this policy beside its Dockerfile.
fn build_judged_by(stand: &Stand, policy: &str) -> Result<std::process::Command> {
    let dockerfile = "FROM busybox:local\nCOPY file /\nRUN true\n";
    let files = [
        ("Dockerfile", dockerfile),
        ("Dockerfile.rego", policy),
        ("file", "text"),
    ];
    let context = stand.context("judged-by-client", &files)?;
    let mut buildx = stand.buildx()?;
    buildx.args(["build", "--progress=plain"]).arg(context);
    Ok(buildx)
}

#[test]
fn a_clients_own_policy_is_asked() {
    on_stand(|stand| {
        // Labels are not known before the policy asks for them.
        let policy = "package docker\ndefault allow := false\nallow if input.local\n\
                      allow if { input.image.repo == \"busybox\"; not input.image.labels.absent }\n\
                      decision := {\"allow\": allow}\n";
        let done = succeed(&mut build_judged_by(stand, policy)?)?;
        ensure(done.stderr.contains("resolve missing fields"), || {
            done.stderr.clone()
        })?;
        let policy = "package docker\ndefault allow := true\ndefault deny_msg := []\n\
                      allow := false if input.image.repo == \"busybox\"\n\
                      deny_msg := [\"not for us\"] if input.image.repo == \"busybox\"\n\
                      decision := {\"allow\": allow, \"deny_msg\": deny_msg}\n";
        let denied = fail(&mut build_judged_by(stand, policy)?)?;
        let source = "docker-image://docker.io/library/busybox:local";
        let text = format!("source \"{source}\" not allowed by policy: action DENY");
        ensure(denied.contains(&text), || denied.clone())?;
        ensure(denied.contains("Policy: not for us"), || denied.clone())
    });
}
