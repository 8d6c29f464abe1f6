//! What a step finds around it: environment, user, mounts, secrets, network, limits.

use std::fs;

use shipway_integration::builder::Options;
use shipway_integration::command::{fail, succeed};

use crate::support::{build, build_image, ensure, kind, on_stand, on_stand_with, run_in_image};

#[test]
fn environment_arguments_user_and_directory_are_as_declared() {
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local\nARG WHO=nobody\nENV A=1 B=two\nRUN mkdir -p /w && chown nobody /w\n\
            WORKDIR /w\nUSER $WHO\nRUN echo \"$A $B $(id -un) $(pwd)\" >out\n";
        build(stand, "declared", dockerfile, &[])?;
        let said = run_in_image(stand, "cat /w/out")?;
        ensure(said == "1 two nobody /w\n", || format!("{said:?}"))
    });
}

#[test]
fn secrets_are_mounted_and_never_stored() {
    on_stand(|stand| {
        let secret = stand.dir.join("secret");
        shipway_integration::stand::write(&secret, "hush")?;
        let dockerfile = "FROM busybox:local\nRUN --mount=type=secret,id=s,required=true wc -c </run/secrets/s >/size\n";
        let context = stand.context("secret", &[("Dockerfile", dockerfile)])?;
        let mut buildctl = build_image(stand, &context)?;
        succeed(buildctl.args(["--secret", &format!("id=s,src={}", secret.display())]))?;
        let said = run_in_image(stand, "cat /size; ls /run/secrets 2>/dev/null | wc -l")?;
        ensure(said.split_whitespace().eq(["4", "0"]), || {
            format!("{said:?}")
        })?;
        let refused = fail(build_image(stand, &context)?.arg("--no-cache"))?;
        ensure(refused.contains("secret s: not found"), || refused.clone())
    });
}

#[test]
fn bind_and_tmpfs_mounts_leave_no_trace() {
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local AS other\nRUN echo from >/other\nFROM busybox:local\n\
            RUN --mount=from=other,source=/other,target=/seen --mount=type=tmpfs,target=/t cat /seen >/copy && touch /t/x\n\
            RUN --mount=target=/ctx cat /ctx/file >>/copy\n";
        build(stand, "mounts", dockerfile, &[("file", "context\n")])?;
        let said = run_in_image(
            stand,
            "cat /copy; ls -A /t /ctx | grep -c file; ls -A /t | wc -l",
        )?;
        ensure(said == "from\ncontext\n0\n0\n", || format!("{said:?}"))
    });
}

#[test]
fn a_failing_step_ends_the_build_with_its_exit_code_and_its_line() {
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local\nRUN true\nRUN echo why >&2; exit 42\n";
        let context = stand.context("failing", &[("Dockerfile", dockerfile)])?;
        let said = fail(&mut build_image(stand, &context)?)?;
        let parts = [
            "did not complete successfully: exit code: 42",
            "Dockerfile:3",
            "why",
        ];
        ensure(parts.iter().all(|part| said.contains(part)), || {
            said.clone()
        })
    });
}

#[test]
fn steps_are_confined() {
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local\n\
            RUN grep CapEff /proc/self/status | tee /caps; grep Seccomp: /proc/self/status | tee /seccomp; \
            (mount -t tmpfs none /mnt 2>&1 || echo refused) | tail -n 1 >/mount; \
            (echo x >/proc/sysrq-trigger) 2>/dev/null && echo open >/masked || echo masked >/masked; echo $$ >/pid\n";
        build(stand, "confined", dockerfile, &[])?;
        let said = run_in_image(stand, "cat /caps /seccomp /mount /masked /pid")?;
        let words = said.split_whitespace().collect::<Vec<_>>();
        ensure(
            words
                == [
                    "CapEff:",
                    "00000000a80425fb",
                    "Seccomp:",
                    "2",
                    "refused",
                    "masked",
                    "1",
                ],
            || said.clone(),
        )
    });
}

#[test]
fn networks_are_the_hosts_or_none() {
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local\nRUN --network=none ls /sys/class/net >/none\nRUN ls /sys/class/net >/default\n";
        build(stand, "network", dockerfile, &[])?;
        let said = run_in_image(stand, "cat /none; echo /; cat /default")?;
        let (none, default) = said.split_once("/\n").unwrap_or_default();
        let host = fs::read_dir("/sys/class/net").into_iter().flatten().count();
        ensure(none == "lo\n" && default.lines().count() == host, || {
            format!("{said:?}, {host} on the host")
        })
    });
}

#[test]
fn privileges_need_to_be_granted() {
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local\nRUN --security=insecure true\n";
        let context = stand.context("insecure", &[("Dockerfile", dockerfile)])?;
        let said = fail(build_image(stand, &context)?.args(["--allow", "security.insecure"]))?;
        ensure(said.contains("security.insecure is not allowed"), || {
            said.clone()
        })
    });
}

#[test]
fn a_privileged_step_has_the_capabilities_that_the_daemon_can_give() {
    let mut options = Options::new(kind());
    options.entitlements = vec!["security.insecure".to_owned()];
    on_stand_with(options, |stand| {
        let dockerfile = "FROM busybox:local\n\
            RUN --security=insecure grep CapEff /proc/self/status >/effective\n";
        let context = stand.context("privileged", &[("Dockerfile", dockerfile)])?;
        succeed(build_image(stand, &context)?.args(["--allow", "security.insecure"]))?;
        let said = run_in_image(stand, "cat /effective")?;
        let own = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let own = own.lines().find(|line| line.starts_with("CapEff"));
        ensure(Some(said.trim_end()) == own, || {
            format!("{said:?}, not {own:?}")
        })
    });
}

#[test]
fn copies_keep_modes_links_and_owners_as_asked_for() {
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local\nRUN mkdir /src && echo x >/src/a && chmod 640 /src/a && ln -s a /src/l && ln /src/a /src/h\n\
            FROM busybox:local\nCOPY --from=0 /src /kept\nCOPY --from=0 --chown=65534:65534 --chmod=600 /src/a /owned\n\
            RUN stat -c '%a %u' /kept/a /owned >/seen && readlink /kept/l >>/seen\n";
        build(stand, "copies", dockerfile, &[])?;
        let said = run_in_image(stand, "cat /seen")?;
        ensure(said == "640 0\n600 65534\na\n", || format!("{said:?}"))
    });
}
