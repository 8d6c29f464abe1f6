//! A containerd with a build daemon inside it, below one directory that ends with the stand.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Error, Result, base_image,
    builder::{Builder, Options, plugin},
    clients::{Buildctl, Clients},
    command::succeed,
    containerd::Containerd,
    error::OnFile as _,
    leaks::Census,
    machine::{Machine, Wanted},
    report::say,
    teardown::teardown,
};

/// Private daemons, and clients pointed at them. Dropping it ends and removes everything.
#[derive(Debug)]
pub struct Stand {
    /// What the machine has.
    pub machine: Machine,
    /// The containerd.
    pub containerd: Containerd,
    /// The build daemon.
    pub builder: Builder,
    /// Programs to build with.
    pub clients: Clients,
    /// Everything is below it.
    pub dir: PathBuf,
    keep: bool,
}

impl Stand {
    /// Starts the `wanted` containerd and a build daemon below a new directory.
    pub fn start(wanted: Wanted, options: Options) -> Result<Self> {
        let dir = new_directory()?;
        Self::start_in(&dir, wanted, options).inspect_err(|_| clean(&dir))
    }

    /// As `start`, below `dir`.
    pub fn start_in(dir: &Path, wanted: Wanted, options: Options) -> Result<Self> {
        let machine = Machine::from_env()?;
        fs::create_dir_all(dir).on_file("creating", dir)?;
        let binary = machine.containerd(wanted)?;
        let containerd = Containerd::start(&machine, binary, dir, &plugin(dir))?;
        let builder = Builder::start(&machine, dir, &containerd.address, options)?;
        let clients = Clients::new(&machine, dir)?;
        Ok(Self {
            machine,
            containerd,
            builder,
            clients,
            dir: dir.to_owned(),
            keep: false,
        })
    }

    /// Leaves the daemons running when this value goes.
    pub fn leave(mut self) {
        self.keep = true;
        std::mem::forget(self);
    }

    /// Makes the busybox image and imports it into `namespace`, not unpacked.
    pub fn import_busybox(&self, namespace: &str) -> Result<()> {
        let program = self.machine.system("busybox")?;
        let archive = base_image::busybox(&program, &self.dir)?;
        self.import(namespace, &archive)
    }

    /// Imports an image archive into `namespace`, not unpacked.
    pub fn import(&self, namespace: &str, archive: &Path) -> Result<()> {
        let mut ctr = self.containerd.ctr(namespace);
        succeed(ctr.args(["images", "import", "--no-unpack"]).arg(archive))?;
        Ok(())
    }

    /// `buildctl build` of the Dockerfile in `context`; add the rest of the arguments.
    pub fn buildctl_build(&self, whose: Buildctl, context: &Path) -> Result<Command> {
        let mut command = self.clients.buildctl(whose, &self.builder.address())?;
        command.args(["build", "--progress=plain", "--frontend", "dockerfile.v0"]);
        for name in ["context", "dockerfile"] {
            command
                .arg("--local")
                .arg(format!("{name}={}", context.display()));
        }
        Ok(command)
    }

    /// nerdctl in the builder's namespace, with its snapshotter.
    pub fn nerdctl(&self, whose: Buildctl) -> Result<Command> {
        let snapshotter = self.builder.options.snapshotter.clone();
        let mut command = self.clients.nerdctl(
            whose,
            &self.containerd.address,
            &self.builder.address(),
            &snapshotter,
        )?;
        command.args(["--namespace", &self.builder.options.namespace]);
        Ok(command)
    }

    /// buildx, through its remote driver.
    pub fn buildx(&self) -> Result<Command> {
        self.clients.buildx(&self.builder.address())
    }

    /// A new directory for a build context, with a file for each of `files`.
    pub fn context(&self, name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
        let dir = self.dir.join("contexts").join(name);
        for (path, text) in files {
            write(&dir.join(path), text)?;
        }
        Ok(dir)
    }

    /// What is there now that could leak.
    pub fn census(&self) -> Result<Census> {
        Census::take(&self.containerd, &self.dir)
    }

    /// Nothing is there that wasn't at `before`.
    pub fn expect_no_leaks(&self, before: &Census) -> Result<()> {
        before.expect_no_more(&self.containerd, &self.dir)
    }

    /// Ends the daemons in order and removes everything; says which of them had to be killed.
    pub fn end(mut self) -> Result<()> {
        let builder = self.builder.stop()?;
        let containerd = self.containerd.stop()?;
        if builder && containerd {
            return Ok(());
        }
        Err(Error::Unexpected(format!(
            "ended by itself: builder {builder}, containerd {containerd}"
        )))
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let stopped = self.builder.stop().and(self.containerd.stop());
        if let Err(e) = stopped {
            say(format_args!("ending the stand: {e}"));
        }
        clean(&self.dir);
    }
}

/// Writes `text` to `path`, with the directories above it.
pub fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).on_file("creating", parent)?;
    }
    fs::write(path, text).on_file("writing", path)
}

fn clean(dir: &Path) {
    if env::var_os("SHIPWAY_KEEP").is_some() {
        say(format_args!("kept: {}", dir.display()));
    } else if let Err(e) = teardown(dir) {
        say(format_args!("cleaning {}: {e}", dir.display()));
    }
}

/// A directory that nobody else has. Short, because socket paths end at 107 bytes.
fn new_directory() -> Result<PathBuf> {
    let base = env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    for number in 0..1000_u32 {
        let dir = base.join(format!("shipway-{}-{number}", std::process::id()));
        match fs::create_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).on_file("creating", dir),
            Ok(()) => return Ok(dir),
        }
    }
    Err(Error::Unexpected(format!(
        "no free directory in {}",
        base.display()
    )))
}
