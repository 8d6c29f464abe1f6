//! The daemon under test: Shipway's, or BuildKit's own in the same place, so that a test is known to ask for what
//! BuildKit does.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Result, containerd::Plugin, error::OnFile as _, machine::Machine, process::Daemon};

/// Which daemon builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Ours.
    Shipway,
    /// BuildKit's own.
    Buildkit,
}

/// What the daemon is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which one.
    pub kind: Kind,
    /// Where results land.
    pub snapshotter: String,
    /// The namespace of the main socket.
    pub namespace: String,
    /// Further namespaces, each with a socket of its own; BuildKit has none.
    pub more_namespaces: Vec<String>,
    /// Lines of the worker's own section: its network.
    pub network: String,
    /// Appended to the configuration file.
    pub more_config: String,
    /// What builds may be granted, e.g. `security.insecure`.
    pub entitlements: Vec<String>,
    /// Variables added to its environment.
    pub env: Vec<(String, String)>,
}

impl Options {
    /// The daemon `kind` as most tests want it: building in `default`, landing in the snapshotter that suits it.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let snapshotter = match kind {
            Kind::Shipway => "shipway",
            Kind::Buildkit => "overlayfs",
        };
        Self {
            kind,
            snapshotter: snapshotter.to_owned(),
            namespace: "default".to_owned(),
            more_namespaces: Vec::new(),
            network: "networkMode = \"host\"\n".to_owned(),
            more_config: String::new(),
            entitlements: Vec::new(),
            env: Vec::new(),
        }
    }
}

/// A running build daemon.
#[derive(Debug)]
pub struct Builder {
    /// What it was started with.
    pub options: Options,
    /// Its main socket.
    pub socket: PathBuf,
    /// Where it keeps its state.
    pub root: PathBuf,
    daemon: Daemon,
    dir: PathBuf,
    program: PathBuf,
    containerd: PathBuf,
}

/// Where a stand below `dir` has the snapshotter plugin.
#[must_use]
pub fn plugin(dir: &Path) -> Plugin {
    Plugin {
        address: dir.join("snapshotter.sock"),
        layers: dir.join("shipway/layers"),
    }
}

/// Where a stand below `dir` has its `<host>/hosts.toml`.
#[must_use]
pub fn hosts_dir(dir: &Path) -> PathBuf {
    dir.join("certs.d")
}

impl Builder {
    /// Starts the daemon below `dir` against the containerd at `containerd`.
    pub fn start(
        machine: &Machine,
        dir: &Path,
        containerd: &Path,
        options: Options,
    ) -> Result<Self> {
        let (name, program) = match options.kind {
            Kind::Shipway => ("shipway", machine.own("shipwayd")?),
            Kind::Buildkit => ("buildkit", machine.tool("buildkitd")?),
        };
        let root = dir.join(name);
        let socket = dir.join(format!("{name}-run")).join("buildkitd.sock");
        for path in [root.as_path(), socket.parent().unwrap_or(dir)] {
            fs::create_dir_all(path).on_file("creating", path)?;
        }
        let config = dir.join(format!("{name}.toml"));
        let text = configuration(dir, &root, &socket, containerd, &options);
        fs::write(&config, text).on_file("writing", &config)?;
        let mut command = command(&program, &config, options.kind);
        let daemon = Daemon::start(name, dir, command.envs(options.env.iter().cloned()))?;
        let (dir, containerd) = (dir.to_owned(), containerd.to_owned());
        let mut builder = Self {
            options,
            socket,
            root,
            daemon,
            dir,
            program,
            containerd,
        };
        builder.wait()?;
        Ok(builder)
    }

    /// Where clients connect, as they want it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The socket of one of `more_namespaces`.
    #[must_use]
    pub fn socket_of(&self, namespace: &str) -> PathBuf {
        self.dir
            .join("run")
            .join(format!("buildkit-{namespace}"))
            .join("buildkitd.sock")
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

    /// Kills it, which leaves it no chance to clean up.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// Starts it again on the same state.
    pub fn restart(&mut self) -> Result<()> {
        let name = if self.options.kind == Kind::Shipway {
            "shipway"
        } else {
            "buildkit"
        };
        let config = self.dir.join(format!("{name}.toml"));
        let mut command = command(&self.program, &config, self.options.kind);
        command.envs(self.options.env.iter().cloned());
        self.daemon = Daemon::start(name, &self.dir, &mut command)?;
        self.wait()
    }

    /// The containerd that it builds in.
    #[must_use]
    pub fn containerd(&self) -> &Path {
        &self.containerd
    }

    fn wait(&mut self) -> Result<()> {
        let mut sockets = vec![self.socket.clone()];
        if self.options.kind == Kind::Shipway {
            sockets.push(plugin(&self.dir).address);
            sockets.extend(
                self.options
                    .more_namespaces
                    .iter()
                    .map(|name| self.socket_of(name)),
            );
        }
        sockets
            .iter()
            .try_for_each(|socket| self.daemon.wait_for_socket(socket))
    }
}

fn command(program: &Path, config: &Path, kind: Kind) -> Command {
    let mut command = Command::new(program);
    command.arg("--config").arg(config);
    if kind == Kind::Buildkit {
        command.args(["--oci-worker=false", "--containerd-worker=true"]);
    }
    command
}

/// Both daemons read the same keys; ours has a table more.
fn configuration(
    dir: &Path,
    root: &Path,
    socket: &Path,
    containerd: &Path,
    options: &Options,
) -> String {
    let mut text = format!(
        "root = {root}\ninsecure-entitlements = {entitlements:?}\n[log]\nlevel = \"debug\"\n[grpc]\naddress = [\"unix://{socket}\"]\n\
         [worker.oci]\nenabled = false\n\
         [worker.containerd]\nenabled = true\naddress = {containerd}\nnamespace = {namespace:?}\n\
         snapshotter = {snapshotter:?}\n{network}",
        root = quoted(root),
        entitlements = options.entitlements,
        socket = socket.display(),
        containerd = quoted(containerd),
        namespace = options.namespace,
        snapshotter = options.snapshotter,
        network = options.network,
    );
    if options.kind == Kind::Shipway {
        let plugin = plugin(dir);
        let own = write!(
            text,
            "[shipway]\nnamespaces = {:?}\nsocketDir = {}\nhostsDir = [{}]\n\
             [shipway.snapshotter]\naddress = {}\nroot = {}\n",
            options.more_namespaces,
            quoted(&dir.join("run")),
            quoted(&hosts_dir(dir)),
            quoted(&plugin.address),
            quoted(&plugin.layers),
        );
        own.expect("a String takes all that is written to it");
    }
    text + &options.more_config
}

/// `path` as a string of TOML.
pub(crate) fn quoted(path: &Path) -> toml::Value {
    toml::Value::String(path.display().to_string())
}
