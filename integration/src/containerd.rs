//! A private containerd: own root, state and socket, and the snapshotter plugin registered by the fragment that
//! operators install, with nothing changed but its paths.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use toml::{Table, Value};

use crate::{
    Error, Result,
    builder::quoted,
    command::{Done, succeed},
    error::OnFile as _,
    machine::{ContainerdBinary, Machine},
    process::Daemon,
};

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    /// What was started.
    pub binary: ContainerdBinary,
    /// Its socket.
    pub address: PathBuf,
    daemon: Daemon,
    dir: PathBuf,
    path: String,
}

/// Where containerd is told to find the snapshotter plugin.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The plugin's socket.
    pub address: PathBuf,
    /// Where its layers are.
    pub layers: PathBuf,
}

impl Containerd {
    /// Starts `binary` below `dir`, with `plugin` registered.
    pub fn start(
        machine: &Machine,
        binary: ContainerdBinary,
        dir: &Path,
        plugin: &Plugin,
    ) -> Result<Self> {
        let home = dir.join("containerd");
        fs::create_dir_all(&home).on_file("creating", &home)?;
        let address = home.join("containerd.sock");
        let config = config(machine, &binary, &home, plugin)?;
        let file = home.join("config.toml");
        fs::write(&file, config.to_string()).on_file("writing", &file)?;
        let path = search_path(machine, &binary);
        let mut contd = Self {
            daemon: Daemon::start("containerd", dir, &mut command(&binary, &file, &path))?,
            binary,
            address,
            dir: dir.to_owned(),
            path,
        };
        contd.daemon.wait_for_socket(&contd.address)?;
        Ok(contd)
    }

    /// `ctr` of the same version, pointed at this containerd and `namespace`.
    #[must_use]
    pub fn ctr(&self, namespace: &str) -> Command {
        let mut command = Command::new(self.binary.dir.join("ctr"));
        command
            .arg("--address")
            .arg(&self.address)
            .args(["--namespace", namespace]);
        command
    }

    /// Runs `ctr` with `args`.
    pub fn run_ctr(&self, namespace: &str, args: &[&str]) -> Result<Done> {
        succeed(self.ctr(namespace).args(args))
    }

    /// The non-empty lines that a quiet listing of `kind` ("tasks", "images") in `namespace` gives.
    pub fn list(&self, namespace: &str, kind: &str) -> Result<Vec<String>> {
        let stdout = self.run_ctr(namespace, &[kind, "ls", "-q"])?.stdout;
        Ok(stdout
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// Every namespace that it knows.
    pub fn namespaces(&self) -> Result<Vec<String>> {
        self.list("default", "namespaces")
    }

    /// Kills it and starts it again on the same state.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.daemon.kill()?;
        self.restart()
    }

    /// Starts it again after it ended.
    pub fn restart(&mut self) -> Result<()> {
        let file = self.dir.join("containerd/config.toml");
        self.daemon = Daemon::start(
            "containerd",
            &self.dir,
            &mut command(&self.binary, &file, &self.path),
        )?;
        self.daemon.wait_for_socket(&self.address)
    }

    /// The process.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Ends it.
    pub fn stop(&mut self) -> Result<bool> {
        self.daemon.stop()
    }
}

/// containerd's own shim must come first: shims of other versions refuse to start.
fn search_path(machine: &Machine, binary: &ContainerdBinary) -> String {
    let inherited = env::var("PATH").unwrap_or_default();
    format!(
        "{}:{}:{inherited}:/usr/sbin:/sbin",
        binary.dir.display(),
        machine.ours.display()
    )
}

fn command(binary: &ContainerdBinary, config: &Path, path: &str) -> Command {
    let mut command = Command::new(binary.dir.join("containerd"));
    command.arg("--config").arg(config).env("PATH", path);
    command
}

/// The operator's fragment, completed with the private paths.
fn config(
    machine: &Machine,
    binary: &ContainerdBinary,
    home: &Path,
    plugin: &Plugin,
) -> Result<Table> {
    let name = if binary.major >= 2 {
        "shipway-2.x.toml"
    } else {
        "shipway-1.x.toml"
    };
    let fragment = machine.source.join("config/containerd").join(name);
    let text = fs::read_to_string(&fragment).on_file("reading", &fragment)?;
    let unreadable = |e: toml::de::Error| Error::Unexpected(format!("{}: {e}", fragment.display()));
    let mut config = text.parse::<Table>().map_err(unreadable)?;
    let own = format!(
        "root = {root}\nstate = {state}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
         \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\"]\n[grpc]\naddress = {address}\n\
         [debug]\nlevel = \"info\"\n",
        root = quoted(&home.join("root")),
        state = quoted(&home.join("state")),
        address = quoted(&home.join("containerd.sock")),
    );
    config.extend(own.parse::<Table>().map_err(unreadable)?);
    let entry = config
        .get_mut("proxy_plugins")
        .and_then(|plugins| plugins.get_mut("shipway"));
    let entry = entry.and_then(Value::as_table_mut);
    let entry =
        entry.ok_or_else(|| Error::Unexpected(format!("no plugin in {}", fragment.display())))?;
    entry.insert("address".to_owned(), quoted(&plugin.address));
    if let Some(exports) = entry.get_mut("exports").and_then(Value::as_table_mut) {
        exports.insert("root".to_owned(), quoted(&plugin.layers));
    }
    Ok(config)
}
