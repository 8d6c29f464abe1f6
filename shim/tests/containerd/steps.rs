//! What a step sees, and what is refused.

use shipway_step::StepSpec;

use super::harness::{Containerd, with_process};

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
async fn users_and_directories_are_found_in_the_root() {
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
    containerd.remove_build("b1").await;
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_in_the_runtimes_words() {
    type Change = fn(&mut StepSpec);
    let containerd = Containerd::start().await;
    containerd.create_build("b1").await;
    let refused: [(&str, Change, &str); 6] = [
        (
            "e1",
            |step| step.user = Some("nosuch".to_owned()),
            "unable to find user nosuch: no matching entries in passwd file",
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
        assert!(error.contains(message), "{error}");
    }
    let failure = containerd.outcome("e2").unwrap().failure.unwrap();
    assert!(failure.message.contains("executable file not found"));
    containerd.remove_build("b1").await;
}

fn args(step: &mut StepSpec, args: &[&str]) {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    with_process(step, |process| _ = process.set_args(Some(args)));
}
