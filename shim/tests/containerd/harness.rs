//! A private containerd, and the few calls on it that the tests need. It never touches another instance.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest,
    DeleteProcessRequest, DeleteTaskRequest, ExecProcessRequest, KillRequest, ListTasksRequest,
    StartRequest, WaitRequest, WaitResponse,
};
use containerd_client::tonic::{Request, Status};
use containerd_client::{Client, with_namespace};
use prost_types::Any;
use shipway_step::{BuildContainer, LayerStack, RUNTIME, STEP_TYPE_URL, StepOutcome, StepSpec};

use super::spec::shell_spec;

pub(crate) const NAMESPACE: &str = "shim-test";
const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-shipway-v1");

/// A containerd of this test's own.
pub(crate) struct Containerd {
    pub(crate) root: PathBuf,
    daemon: Option<Child>,
    pub(crate) client: Client,
}

impl Containerd {
    pub(crate) async fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        check_machine();
        let name = format!(
            "/run/shipway-shim-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let root = PathBuf::from(name);
        fs::create_dir_all(&root).unwrap();
        let config = format!(
            "version = 3\nroot = \"{0}/data\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.runtime\", \
             \"io.containerd.cri.v1.images\", \"io.containerd.nri.v1.nri\", \"io.containerd.podsandbox.controller.v1.podsandbox\"]\n\
             [grpc]\naddress = \"{0}/c.sock\"\n[debug]\nlevel = \"debug\"\n",
            root.display()
        );
        fs::write(root.join("config.toml"), config).unwrap();
        make_busybox(&root.join("busybox"));
        let daemon = spawn(&root);
        let client = connect(&root).await;
        Self {
            root,
            daemon: Some(daemon),
            client,
        }
    }

    pub(crate) async fn restart(&mut self) {
        self.stop(libc::SIGKILL);
        self.daemon = Some(spawn(&self.root));
        self.client = connect(&self.root).await;
    }

    pub(crate) fn stop(&mut self, signal: i32) {
        if let Some(mut daemon) = self.daemon.take() {
            kill(daemon.id(), signal);
            daemon.wait().unwrap();
        }
    }

    pub(crate) fn ctr(&self, args: &[&str]) -> Output {
        Command::new("ctr")
            .args([
                "--address",
                &self.root.join("c.sock").display().to_string(),
                "--namespace",
                NAMESPACE,
            ])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs ctr, which must succeed, and gives its output.
    pub(crate) fn ctr_ok(&self, args: &[&str]) -> String {
        let output = self.ctr(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "ctr {args:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Creates and starts a build; gives its launcher's pid.
    pub(crate) async fn create_build(&self, id: &str) -> u32 {
        self.create_container(id).await;
        let pid = self.create_task(id).await.unwrap();
        let request = StartRequest {
            container_id: id.to_owned(),
            ..Default::default()
        };
        self.client
            .tasks()
            .start(with_namespace!(request, NAMESPACE))
            .await
            .unwrap();
        pid
    }

    /// Creates a build's container.
    pub(crate) async fn create_container(&self, id: &str) {
        let own = self.root.file_name().unwrap().to_string_lossy();
        let cgroup = PathBuf::from(format!("/shipway-shim-test/{own}-{id}"));
        let spec = BuildContainer {
            cgroup,
            resources: None,
            socket: None,
        }
        .into_spec()
        .unwrap();
        let any = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
            value: serde_json::to_vec(&spec).unwrap(),
        };
        let runtime = Runtime {
            name: RUNTIME.to_owned(),
            options: None,
        };
        let container = Container {
            id: id.to_owned(),
            runtime: Some(runtime),
            spec: Some(any),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            container: Some(container),
        };
        self.client
            .containers()
            .create(with_namespace!(request, NAMESPACE))
            .await
            .unwrap();
    }

    /// Creates the task of a build's container; gives its launcher's pid.
    pub(crate) async fn create_task(&self, id: &str) -> Result<u32, Status> {
        let request = CreateTaskRequest {
            container_id: id.to_owned(),
            ..Default::default()
        };
        let created = self
            .client
            .tasks()
            .create(with_namespace!(request, NAMESPACE))
            .await?;
        Ok(created.into_inner().pid)
    }

    /// Deletes a build's task.
    pub(crate) async fn delete_task(&self, id: &str) -> Result<(), Status> {
        let request = DeleteTaskRequest {
            container_id: id.to_owned(),
        };
        self.client
            .tasks()
            .delete(with_namespace!(request, NAMESPACE))
            .await
            .map(drop)
    }

    /// Ends a build and removes it.
    pub(crate) async fn remove_build(&self, id: &str) {
        self.kill(id, "", libc::SIGKILL).await.ok();
        self.wait(id, "").await.unwrap();
        self.delete_task(id).await.unwrap();
        self.remove_container(id).await;
    }

    pub(crate) async fn remove_container(&self, id: &str) {
        let request = DeleteContainerRequest { id: id.to_owned() };
        self.client
            .containers()
            .delete(with_namespace!(request, NAMESPACE))
            .await
            .unwrap();
    }

    /// Starts a step; gives its pid.
    pub(crate) async fn start_step(
        &self,
        id: &str,
        exec_id: &str,
        step: &StepSpec,
        stdout: &Path,
    ) -> Result<u32, Status> {
        let spec = Any {
            type_url: STEP_TYPE_URL.to_owned(),
            value: step.to_any_value().unwrap(),
        };
        let stdout = if stdout.as_os_str().is_empty() {
            String::new()
        } else {
            format!("file://{}", stdout.display())
        };
        let request = ExecProcessRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            stderr: stdout.clone(),
            stdout,
            spec: Some(spec),
            ..Default::default()
        };
        self.client
            .tasks()
            .exec(with_namespace!(request, NAMESPACE))
            .await?;
        let request = StartRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
        };
        Ok(self
            .client
            .tasks()
            .start(with_namespace!(request, NAMESPACE))
            .await?
            .into_inner()
            .pid)
    }

    pub(crate) async fn wait(&self, id: &str, exec_id: &str) -> Result<WaitResponse, Status> {
        let request = WaitRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
        };
        Ok(self
            .client
            .tasks()
            .wait(with_namespace!(request, NAMESPACE))
            .await?
            .into_inner())
    }

    pub(crate) async fn kill(&self, id: &str, exec_id: &str, signal: i32) -> Result<(), Status> {
        let request = KillRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            signal: signal.unsigned_abs(),
            all: false,
        };
        self.client
            .tasks()
            .kill(with_namespace!(request, NAMESPACE))
            .await
            .map(drop)
    }

    pub(crate) async fn delete_step(&self, id: &str, exec_id: &str) -> u32 {
        let request = DeleteProcessRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
        };
        self.client
            .tasks()
            .delete_process(with_namespace!(request, NAMESPACE))
            .await
            .unwrap()
            .into_inner()
            .exit_status
    }

    /// Runs a step to its end; gives its exit code and output.
    pub(crate) async fn run_step(
        &self,
        id: &str,
        exec_id: &str,
        step: &StepSpec,
    ) -> Result<(u32, String), String> {
        let output = self.root.join(format!("{exec_id}.out"));
        let started = self.start_step(id, exec_id, step, &output).await;
        if let Err(status) = started {
            self.delete_step(id, exec_id).await;
            return Err(status.message().to_owned());
        }
        let code = self.wait(id, exec_id).await.unwrap().exit_status;
        assert_eq!(self.delete_step(id, exec_id).await, code);
        Ok((code, fs::read_to_string(output).unwrap_or_default()))
    }

    /// A step over busybox with an upper directory of its own.
    pub(crate) fn shell(&self, name: &str, script: &str) -> StepSpec {
        let step = self.root.join(name);
        for directory in ["upper", "work"] {
            fs::create_dir_all(step.join(directory)).unwrap();
        }
        StepSpec {
            spec: shell_spec(script),
            root: LayerStack::writable(
                [self.root.join("busybox")],
                step.join("upper"),
                step.join("work"),
            ),
            mounts: Vec::new(),
            user: None,
            create_cwd: false,
            stubs: shipway_step::MountStubs::RemoveWithParents,
            result: Some(step.join("result.json")),
        }
    }

    pub(crate) fn upper(&self, name: &str) -> PathBuf {
        self.root.join(name).join("upper")
    }

    pub(crate) fn outcome(&self, name: &str) -> Option<StepOutcome> {
        StepOutcome::read(&self.root.join(name).join("result.json")).unwrap()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.stop(libc::SIGTERM);
        if std::thread::panicking() {
            let log = fs::read_to_string(self.root.join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!(
                "containerd's log ends:\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        kill_shims(&self.root);
        fs::remove_dir_all(&self.root).ok();
    }
}

/// Ends the shims that a failed test leaves.
fn kill_shims(root: &Path) {
    for pid in shims(root) {
        kill(pid, libc::SIGKILL);
    }
}

/// The shims of a containerd: those that name its root.
pub(crate) fn shims(root: &Path) -> Vec<u32> {
    let root = root.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("shipway-v1") && line.contains(&root) {
            found.push(pid);
        }
    }
    found
}

/// Changes a step's process.
pub(crate) fn with_process(
    step: &mut StepSpec,
    change: impl FnOnce(&mut oci_spec::runtime::Process),
) {
    change(step.spec.process_mut().as_mut().unwrap());
}

/// Changes the Linux part of a step's specification.
pub(crate) fn with_linux(step: &mut StepSpec, change: impl FnOnce(&mut oci_spec::runtime::Linux)) {
    change(step.spec.linux_mut().as_mut().unwrap());
}

/// Waits until something is so; fails the test after ten seconds.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn kill(pid: u32, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Whether a process exists and is more than a zombie.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The parent of a process.
pub(crate) fn parent_of(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The pid of a build's shim. The launcher gets it as its parent once the process between them has ended.
pub(crate) fn shim_of(launcher: u32) -> u32 {
    let is_between = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.is_empty() || String::from_utf8_lossy(&line).contains("launcher")
    };
    eventually("the launcher is the shim's child", || {
        !is_between(parent_of(launcher))
    });
    parent_of(launcher)
}

/// What is left of a test's builds on the host: mounts and control groups.
pub(crate) fn leftovers(root: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = root.display().to_string();
    let mut left: Vec<String> = mounts
        .lines()
        .filter(|line| line.contains(&root))
        .map(str::to_owned)
        .collect();
    let own = root.rsplit('/').next().unwrap();
    let cgroups = Path::new("/sys/fs/cgroup");
    let trees = fs::read_dir(cgroups)
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    for tree in trees.chain([cgroups.to_owned()]) {
        let builds = fs::read_dir(tree.join("shipway-shim-test"))
            .into_iter()
            .flatten()
            .flatten();
        let builds = builds.map(|entry| entry.path().display().to_string());
        left.extend(builds.filter(|path| path.contains(own)));
    }
    left
}

fn check_machine() {
    assert!(nix::unistd::geteuid().is_root(), "these tests need root");
    assert!(
        Path::new("/bin/busybox").exists(),
        "install a static busybox: apt-get install busybox-static"
    );
    let version = Command::new("containerd").arg("--version").output();
    let version = version
        .expect("install containerd 2.x and put it into PATH")
        .stdout;
    let version = String::from_utf8_lossy(&version).into_owned();
    assert!(
        version.contains(" v2.") || version.contains(" 2."),
        "put containerd 2.x first into PATH, not {version}"
    );
}

fn spawn(root: &Path) -> Child {
    let shims = Path::new(SHIM).parent().unwrap();
    let path = format!("{}:{}", shims.display(), std::env::var("PATH").unwrap());
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(root.join("log"))
        .unwrap();
    Command::new("containerd")
        .args(["--config", &root.join("config.toml").display().to_string()])
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

async fn connect(root: &Path) -> Client {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(client) = Client::from_path(root.join("c.sock")).await
            && client.version().version(()).await.is_ok()
            && client
                .tasks()
                .list(with_namespace!(ListTasksRequest::default(), NAMESPACE))
                .await
                .is_ok()
        {
            return client;
        }
        assert!(
            Instant::now() < deadline,
            "containerd does not answer; see {}",
            root.join("log").display()
        );
        tokio::task::yield_now().await;
    }
}

fn make_busybox(root: &Path) {
    for directory in ["bin", "etc", "tmp", "proc", "sys", "dev", "home", "usr/bin"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let list = Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .unwrap()
        .stdout;
    for applet in String::from_utf8_lossy(&list)
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        symlink("busybox", root.join("bin").join(applet)).ok();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nnogroup:x:65534:\nusers:x:100:nobody\n",
    )
    .unwrap();
}
