//! BuildKit's own Dockerfile tests against the daemon, or against buildkitd itself to prove the set-up. Decides how the
//! suite finds its programs and which outcomes count; what a test asks for is upstream's.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Error, Result,
    builder::Kind,
    command::{spell, succeed},
    error::OnFile as _,
    http::{Reply, Server},
    machine::{Machine, Wanted},
    report::say,
    verdict::{Outcome, judge, verdict},
};

/// Where the frontend runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Frontend {
    /// In the daemon.
    Builtin,
    /// In the test process: upstream's, in Go.
    Client,
    /// In a container: an image of upstream's.
    Gateway,
}

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Plan {
    /// Where the frontend runs.
    #[arg(long, value_enum, default_value = "builtin")]
    pub frontend: Frontend,
    /// Which daemon.
    #[arg(long, value_enum, default_value = "shipway")]
    pub daemon: Kind,
    /// The snapshotter that the tests look at.
    #[arg(long)]
    pub snapshotter: Option<String>,
    /// Only tests whose name matches, e.g. `TestCopy.*`.
    #[arg(long, default_value = ".*")]
    pub run: String,
    /// Tests at once.
    #[arg(long, default_value_t = 2)]
    pub parallel: u32,
    /// For the daemons' state; a tmpfs halves the time.
    #[arg(long)]
    pub scratch: Option<PathBuf>,
    /// Where the whole output goes.
    #[arg(long, default_value = "/tmp/shipway-conformance.log")]
    pub log: PathBuf,
}

const FOREIGN_LAYER: &str = "127.0.0.1:5078";

impl Frontend {
    fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Client => "client",
            Self::Gateway => "gateway",
        }
    }
}

/// Runs the suite below `dir`; an outcome that the lists don't excuse is an error.
pub fn conformance(dir: &Path, plan: &Plan) -> Result<()> {
    let machine = Machine::from_env()?;
    let shared = std::env::var_os("SHIPWAY_SHARED").map(PathBuf::from);
    let shared = shared
        .unwrap_or_else(|| machine.source.join("../shared"))
        .join("conformance");
    let attainable = list(&shared.join(format!(
        "attainable-dockerfile-{}.txt",
        plan.frontend.name()
    )))?;
    let expected = expected_failures(&machine, plan)?;
    let programs = programs(&machine, dir, plan)?;
    let mirror = mirror(&shared, dir)?;
    let layer = shared.join("foreign-layer.tar");
    let layer = fs::read(&layer).on_file("reading", &layer)?;
    let answer = move |_: &_| Reply::Answer {
        status: 200,
        headers: Vec::new(),
        body: layer.clone(),
    };
    let _server = Server::start(FOREIGN_LAYER, answer)?;
    let mut command = suite(&machine, dir, plan)?;
    command.env("BUILDKIT_REGISTRY_MIRROR_DIR", &mirror);
    let inherited = std::env::var("PATH").unwrap_or_default();
    command.env(
        "PATH",
        format!("{}:{inherited}:/usr/sbin:/sbin", programs.display()),
    );
    let outcomes = run(command, plan)?;
    judge(&attainable, &expected, &outcomes)
}

/// A directory with everything that the suite looks up in PATH.
fn programs(machine: &Machine, dir: &Path, plan: &Plan) -> Result<PathBuf> {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).on_file("creating", &bin)?;
    let containerd = machine.containerd(Wanted::Two)?;
    let link = |name: &str, program: &Path| {
        symlink(program, bin.join(name)).on_file("linking", bin.join(name))
    };
    link("registry", &machine.system("docker-registry")?)?;
    link("buildctl", &machine.tool("buildctl")?)?;
    for name in ["ctr", "containerd-shim-runc-v2"] {
        link(name, &containerd.dir.join(name))?;
    }
    let containerd = containerd.dir.join("containerd");
    if plan.daemon == Kind::Buildkit {
        link("containerd", &containerd)?;
        link("buildkitd", &machine.tool("buildkitd")?)?;
        return Ok(bin);
    }
    link(
        "containerd-shim-shipway-v1",
        &machine.own("containerd-shim-shipway-v1")?,
    )?;
    script(&bin.join("containerd"), &containerd_script(&containerd))?;
    script(
        &bin.join("buildkitd"),
        &buildkitd_script(&machine.own("shipwayd")?),
    )?;
    Ok(bin)
}

/// Both scripts derive the plugin's socket from containerd's, which each of them is told.
fn containerd_script(containerd: &Path) -> String {
    format!(
        "#!/bin/sh\n# containerd --config F, with the snapshotter plugin registered in F.\n\
         for word; do config=$word; done\n\
         socket=$(sed -n 's/^ *address = \"\\(.*containerd\\.sock\\)\"/\\1/p' \"$config\" | head -n 1)\n\
         printf '\\n[proxy_plugins]\\n  [proxy_plugins.shipway]\\n    type = \"snapshot\"\\n    address = \"%s\"\\n' \
         \"${{socket%/*}}/shipway.sock\" >>\"$config\"\nexec {} \"$@\"\n",
        containerd.display()
    )
}

fn buildkitd_script(shipwayd: &Path) -> String {
    format!(
        "#!/bin/sh\n# buildkitd's command line, with the plugin's socket beside containerd's.\n\
         previous=\nfor word; do\n  [ \"$previous\" != --containerd-worker-addr ] || socket=$word\n  previous=$word\ndone\n\
         exec {} --snapshotter-socket \"${{socket%/*}}/shipway.sock\" \"$@\"\n",
        shipwayd.display()
    )
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).on_file("writing", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).on_file("marking executable", path)
}

fn mirror(shared: &Path, dir: &Path) -> Result<PathBuf> {
    let mirror = dir.join("mirror");
    fs::create_dir_all(&mirror).on_file("creating", &mirror)?;
    let mut tar = Command::new("tar");
    tar.arg("--zstd")
        .arg("-xf")
        .arg(shared.join("mirror.tar.zst"))
        .arg("-C")
        .arg(&mirror);
    succeed(&mut tar)?;
    Ok(mirror)
}

fn suite(machine: &Machine, dir: &Path, plan: &Plan) -> Result<Command> {
    let mut command = Command::new(machine.tool("dockerfile.test")?);
    command.current_dir(package(machine)?);
    let worker = worker(plan);
    let pattern = format!("/^{}$/worker={worker}$", plan.run);
    command.args(["-test.v", "-test.timeout", "60m", "-test.run", &pattern]);
    command.arg(format!("-test.parallel={}", plan.parallel));
    if let Some(name) = snapshotter(plan) {
        command.env("BUILDKIT_INTEGRATION_SNAPSHOTTER", name);
    }
    let scratch = plan.scratch.clone().unwrap_or_else(|| dir.join("scratch"));
    fs::create_dir_all(&scratch).on_file("creating", &scratch)?;
    command.env("TMPDIR", &scratch).env_remove("TEST_DOCKERD");
    match plan.frontend {
        Frontend::Builtin => command.env("FRONTEND_BUILTIN_ONLY", "1"),
        Frontend::Client => command.env("FRONTEND_CLIENT_ONLY", "1"),
        Frontend::Gateway => {
            let image = crate::base_image::frontend(&machine.tool("dockerfile-frontend")?, dir)?;
            command.env(
                "FRONTEND_GATEWAY_ONLY",
                format!("local:{}", image.display()),
            )
        }
    };
    Ok(command)
}

/// The snapshotter that the suite registers a worker of its own for.
fn snapshotter(plan: &Plan) -> Option<&str> {
    match (plan.snapshotter.as_deref(), plan.daemon) {
        (None | Some("overlayfs"), Kind::Buildkit) | (Some("overlayfs"), Kind::Shipway) => None,
        (Some(name), _) => Some(name),
        (None, Kind::Shipway) => Some("shipway"),
    }
}

fn worker(plan: &Plan) -> String {
    snapshotter(plan).map_or_else(
        || "containerd".to_owned(),
        |name| format!("containerd-snapshotter-{name}"),
    )
}

/// The suite reads files beside its sources.
fn package(machine: &Machine) -> Result<PathBuf> {
    let mut go = Command::new("go");
    go.args([
        "list",
        "-mod=mod",
        "-m",
        "-f",
        "{{.Dir}}",
        "github.com/moby/buildkit",
    ]);
    go.current_dir(machine.source.join("integration/tools/buildkit"));
    let dir = succeed(&mut go)?.stdout;
    Ok(Path::new(dir.trim()).join("frontend/dockerfile"))
}

/// Runs the suite to its end, whatever that is; its output goes to the log, verdicts also to the reader.
fn run(mut command: Command, plan: &Plan) -> Result<BTreeMap<String, Outcome>> {
    let mut log = File::create(&plan.log).on_file("creating", &plan.log)?;
    let errors = log.try_clone().on_file("sharing", &plan.log)?;
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors);
    say(format_args!(
        "{} (output in {})",
        spell(&command),
        plan.log.display()
    ));
    let mut child = command.spawn().map_err(|source| Error::Start {
        command: spell(&command),
        source,
    })?;
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| Error::Unexpected("no output to read".to_owned()))?;
    let mut outcomes = BTreeMap::new();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.on_file("reading output for", &plan.log)?;
        log.write_all(&line)
            .and_then(|()| log.write_all(b"\n"))
            .on_file("writing", &plan.log)?;
        if let Some((name, outcome)) = verdict(&String::from_utf8_lossy(&line)) {
            outcomes.insert(name.replace(&worker(plan), "containerd"), outcome);
        }
    }
    child
        .wait()
        .on_file("waiting for the suite; see", &plan.log)?;
    Ok(outcomes)
}

/// The lines of `path` that are neither empty nor comments.
fn list(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).on_file("reading", path)?;
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// Tests that are known to fail, each with its reason: `NAME reason…`; the name is the test function's.
fn expected_failures(machine: &Machine, plan: &Plan) -> Result<BTreeMap<String, String>> {
    if plan.daemon == Kind::Buildkit {
        return Ok(BTreeMap::new());
    }
    let name = format!("expected-failures-{}.txt", plan.frontend.name());
    let lines = list(&machine.source.join("integration/conformance").join(name))?;
    let pairs = lines
        .iter()
        .map(|line| line.split_once(' ').unwrap_or((line, "")));
    Ok(pairs
        .map(|(name, reason)| (name.to_owned(), reason.trim().to_owned()))
        .collect())
}
