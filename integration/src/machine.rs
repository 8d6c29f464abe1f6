//! What the machine has: which containerd, which clients, which of our own binaries. Never installs anything.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Error, Result, command::succeed, error::OnFile as _};

/// The directories that commands are taken from.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Our own binaries: `shipwayd`, `shipway`, `containerd-shim-shipway-v1`.
    pub ours: PathBuf,
    /// The Go commands that `integration/tools/build` makes; may not exist.
    pub tools: PathBuf,
    /// The source tree.
    pub source: PathBuf,
}

/// A containerd to start.
#[derive(Debug, Clone)]
pub struct ContainerdBinary {
    /// Directory of `containerd`, `ctr` and runc's shim, which belong together.
    pub dir: PathBuf,
    /// Major version.
    pub major: u32,
    /// What it calls itself.
    pub version: String,
}

/// Which containerd is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Wanted {
    /// 2.x if there is one, else the distribution's.
    Any,
    /// 2.x.
    Two,
    /// The distribution's 1.x.
    One,
}

impl Machine {
    /// From the environment: `SHIPWAY_BIN` (default: beside this executable, one level up for tests) and
    /// `SHIPWAY_TOOLS` (default: `integration/tools/bin`).
    pub fn from_env() -> Result<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .map(Path::to_owned);
        let source = source.ok_or_else(|| Error::Unexpected("no source tree".to_owned()))?;
        let tools = env::var_os("SHIPWAY_TOOLS").map(PathBuf::from);
        let tools = tools.unwrap_or_else(|| source.join("integration/tools/bin"));
        let ours = match env::var_os("SHIPWAY_BIN") {
            Some(dir) => PathBuf::from(dir),
            None => beside_this_executable()?,
        };
        Ok(Self {
            ours,
            tools,
            source,
        })
    }

    /// One of our own binaries.
    pub fn own(&self, name: &str) -> Result<PathBuf> {
        let path = self.ours.join(name);
        if is_executable(&path) {
            return Ok(path);
        }
        Err(Error::Missing {
            what: path.display().to_string(),
            remedy: "cargo build --release",
        })
    }

    /// One of the Go commands.
    pub fn tool(&self, name: &str) -> Result<PathBuf> {
        let path = self.tools.join(name);
        if is_executable(&path) {
            return Ok(path);
        }
        Err(Error::Missing {
            what: path.display().to_string(),
            remedy: "integration/run tools",
        })
    }

    /// A command of the distribution.
    pub fn system(&self, name: &str) -> Result<PathBuf> {
        in_path(name).next().ok_or(Error::Missing {
            what: name.to_owned(),
            remedy: "integration/run tools, or the distribution's package",
        })
    }

    /// The containerd that is wanted.
    pub fn containerd(&self, wanted: Wanted) -> Result<ContainerdBinary> {
        let built = Some(self.tools.join("containerd")).filter(|path| is_executable(path));
        let candidates = built.into_iter().chain(in_path("containerd"));
        let found = candidates
            .map(|path| probe(&path))
            .collect::<Result<Vec<_>>>()?;
        let two = found.iter().find(|binary| binary.major >= 2);
        let one = found.iter().find(|binary| binary.major == 1);
        let chosen = match wanted {
            Wanted::Any => two.or(one),
            Wanted::Two => two,
            Wanted::One => one,
        };
        chosen.cloned().ok_or(Error::Missing {
            what: "containerd".to_owned(),
            remedy: "apt-get install containerd (1.6), or integration/run tools (2.4)",
        })
    }
}

fn beside_this_executable() -> Result<PathBuf> {
    let executable = env::current_exe().on_file("finding", "this executable")?;
    let dir = executable.parent().map(Path::to_owned).unwrap_or_default();
    // Test binaries live in `deps`, below the directory of the others.
    let tests = dir.ends_with("deps");
    Ok(if tests {
        dir.parent().map(Path::to_owned).unwrap_or_default()
    } else {
        dir
    })
}

fn in_path(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = dirs
        .map(|dir| dir.join(name))
        .filter(|path| is_executable(path));
    found.collect::<Vec<_>>().into_iter()
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn probe(path: &Path) -> Result<ContainerdBinary> {
    let stdout = succeed(Command::new(path).arg("--version"))?.stdout;
    // containerd github.com/containerd/containerd 1.6.20~ds1 …
    let version = stdout
        .split_whitespace()
        .nth(2)
        .unwrap_or_default()
        .trim_start_matches('v')
        .to_owned();
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    let major =
        major.ok_or_else(|| Error::Unexpected(format!("containerd's version: {stdout}")))?;
    let dir = path.parent().map(Path::to_owned).unwrap_or_default();
    Ok(ContainerdBinary {
        dir,
        major,
        version,
    })
}
