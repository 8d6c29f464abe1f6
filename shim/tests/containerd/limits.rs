//! What holds a step back, and what can be done to a running one.

use std::fs;

use oci_spec::runtime::{
    LinuxMemoryBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder,
    LinuxResourcesBuilder, LinuxSeccomp, PosixRlimitBuilder, PosixRlimitType,
};

use super::harness::{Containerd, eventually, with_linux, with_process};

#[tokio::test]
async fn limits_hold() {
    let containerd = Containerd::start().await;
    containerd.create_build("b1").await;
    let mut step = containerd.shell("oom", "head -c 200m /dev/zero | tail | wc -c; exit 7");
    let memory = LinuxMemoryBuilder::default()
        .limit(32 << 20)
        .build()
        .unwrap();
    let limits = LinuxResourcesBuilder::default()
        .memory(memory)
        .build()
        .unwrap();
    with_linux(&mut step, |linux| _ = linux.set_resources(Some(limits)));
    containerd.run_step("b1", "oom", &step).await.unwrap();
    let outcome = containerd.outcome("oom").unwrap();
    assert!(
        outcome.oom_killed && outcome.peak_memory <= 33 << 20,
        "{outcome:?}"
    );

    let mut step = containerd.shell(
        "pids",
        "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done 2>&1 | head -1; true",
    );
    let pids = LinuxPidsBuilder::default().limit(4).build().unwrap();
    let limits = LinuxResourcesBuilder::default().pids(pids).build().unwrap();
    with_linux(&mut step, |linux| _ = linux.set_resources(Some(limits)));
    let (_, output) = containerd.run_step("b1", "pids", &step).await.unwrap();
    assert!(output.contains("can't fork"), "{output}");
    containerd.remove_build("b1").await;
}

#[tokio::test]
async fn filters_hold_with_and_without_new_privileges() {
    let containerd = Containerd::start().await;
    containerd.create_build("b1").await;
    let section = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#;
    let section: LinuxSeccomp = serde_json::from_str(section).unwrap();
    for (name, no_new_privileges) in [("filter1", false), ("filter2", true)] {
        let mut step = containerd.shell(name, "mkdir /x 2>&1; grep ^Seccomp: /proc/self/status | tr -s '\\t' ' '; grep NoNew /proc/self/status | tr -s '\\t' ' '");
        with_linux(&mut step, |linux| {
            _ = linux.set_seccomp(Some(section.clone()));
        });
        with_process(&mut step, |process| {
            _ = process.set_no_new_privileges(Some(no_new_privileges));
        });
        let (_, output) = containerd.run_step("b1", name, &step).await.unwrap();
        let bit = u8::from(no_new_privileges);
        assert_eq!(
            output,
            format!(
                "mkdir: can't create directory '/x': Operation not permitted\nSeccomp: 2\nNoNewPrivs: {bit}\n"
            )
        );
    }
    containerd.remove_build("b1").await;
}

#[tokio::test]
async fn a_network_and_resource_limits_of_its_own_hold() {
    let containerd = Containerd::start().await;
    containerd.create_build("b1").await;
    let mut step = containerd.shell(
        "net",
        "ip -o link | cut -d: -f2,3 | cut -d' ' -f2,3; ulimit -n",
    );
    with_linux(&mut step, |linux| {
        let network = LinuxNamespaceBuilder::default()
            .typ(LinuxNamespaceType::Network)
            .build()
            .unwrap();
        linux.set_namespaces(Some(vec![network]));
    });
    with_process(&mut step, |process| {
        let limit = PosixRlimitBuilder::default()
            .typ(PosixRlimitType::RlimitNofile)
            .soft(77u64)
            .hard(77u64)
            .build()
            .unwrap();
        process.set_rlimits(Some(vec![limit]));
    });
    let (_, output) = containerd.run_step("b1", "net", &step).await.unwrap();
    assert!(
        output.starts_with("lo: <LOOPBACK,UP") && output.ends_with("77\n"),
        "{output}"
    );
    containerd.remove_build("b1").await;
}

fn visit<'a>(exec_id: &'a str, script: &'a str) -> [&'a str; 8] {
    [
        "tasks",
        "exec",
        "--exec-id",
        exec_id,
        "b1",
        "/bin/sh",
        "-c",
        script,
    ]
}

#[tokio::test]
async fn a_running_step_can_be_visited_watched_and_paused() {
    let containerd = Containerd::start().await;
    containerd.create_build("b1").await;
    let output = containerd.root.join("s1.out");
    let step = containerd.shell(
        "s1",
        "trap 'exit 42' TERM; echo here > /mark; echo up; while :; do sleep 0.01; done",
    );
    let pid = containerd
        .start_step("b1", "s1", &step, &output)
        .await
        .unwrap();
    eventually("the step is up", || {
        fs::read_to_string(&output).is_ok_and(|text| text == "up\n")
    });

    let visited = containerd.ctr_ok(&visit(
        "v1",
        "cat /mark; hostname; echo $$ | grep -vc '^1$'",
    ));
    assert_eq!(visited, "here\nbuildkitsandbox\n1\n");
    let failed = containerd.ctr(&visit("v2", "exit 9"));
    assert_eq!(failed.status.code(), Some(9));
    let listed = containerd.ctr_ok(&["tasks", "ps", "b1"]);
    assert!(
        listed.contains(&pid.to_string()) && listed.contains("s1"),
        "{listed}"
    );
    let metrics = containerd.ctr_ok(&["tasks", "metrics", "b1"]);
    assert!(metrics.contains("memory"), "{metrics}");

    containerd.ctr_ok(&["tasks", "pause", "b1"]);
    assert!(containerd.ctr_ok(&["tasks", "ls"]).contains("PAUSED"));
    containerd.ctr_ok(&["tasks", "resume", "b1"]);
    containerd.kill("b1", "s1", libc::SIGTERM).await.unwrap();
    assert_eq!(containerd.wait("b1", "s1").await.unwrap().exit_status, 42);
    assert_eq!(containerd.delete_step("b1", "s1").await, 42);
    containerd.remove_build("b1").await;
}

#[tokio::test]
async fn a_killed_step_says_so_and_an_idle_build_can_be_visited() {
    let containerd = Containerd::start().await;
    containerd.create_build("b1").await;
    let output = containerd.root.join("s2.out");
    let step = containerd.shell("s2", "sleep 1000");
    containerd
        .start_step("b1", "s2", &step, &output)
        .await
        .unwrap();
    containerd.kill("b1", "s2", libc::SIGKILL).await.unwrap();
    assert_eq!(containerd.wait("b1", "s2").await.unwrap().exit_status, 137);
    assert_eq!(containerd.outcome("s2").unwrap().signal, Some(9));
    containerd.delete_step("b1", "s2").await;

    let in_launcher = containerd.ctr_ok(&visit("v3", "echo $$; id -u"));
    assert!(in_launcher.ends_with("\n0\n"), "{in_launcher}");
    containerd.remove_build("b1").await;
}
