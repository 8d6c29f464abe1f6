//! Devices that CDI names: their variables, nodes and mounts reach the step that asks, and nobody gets one that was not
//! granted.

use std::{fs, process::Command};

use shipway_integration::{
    Result,
    builder::Options,
    clients::Buildctl,
    command::{fail, succeed},
    stand::Stand,
};

use crate::support::{ensure, kind, on_stand_with};

const DEVICES: &str = r#"cdiVersion: "0.6.0"
kind: "vendor1.com/device"
devices:
- name: free
  containerEdits: {env: [FREE=injected]}
  annotations: {org.mobyproject.buildkit.device.autoallow: true}
- name: full
  containerEdits:
    deviceNodes: [{path: /dev/brim, hostPath: /dev/full}]
- name: node
  containerEdits:
    deviceNodes: [{path: /dev/brim, hostPath: /dev/full}]
  annotations: {org.mobyproject.buildkit.device.autoallow: true}
"#;

fn on_stand_with_devices(name: &str, body: impl FnOnce(&mut Stand) -> Result<()>) {
    let dir = std::env::temp_dir().join(format!("shipway-cdi-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap_or_default();
    fs::write(dir.join("devices.yaml"), DEVICES).unwrap_or_default();
    let mut options = Options::new(kind());
    options.more_config = format!("[cdi]\nspecDirs = [\"{}\"]\n", dir.display());
    on_stand_with(options, body);
    fs::remove_dir_all(&dir).unwrap_or_default();
}

fn build(stand: &Stand, name: &str, run: &str) -> Result<Command> {
    let dockerfile = format!("FROM busybox:local\nRUN {run}\n");
    let context = stand.context(name, &[("Dockerfile", &dockerfile)])?;
    stand.buildctl_build(Buildctl::from(kind()), &context)
}

#[test]
fn a_device_that_everybody_may_have_needs_no_grant_and_one_that_is_missing_may_be_optional() {
    on_stand_with_devices("free", |stand| {
        let run = "--device=vendor1.com/device=free,required --device=vendor2.com/device=none test $FREE = injected";
        succeed(&mut build(stand, "free", run)?)?;
        let run = "--device=vendor2.com/device=none,required true";
        let failed = fail(&mut build(stand, "none", run)?)?;
        let text = "required device \"vendor2.com/device=none\" is not registered";
        ensure(failed.contains(text), || failed.clone())
    });
}

#[test]
fn a_device_that_was_not_granted_is_named_and_one_that_was_is_given() {
    on_stand_with_devices("full", |stand| {
        let run = "--device=vendor1.com/device=full true";
        let failed = fail(&mut build(stand, "full", run)?)?;
        let text = "device vendor1.com/device=full is requested by the build but not allowed";
        ensure(failed.contains(text), || failed.clone())?;
        let mut buildctl = build(stand, "full", run)?;
        succeed(buildctl.args(["--allow", "device=vendor1.com/device=full"])).map(drop)
    });
}

#[test]
fn a_node_of_a_device_can_be_used() {
    on_stand_with_devices("node", |stand| {
        let run = "--device=vendor1.com/device=node,required head -c 1 /dev/brim | wc -c | grep -q 1 && ! echo x >/dev/brim";
        succeed(&mut build(stand, "node", run)?).map(drop)
    });
}
