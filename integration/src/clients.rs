//! The programs that people build with, pointed at a stand: BuildKit's `buildctl`, ours under the same name, nerdctl
//! and buildx. Each gets its own state below the stand's directory.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Result, builder::Kind, command::succeed, error::OnFile as _, machine::Machine};

/// Whose `buildctl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Buildctl {
    /// BuildKit's, in Go.
    Go,
    /// `shipway` under that name.
    Shipway,
}

impl From<Kind> for Buildctl {
    /// The one that comes with the daemon.
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Shipway => Self::Shipway,
            Kind::Buildkit => Self::Go,
        }
    }
}

/// Client programs with their state.
#[derive(Debug, Clone)]
pub struct Clients {
    machine: Machine,
    dir: PathBuf,
}

impl Clients {
    /// Their state is kept below `dir`.
    pub fn new(machine: &Machine, dir: &Path) -> Result<Self> {
        let dir = dir.join("clients");
        fs::create_dir_all(dir.join("cni")).on_file("creating", &dir)?;
        Ok(Self {
            machine: machine.clone(),
            dir,
        })
    }

    /// The program itself.
    pub fn buildctl_program(&self, whose: Buildctl) -> Result<PathBuf> {
        match whose {
            Buildctl::Go => self.machine.tool("buildctl"),
            Buildctl::Shipway => {
                let dir = self.dir.join("shipway");
                link(&self.machine.own("shipway")?, &dir, "buildctl")
            }
        }
    }

    /// `buildctl --addr ADDRESS`.
    pub fn buildctl(&self, whose: Buildctl, address: &str) -> Result<Command> {
        let mut command = Command::new(self.buildctl_program(whose)?);
        command.args(["--addr", address]);
        Ok(command)
    }

    /// nerdctl for the containerd at `containerd` and the build daemon at `address`; it calls `whose` buildctl.
    pub fn nerdctl(
        &self,
        whose: Buildctl,
        containerd: &Path,
        address: &str,
        snapshotter: &str,
    ) -> Result<Command> {
        let buildctl = self.buildctl_program(whose)?;
        let dir = buildctl.parent().unwrap_or(Path::new("/"));
        let path = env::var("PATH").unwrap_or_default();
        let mut command = Command::new(self.machine.tool("nerdctl")?);
        command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", dir.display()));
        command
            .env("BUILDKIT_HOST", address)
            .env("NERDCTL_TOML", self.dir.join("no-nerdctl.toml"));
        command
            .env("HOME", &self.dir)
            .env("DOCKER_CONFIG", self.dir.join("docker"));
        command
            .arg("--address")
            .arg(containerd)
            .arg("--data-root")
            .arg(self.dir.join("nerdctl"));
        command
            .args(["--cni-path", "/usr/lib/cni", "--cni-netconfpath"])
            .arg(self.dir.join("cni"));
        command.args(["--snapshotter", snapshotter]);
        Ok(command)
    }

    /// buildx with a builder of the remote driver for `address`, which is made if it isn't there.
    pub fn buildx(&self, address: &str) -> Result<Command> {
        let home = self.dir.join("buildx");
        let name = format!(
            "stand-{:08x}",
            address
                .bytes()
                .fold(0_u32, |sum, b| sum.rotate_left(5) ^ u32::from(b))
        );
        let buildx = || -> Result<Command> {
            let mut command = Command::new(self.machine.tool("docker-buildx")?);
            command
                .env("BUILDX_CONFIG", &home)
                .env("DOCKER_CONFIG", self.dir.join("docker"));
            command.env("HOME", &self.dir);
            Ok(command)
        };
        if !home.join("instances").join(&name).exists() {
            succeed(buildx()?.args(["create", "--name", &name, "--driver", "remote", address]))?;
        }
        let mut command = buildx()?;
        command.args(["--builder", &name]);
        Ok(command)
    }
}

fn link(program: &Path, dir: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(dir).on_file("creating", dir)?;
    let path = dir.join(name);
    match symlink(program, &path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e).on_file("linking", &path),
        _ => Ok(path),
    }
}
