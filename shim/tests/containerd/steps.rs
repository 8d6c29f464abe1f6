//! What a step sees, what it may do, and what is refused.

use std::fs;
use std::path::PathBuf;

use oci_spec::runtime::{
    LinuxMemoryBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder,
    LinuxResourcesBuilder, LinuxSeccomp, PosixRlimitBuilder, PosixRlimitType,
};
use shipway_step::{LayerStack, MountAttribute, MountSource, StepMount, StepSpec};

use super::harness::{Containerd, eventually};

fn with_process(step: &mut StepSpec, change: impl FnOnce(&mut oci_spec::runtime::Process)) {
    change(step.spec.process_mut().as_mut().unwrap());
}

fn with_linux(step: &mut StepSpec, change: impl FnOnce(&mut oci_spec::runtime::Linux)) {
    change(step.spec.linux_mut().as_mut().unwrap());
}

#[tokio::test]
async fn a_step_is_isolated_as_buildkits_are() {
    let containerd = Containerd::start().await;
    containerd.create_build("b1").await;
    let cases = [
        (
            "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status | tr -s '\\n\\t' '  '",
            "CapInh: 0000000000000000 CapPrm: 00000000a80425fb CapEff: 00000000a80425fb CapBnd: 00000000a80425fb CapAmb: 0000000000000000 NoNewPrivs: 0 ",
        ),
        (
            "echo $$; hostname; umask; echo $HOME; pwd",
            "1\nbuildkitsandbox\n0022\n/root\n/\n",
        ),
        ("ls -d /proc/[0-9]*", "/proc/1\n"),
        (
            "ls /dev | tr '\\n' ' '",
            "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ",
        ),
        (
            "stat -c '%F %a' /dev/null /dev/shm /dev/pts | tr '\\n' ';'; stat -c %N /dev/ptmx",
            "character special file 666;directory 1777;directory 755;'/dev/ptmx' -> 'pts/ptmx'\n",
        ),
        ("cat /proc/keys | wc -c; ls /sys/firmware | wc -l", "0\n0\n"),
        (
            "echo 1 > /proc/sys/kernel/hostname || echo no; touch /sys/x || echo no; touch /sys/fs/cgroup/x || echo no",
            "/bin/sh: can't create /proc/sys/kernel/hostname: Read-only file system\nno\n\
          touch: /sys/x: Read-only file system\nno\ntouch: /sys/fs/cgroup/x: Read-only file system\nno\n",
        ),
        (
            "mount -t tmpfs x /tmp 2>/dev/null || echo no; echo $(id -u):$(id -g):$(id -G)",
            "no\n0:0:0\n",
        ),
        (
            "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem; mknod /tmp/n c 1 3 && echo x > /tmp/n && echo fine",
            "head: /tmp/mem: Operation not permitted\nfine\n",
        ),
        ("cat; echo done", "done\n"),
        ("grep -c . /proc/net/dev; kill -9 $$; echo alive", ""),
    ];
    for (at, (script, expected)) in cases.into_iter().enumerate() {
        let name = format!("s{at}");
        let mut step = containerd.shell(&name, script);
        step.user = Some(String::new());
        let (code, output) = containerd.run_step("b1", &name, &step).await.unwrap();
        if expected.is_empty() {
            assert!(
                code == 0 && output.ends_with("alive\n"),
                "{script}: {code} {output}"
            );
        } else {
            assert_eq!((code, output.as_str()), (0, expected), "{script}");
        }
    }
    containerd.remove_build("b1").await;
}

#[tokio::test]
async fn users_directories_and_programs_are_found_in_the_root() {
    let containerd = Containerd::start().await;
    containerd.create_build("b1").await;
    for (at, (user, expected)) in [
        ("nobody", "65534:65534:65534 100 /home"),
        ("1234", "1234:0:0 /"),
        (":12", "0:12:12 /root"),
        ("root:users", "0:100:100 /root"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("u{at}");
        let script = "echo $(id -u):$(id -g):$(id -G) $HOME; touch /cwd/new/x 2>/dev/null; stat -c %u:%g:%a /cwd/new /cwd";
        let mut step = containerd.shell(&name, script);
        step.user = Some(user.to_owned());
        step.create_cwd = true;
        with_process(&mut step, |process| _ = process.set_cwd("/cwd/new".into()));
        let (code, output) = containerd.run_step("b1", &name, &step).await.unwrap();
        let owner = expected
            .split(' ')
            .next()
            .unwrap()
            .rsplit_once(':')
            .unwrap()
            .0;
        assert_eq!(
            (code, output),
            (0, format!("{expected}\n{owner}:755\n{owner}:755\n")),
            "{user}"
        );
        assert!(containerd.upper(&name).join("cwd/new/x").exists());
    }
    let refused: [(&str, fn(&mut StepSpec), &str); 6] = [
        (
            "e1",
            |step| step.user = Some("nosuch".to_owned()),
            "unable to find user nosuh: no matching entries in passwd file",
        ),
        (
            "e2",
            |step| args(step, &["nosuch"]),
            "exec: \"nosuch\": executable file not found in $PATH",
        ),
        (
            "e3",
            |step| args(step, &["/no/such"]),
            "exec: \"/no/such\": stat /no/such: no such file or directory",
        ),
        (
            "e4",
            |step| args(step, &["/etc/passwd"]),
            "exec: \"/etc/passwd\": permission denied",
        ),
        (
            "e5",
            |step| with_process(step, |process| _ = process.set_cwd("/none".into())),
            "no such file or directory",
        ),
        (
            "e6",
            |step| step.root.lower = vec!["/no/such/layer".into()],
            "mounting the root: No such file",
        ),
    ];
    for (name, change, message) in refused {
        let mut step = containerd.shell(name, "true");
        change(&mut step);
        let error = containerd.run_step("b1", name, &step).await.unwrap_err();
        let message = message.replace("nosuh", "nosuch");
        assert!(error.contains(&message), "{error}");
    }
    let failure = containerd.outcome("e2").unwrap().failure.unwrap();
    assert!(failure.message.contains("executable file not found"));
    containerd.remove_build("b1").await;
}

fn args(step: &mut StepSpec, args: &[&str]) {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    with_process(step, |process| _ = process.set_args(Some(args)));
}

#[tokio::test]
async fn mounts_are_made_as_asked_and_leave_no_stubs() {
    let containerd = Containerd::start().await;
    containerd.create_build("b1").await;
    let source = containerd.root.join("source");
    fs::create_dir_all(source.join("deep/er")).unwrap();
    fs::write(source.join("deep/er/f"), "found").unwrap();
    fs::write(source.join("secret"), "hush").unwrap();
    std::os::unix::fs::symlink("/deep", source.join("link")).unwrap();
    let other = containerd.root.join("other");
    fs::create_dir_all(other.join("deep")).unwrap();
    fs::write(other.join("deep/g"), "over").unwrap();
    let (upper, work) = (
        containerd.root.join("m-upper"),
        containerd.root.join("m-work"),
    );
    fs::create_dir_all(&upper).unwrap();
    fs::create_dir_all(&work).unwrap();

    let script = "cat /in/f /run/secrets/s /both/deep/g /both/deep/er/f; touch /in/x 2>/dev/null || echo ro; \
                  touch /both/new && echo rw; stat -c %a /t; touch /etc/kept; df -k /t | tail -1 | tr -s ' ' | cut -d' ' -f2; \
                  cat /etc/hosts; rm /etc/hosts 2>/dev/null || echo busy";
    let mut step = containerd.shell("s1", script);
    let read_only = [MountAttribute::ReadOnly];
    let path = |path: PathBuf, subpath: Option<&str>| MountSource::Path {
        path,
        subpath: subpath.map(Into::into),
    };
    fs::write(containerd.root.join("hosts"), "127.0.0.1\n").unwrap();
    step.mounts = vec![
        StepMount::new("/etc/hosts", path(containerd.root.join("hosts"), None)).with(read_only),
        StepMount::new("/in", path(source.clone(), Some("link/er"))).with(read_only),
        StepMount::new("/run/secrets/s", path(source.join("secret"), None)).with([
            MountAttribute::ReadOnly,
            MountAttribute::NoSuid,
            MountAttribute::NoDev,
            MountAttribute::NoExec,
        ]),
        StepMount::new(
            "/both",
            MountSource::Layers {
                layers: LayerStack::writable([other.clone(), source.clone()], upper.clone(), work),
                subpath: None,
            },
        ),
        StepMount::new(
            "/one/file",
            MountSource::Layers {
                layers: LayerStack::read_only([other, source]),
                subpath: Some("deep/g".into()),
            },
        ),
        StepMount::new(
            "/t",
            MountSource::Tmpfs {
                size: Some(1 << 20),
                mode: 0o1777,
            },
        )
        .with([MountAttribute::NoSuid]),
    ];
    let (code, output) = containerd.run_step("b1", "s1", &step).await.unwrap();
    assert_eq!(
        (code, output.as_str()),
        (0, "foundhushoverfoundro\nrw\n1777\n1024\n127.0.0.1\nbusy\n")
    );
    assert!(upper.join("new").exists());
    let mut left: Vec<_> = fs::read_dir(containerd.upper("s1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["etc"], "stubs are gone");
    let etc: Vec<_> = fs::read_dir(containerd.upper("s1").join("etc"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(etc, ["kept"]);
    containerd.remove_build("b1").await;
}

#[tokio::test]
async fn roots_of_every_shape_are_mounted() {
    let containerd = Containerd::start().await;
    containerd.create_build("b1").await;
    let layers = containerd
        .root
        .join("layers-with-a-name-that-makes-the-options-longer-than-a-page");
    let many: Vec<PathBuf> = (0..250)
        .map(|at| layers.join(format!("layer-number-{at}")))
        .collect();
    for (at, layer) in many.iter().enumerate() {
        fs::create_dir_all(layer).unwrap();
        fs::write(layer.join("top"), format!("{at}")).unwrap();
        fs::write(layer.join(format!("f{at}")), "").unwrap();
    }
    let busybox = containerd.root.join("busybox");
    let all = || many.iter().cloned().chain([busybox.clone()]);
    let mut step = containerd.shell("many", "cat /top; ls / | grep -c '^f'; echo x > /new");
    step.root.lower = all().collect();
    assert_eq!(
        containerd.run_step("b1", "many", &step).await.unwrap(),
        (0, "0250\n".to_owned())
    );

    let mut step = containerd.shell("ro", "cat /top; echo x > /new || echo ro");
    step.root = LayerStack::read_only(all());
    let (_, output) = containerd.run_step("b1", "ro", &step).await.unwrap();
    assert!(output.ends_with("ro\n"), "{output}");

    let mut step = containerd.shell("one", "echo x > /tmp/new || echo ro");
    step.root = LayerStack::read_only([busybox.clone()]);
    step.spec
        .set_mounts(Some(step.spec.mounts().clone().unwrap()));
    let (_, output) = containerd.run_step("b1", "one", &step).await.unwrap();
    assert!(output.ends_with("ro\n"), "{output}");

    let scratch = containerd.upper("scratch");
    let mut step = containerd.shell("scratch", "echo x > /new");
    fs::create_dir_all(scratch.join("bin")).unwrap();
    fs::copy("/bin/busybox", scratch.join("bin/sh")).unwrap();
    step.root.lower = Vec::new();
    assert_eq!(
        containerd.run_step("b1", "scratch", &step).await.unwrap().0,
        0
    );
    assert!(scratch.join("new").exists());
    containerd.remove_build("b1").await;
}

#[tokio::test]
async fn limits_filters_and_networks_hold() {
    let containerd = Containerd::start().await;
    containerd.create_build("b1").await;
    let resources = |change: fn(LinuxResourcesBuilder) -> LinuxResourcesBuilder| {
        change(LinuxResourcesBuilder::default()).build().unwrap()
    };

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
    let limits =
        resources(|limits| limits.pids(LinuxPidsBuilder::default().limit(4).build().unwrap()));
    with_linux(&mut step, |linux| _ = linux.set_resources(Some(limits)));
    let (_, output) = containerd.run_step("b1", "pids", &step).await.unwrap();
    assert!(output.contains("can't fork"), "{output}");

    let section = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#;
    let section: LinuxSeccomp = serde_json::from_str(section).unwrap();
    for (name, no_new_privileges) in [("filter1", false), ("filter2", true)] {
        let mut step = containerd.shell(name, "mkdir /x 2>&1; grep ^Seccomp: /proc/self/status | tr -s '\\t' ' '; grep NoNew /proc/self/status | tr -s '\\t' ' '");
        with_linux(&mut step, |linux| {
            _ = linux.set_seccomp(Some(section.clone()))
        });
        with_process(&mut step, |process| {
            _ = process.set_no_new_privileges(Some(no_new_privileges))
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

#[tokio::test]
async fn a_running_step_can_be_visited_signalled_and_paused() {
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

    let visited = containerd.ctr_ok(&[
        "tasks",
        "exec",
        "--exec-id",
        "v1",
        "b1",
        "/bin/sh",
        "-c",
        "cat /mark; hostname; echo $$ | grep -vc '^1$'",
    ]);
    assert_eq!(visited, "here\nbuildkitsandbox\n1\n");
    let failed = containerd.ctr(&[
        "tasks",
        "exec",
        "--exec-id",
        "v2",
        "b1",
        "/bin/sh",
        "-c",
        "exit 9",
    ]);
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

    let step = containerd.shell("s2", "sleep 1000");
    containerd
        .start_step("b1", "s2", &step, &output)
        .await
        .unwrap();
    containerd.kill("b1", "s2", libc::SIGKILL).await.unwrap();
    assert_eq!(containerd.wait("b1", "s2").await.unwrap().exit_status, 137);
    assert_eq!(containerd.outcome("s2").unwrap().signal, Some(9));
    containerd.delete_step("b1", "s2").await;

    let in_launcher = containerd.ctr_ok(&[
        "tasks",
        "exec",
        "--exec-id",
        "v3",
        "b1",
        "/bin/sh",
        "-c",
        "echo $$; id -u",
    ]);
    assert!(in_launcher.ends_with("\n0\n"), "{in_launcher}");
    containerd.remove_build("b1").await;
}
