//! Ordinary containers: what `ctr run --runtime io.containerd.shipway.v1` does.

use std::process::{Command, Stdio};

use shipway_step::RUNTIME;

use super::harness::{Containerd, NAMESPACE, eventually, kill, leftovers, lives, parent_of};

fn run<'a>(rootfs: &'a str, flags: &[&'a str], id: &'a str, command: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["run", "--runtime", RUNTIME, "--rootfs"];
    args.extend(flags);
    args.extend([rootfs, id]);
    args.extend(command);
    args
}

#[tokio::test]
async fn a_container_runs_and_its_exit_code_arrives() {
    let containerd = Containerd::start().await;
    let rootfs = containerd.root.join("busybox").display().to_string();
    let output = containerd.ctr(&run(
        &rootfs,
        &["--rm"],
        "c1",
        &["/bin/sh", "-c", "echo hi; echo err >&2; exit 4"],
    ));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "hi\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stderr).ends_with("err\n"));
    assert_eq!(output.status.code(), Some(4));
    let output = containerd.ctr(&run(&rootfs, &["--rm"], "c2", &["/no/such"]));
    assert!(!output.status.success());
    assert_eq!(leftovers(&containerd.root), Vec::<String>::new());
}

#[tokio::test]
async fn a_detached_container_can_be_entered_paused_limited_and_killed() {
    let containerd = Containerd::start().await;
    let rootfs = containerd.root.join("busybox").display().to_string();
    containerd.ctr_ok(&run(
        &rootfs,
        &["-d"],
        "d1",
        &[
            "/bin/sh",
            "-c",
            "trap 'exit 3' TERM; while :; do sleep 0.01; done",
        ],
    ));
    let listed = containerd.ctr_ok(&["tasks", "ls"]);
    assert!(listed.contains("RUNNING"), "{listed}");
    assert_eq!(
        containerd.ctr_ok(&[
            "tasks",
            "exec",
            "--exec-id",
            "e1",
            "d1",
            "/bin/sh",
            "-c",
            "echo in; id -u"
        ]),
        "in\n0\n"
    );
    let failed = containerd.ctr(&[
        "tasks",
        "exec",
        "--exec-id",
        "e2",
        "d1",
        "/bin/sh",
        "-c",
        "exit 6",
    ]);
    assert_eq!(
        failed.status.code(),
        Some(6),
        "{}",
        String::from_utf8_lossy(&failed.stderr)
    );
    assert!(
        containerd
            .ctr_ok(&["tasks", "metrics", "d1"])
            .contains("memory")
    );
    assert!(containerd.ctr_ok(&["tasks", "ps", "d1"]).lines().count() >= 2);
    containerd.ctr_ok(&["tasks", "pause", "d1"]);
    assert!(containerd.ctr_ok(&["tasks", "ls"]).contains("PAUSED"));
    containerd.ctr_ok(&["tasks", "resume", "d1"]);
    containerd.ctr_ok(&["tasks", "kill", "d1"]);
    assert_eq!(containerd.wait("d1", "").await.unwrap().exit_status, 3);
    containerd.ctr(&["tasks", "rm", "d1"]);
    containerd.ctr_ok(&["containers", "rm", "d1"]);
    assert_eq!(leftovers(&containerd.root), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_shims_container_is_cleaned_up() {
    let containerd = Containerd::start().await;
    let rootfs = containerd.root.join("busybox").display().to_string();
    containerd.ctr_ok(&run(&rootfs, &["-d"], "k1", &["/bin/sleep", "1000"]));
    let listed = containerd.ctr_ok(&["tasks", "ls"]);
    let pid: u32 = listed
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kill(parent_of(pid), libc::SIGKILL);
    eventually("the container is gone", || !lives(pid));
    eventually("the task is gone", || {
        !containerd.ctr_ok(&["tasks", "ls", "-q"]).contains("k1")
    });
    containerd.ctr_ok(&["containers", "rm", "k1"]);
    assert_eq!(leftovers(&containerd.root), Vec::<String>::new());
}

#[tokio::test]
async fn piped_input_arrives_and_ends() {
    let containerd = Containerd::start().await;
    let rootfs = containerd.root.join("busybox").display().to_string();
    let root = containerd.root.display();
    let ctr = format!("timeout 30 ctr --address {root}/c.sock --namespace {NAMESPACE}");
    let piped = |command: &str| {
        let line = format!("echo piped | {ctr} {command}");
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let run = format!("run --rm --runtime {RUNTIME} --rootfs {rootfs} p1 /bin/cat");
    assert_eq!(piped(&run), "piped\n");
    containerd.create_build("b1").await;
    assert_eq!(piped("tasks exec --exec-id v1 b1 /bin/cat"), "piped\n");
    containerd.remove_build("b1").await;
}

/// `script` gives ctr the terminal that it wants.
#[tokio::test]
async fn terminals_work_in_containers_and_steps() {
    let containerd = Containerd::start().await;
    let rootfs = containerd.root.join("busybox").display().to_string();
    let ctr = format!(
        "ctr --address {}/c.sock --namespace {NAMESPACE}",
        containerd.root.display()
    );
    let shell = "/bin/sh -c 'tty; stty size; echo ok; exit 2'";
    let in_terminal = |command: String| {
        let output = Command::new("script")
            .args([
                "-qec",
                &format!("stty rows 33 cols 77; {command}"),
                "/dev/null",
            ])
            .stdin(Stdio::null())
            .output()
            .expect("install bsdutils for `script`");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).replace('\r', ""),
        )
    };
    let (code, text) = in_terminal(format!(
        "{ctr} run --rm -t --runtime {RUNTIME} --rootfs {rootfs} t1 {shell}"
    ));
    assert!(
        code == Some(2) && text.contains("/dev/") && text.contains("ok"),
        "{code:?} {text}"
    );

    containerd.create_build("b1").await;
    let step = containerd.shell("s1", "sleep 1000");
    containerd
        .start_step("b1", "s1", &step, std::path::Path::new(""))
        .await
        .unwrap();
    let (code, text) = in_terminal(format!("{ctr} tasks exec -t --exec-id t1 b1 {shell}"));
    assert!(
        code == Some(2) && text.contains("/dev/pts/0") && text.contains("ok"),
        "{code:?} {text}"
    );
    containerd.remove_build("b1").await;
}
