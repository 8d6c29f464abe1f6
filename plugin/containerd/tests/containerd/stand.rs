//! A containerd of the test's own, with a private root, and roots for steps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use shipway_containerd::{Containerd, Settings};
use shipway_step::{LayerStack, RUNTIME};
use tokio::process::{Child, Command};

pub(crate) struct Stand {
    dir: tempfile::TempDir,
    process: Child,
    next: AtomicU32,
}

impl Stand {
    pub(crate) fn start() -> Self {
        Self::configured("")
    }

    /// With more of containerd's configuration.
    pub(crate) fn configured(more: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("shipway-")
            .tempdir_in("/run")
            .unwrap();
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{0}/sock\"\n[debug]\naddress = \"{0}/debug\"\nlevel = \"warn\"\n{more}",
            dir.path().display()
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        let process = spawn(dir.path());
        Self {
            dir,
            process,
            next: AtomicU32::new(0),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn connect(&self, instance: &str) -> Containerd {
        let settings = Settings {
            socket: self.path("sock"),
            state: self.path("daemon").join(instance),
            instance: instance.into(),
            runtime: std::env::var("SHIPWAY_SHIM").unwrap_or_else(|_| RUNTIME.into()),
            step_tasks: false,
            cgroup_parent: "/shipway-test".into(),
        };
        Containerd::connect(settings).await.unwrap()
    }

    pub(crate) async fn ctr(&self, args: &[&str]) -> String {
        let socket = self.path("sock");
        let output = Command::new("ctr")
            .arg("--address")
            .arg(socket)
            .args(args)
            .output();
        let output = output.await.expect("ctr is in PATH");
        assert!(output.status.success(), "ctr {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Ends containerd, leaving its shims, and starts it again.
    pub(crate) async fn restart(&mut self) {
        self.process.kill().await.unwrap();
        self.process = spawn(self.dir.path());
    }

    pub(crate) async fn end(&mut self) {
        self.process.kill().await.unwrap();
        // Builds' own cgroups are gone; another test may be using the one above them.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _in_use = fs::remove_dir(hierarchy.path().join("shipway-test"));
        }
        let _in_use = fs::remove_dir("/sys/fs/cgroup/shipway-test");
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = self.dir.path().to_str().unwrap();
        let left: Vec<_> = table.lines().filter(|line| line.contains(own)).collect();
        assert_eq!(left, [""; 0], "mounts are left");
    }

    /// A new root for a step: this machine's programs, and a new upper directory.
    pub(crate) fn root(&self) -> LayerStack {
        let base = self.path("base");
        for dir in ["proc", "dev"] {
            fs::create_dir_all(base.join(dir)).unwrap();
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let (upper, work) = (
            self.path(&format!("upper{n}")),
            self.path(&format!("work{n}")),
        );
        for dir in [&upper, &work] {
            fs::create_dir(dir).unwrap();
        }
        install(&base);
        LayerStack::writable([base], upper, work)
    }

    /// What steps left in the daemon's directory.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let runs = fs::read_dir(self.path("daemon/it")).unwrap();
        let builds = runs.flat_map(|run| fs::read_dir(run.unwrap().path()).unwrap());
        builds
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

/// Copies a shell and a few programs with their libraries, once.
fn install(base: &Path) {
    if base.join("bin").exists() {
        return;
    }
    for program in ["/bin/sh", "/bin/cat", "/usr/bin/head", "/bin/sleep"] {
        let to = base
            .join("bin")
            .join(Path::new(program).file_name().unwrap());
        fs::create_dir_all(base.join("bin")).unwrap();
        fs::copy(program, to).unwrap();
        let libraries = std::process::Command::new("ldd")
            .arg(program)
            .output()
            .unwrap();
        let libraries = String::from_utf8(libraries.stdout).unwrap();
        for library in libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            let to = base.join(library.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(library, to).unwrap();
        }
    }
}

fn spawn(dir: &Path) -> Child {
    let log = fs::File::options()
        .append(true)
        .create(true)
        .open(dir.join("log"))
        .unwrap();
    Command::new("containerd")
        .arg("--config")
        .arg(dir.join("config.toml"))
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("containerd is in PATH")
}

impl Drop for Stand {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            eprintln!("containerd: {log}");
        }
    }
}
