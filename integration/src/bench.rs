//! Shipway and BuildKit side by side on one containerd: every scenario in pairs, by turns, as a ratio of medians. What
//! is measured is a client's command from its start to its end; what prepares it is not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    Error, Result, base_image,
    builder::{Builder, Kind, Options, plugin},
    clients::{Buildctl, Clients},
    command::succeed,
    containerd::Containerd,
    error::OnFile as _,
    machine::{Machine, Wanted},
    report::say,
    scenarios::{SCENARIOS, Scenario},
};

/// For how long a disk at rest does next to nothing.
const REST: Duration = Duration::from_secs(6);
/// The same where an ext4 has no journal: for a minute it passes over the inodes of deleted files, each time that it looks for a
/// free one, and creating files after a great deletion takes many times as long (`recently_deleted` of Linux's ext4).
const REST_OF_INODES: Duration = Duration::from_secs(61);
/// How often it is looked at, and what it may do meanwhile: a machine has other users.
const LOOK: Duration = Duration::from_millis(200);
const LOOK_OPERATIONS: u64 = 20;
/// How long is waited for it.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long a daemon may take to give memory back.
const SETTLED: Duration = Duration::from_secs(5);

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Plan {
    /// Also write the results to this file, as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// How often each scenario is measured for each daemon.
    #[arg(long, default_value_t = 3)]
    pub pairs: usize,
    /// Only scenarios whose name contains this.
    #[arg(long, default_value = "")]
    pub only: String,
    /// A hundredth of the sizes, to see whether everything works.
    #[arg(long)]
    pub small: bool,
    /// Only this daemon.
    #[arg(long, value_enum)]
    pub daemon: Option<Kind>,
    /// Which containerd.
    #[arg(long, value_enum, default_value = "two")]
    pub containerd: Wanted,
}

/// One line of the results. Times are medians, in seconds; memory is in megabytes.
#[derive(Debug, Serialize)]
struct Row {
    scenario: String,
    buildkit_s: Option<f64>,
    shipway_s: Option<f64>,
    ratio: Option<f64>,
    target: f64,
}

/// Everything that a scenario works with.
pub(crate) struct Bench {
    pub(crate) machine: Machine,
    pub(crate) containerd: Containerd,
    pub(crate) clients: Clients,
    pub(crate) dir: PathBuf,
    pub(crate) small: bool,
    builders: Vec<Builder>,
}

/// Runs the bench below `dir`.
pub fn bench(dir: &Path, plan: &Plan) -> Result<()> {
    let mut bench = Bench::start(dir, plan)?;
    let mut rows = bench.memory("resident memory, idle (MB)", 2.5)?;
    for scenario in SCENARIOS
        .iter()
        .filter(|scenario| scenario.name.contains(&plan.only))
    {
        rows.push(bench.compare(scenario, plan.pairs)?);
    }
    rows.extend(bench.memory("resident memory, after all of it (MB)", 5.2)?);
    table(&rows);
    if let Some(path) = &plan.json {
        let text =
            serde_json::to_string_pretty(&rows).map_err(|e| Error::Unexpected(e.to_string()))?;
        fs::write(path, text + "\n").on_file("writing", path)?;
    }
    bench.end()
}

impl Bench {
    fn start(dir: &Path, plan: &Plan) -> Result<Self> {
        let machine = Machine::from_env()?;
        let binary = machine.containerd(plan.containerd)?;
        say(format_args!("containerd {}", binary.version));
        let containerd = Containerd::start(&machine, binary, dir, &plugin(dir))?;
        let clients = Clients::new(&machine, dir)?;
        let busybox = base_image::busybox(&machine.system("busybox")?, dir)?;
        let mut builders = Vec::new();
        for kind in [Kind::Buildkit, Kind::Shipway] {
            if plan.daemon.is_some_and(|only| only != kind) {
                continue;
            }
            let mut options = Options::new(kind);
            // A namespace each, so that neither finds the other's layers.
            namespace(kind).clone_into(&mut options.namespace);
            let mut ctr = containerd.ctr(&options.namespace);
            succeed(ctr.args(["images", "import", "--no-unpack"]).arg(&busybox))?;
            builders.push(Builder::start(&machine, dir, &containerd.address, options)?);
        }
        Ok(Self {
            machine,
            containerd,
            clients,
            dir: dir.to_owned(),
            small: plan.small,
            builders,
        })
    }

    fn end(mut self) -> Result<()> {
        for mut builder in self.builders.drain(..) {
            builder.stop()?;
        }
        self.containerd.stop().map(drop)
    }

    /// Measures `scenario` for each daemon by turns.
    fn compare(&mut self, scenario: &Scenario, pairs: usize) -> Result<Row> {
        say(format_args!("\n{}", scenario.name));
        let mut times = [Vec::new(), Vec::new()];
        (scenario.set_up)(self)?;
        for round in 0..pairs {
            for builder in &self.builders {
                (scenario.prepare)(self, builder, round)?;
                let took = succeed(&mut (scenario.command)(self, builder)?)?.took;
                say(format_args!(
                    "  {:?}: {:.3} s",
                    builder.options.kind,
                    took.as_secs_f64()
                ));
                times[usize::from(builder.options.kind == Kind::Shipway)].push(took);
            }
        }
        let [buildkit, shipway] = times.map(median);
        Ok(Row::new(scenario.name, buildkit, shipway, scenario.target))
    }

    fn memory(&self, name: &str, target: f64) -> Result<Vec<Row>> {
        // What a daemon keeps, not what its last build has only just freed.
        std::thread::sleep(SETTLED);
        let mut megabytes = [None, None];
        for builder in &self.builders {
            let bytes = u32::try_from(builder.daemon().resident()? >> 10).unwrap_or(u32::MAX);
            megabytes[usize::from(builder.options.kind == Kind::Shipway)] =
                Some(f64::from(bytes) / 1024.0);
        }
        let [buildkit, shipway] = megabytes;
        Ok(vec![Row::new(name, buildkit, shipway, target)])
    }

    /// `buildctl build` of the directory `context` below the bench's own, without an output.
    pub(crate) fn buildctl(
        &self,
        whose: Buildctl,
        builder: &Builder,
        context: &str,
    ) -> Result<Command> {
        let dir = self.context(context);
        let mut command = self.clients.buildctl(whose, &builder.address())?;
        command.args(["build", "--progress=plain", "--frontend=dockerfile.v0"]);
        for name in ["context", "dockerfile"] {
            command
                .arg("--local")
                .arg(format!("{name}={}", dir.display()));
        }
        Ok(command)
    }

    /// nerdctl, pointed at `builder`; it calls the client that comes with the daemon.
    pub(crate) fn nerdctl(&self, builder: &Builder) -> Result<Command> {
        let options = &builder.options;
        let whose = Buildctl::from(options.kind);
        let containerd = &self.containerd.address;
        let mut command =
            self.clients
                .nerdctl(whose, containerd, &builder.address(), &options.snapshotter)?;
        command.args(["--namespace", &options.namespace]);
        Ok(command)
    }

    /// Forgets everything that `builder` has cached, and lets the disk come to rest, so that a build isn't measured
    /// together with the deletion of what the other daemon had.
    pub(crate) fn prune(&self, builder: &Builder) -> Result<()> {
        let mut command = self.clients.buildctl(Buildctl::Go, &builder.address())?;
        succeed(command.args(["prune", "--all"]))?;
        rustix::fs::sync();
        rest()
    }

    /// A directory for a build's context.
    pub(crate) fn context(&self, name: &str) -> PathBuf {
        self.dir.join("contexts").join(name)
    }

    /// `full`, or a hundredth of it.
    pub(crate) fn sized(&self, full: usize) -> usize {
        if self.small { full.div_ceil(100) } else { full }
    }

    /// Imports an archive into the namespace of each daemon.
    pub(crate) fn import(&self, archive: &Path) -> Result<()> {
        for builder in &self.builders {
            let mut ctr = self.containerd.ctr(&builder.options.namespace);
            succeed(ctr.args(["images", "import", "--no-unpack"]).arg(archive))?;
        }
        Ok(())
    }
}

fn namespace(kind: Kind) -> &'static str {
    match kind {
        Kind::Shipway => "default",
        Kind::Buildkit => "buildkit",
    }
}

/// Waits until the disks do next to nothing: what was pruned is deleted in the background.
fn rest() -> Result<()> {
    let table = Path::new("/proc/diskstats");
    let names = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    let rest = if has_journals(&names("/proc/fs/ext4"), &names("/proc/fs/jbd2")) {
        REST
    } else {
        REST_OF_INODES
    };
    let (began, mut since, mut before) = (Instant::now(), Instant::now(), 0);
    while since.elapsed() < rest && began.elapsed() < PATIENCE {
        let now = operations(&fs::read_to_string(table).on_file("reading", table)?);
        if now.saturating_sub(before) > LOOK_OPERATIONS {
            since = Instant::now();
        }
        before = now;
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Whether each mounted ext4 has a journal, by the names that the kernel shows of both: a journal's is that of its device
/// and an inode.
fn has_journals(devices: &[String], journals: &[String]) -> bool {
    devices.iter().all(|device| {
        let of = |journal: &String| journal.rsplit_once('-').map(|(of, _)| of.to_owned());
        journals
            .iter()
            .any(|journal| of(journal).as_ref() == Some(device))
    })
}

/// Reads, writes and discards that the disks of a `/proc/diskstats` have completed.
fn operations(table: &str) -> u64 {
    let counted = table.lines().map(|line| {
        let fields: Vec<u64> = line
            .split_whitespace()
            .skip(3)
            .map_while(|field| field.parse().ok())
            .collect();
        let [reads, writes, discards] = [0, 4, 11].map(|at| fields.get(at).copied().unwrap_or(0));
        reads + writes + discards
    });
    counted.sum()
}

fn median(mut times: Vec<Duration>) -> Option<f64> {
    times.sort_unstable();
    let (upper, lower) = (times.len() / 2, times.len().saturating_sub(1) / 2);
    let middle = |index: usize| times.get(index).map(Duration::as_secs_f64);
    Some(f64::midpoint(middle(upper)?, middle(lower)?))
}

impl Row {
    fn new(name: &str, buildkit: Option<f64>, shipway: Option<f64>, target: f64) -> Self {
        let ratio = buildkit
            .zip(shipway)
            .map(|(buildkit, shipway)| buildkit / shipway);
        Self {
            scenario: name.to_owned(),
            buildkit_s: buildkit,
            shipway_s: shipway,
            ratio,
            target,
        }
    }
}

fn table(rows: &[Row]) {
    let number =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    say(format_args!(
        "\n{:<72} {:>10} {:>10} {:>8} {:>7}",
        "scenario", "BuildKit", "Shipway", "ratio", "target"
    ));
    for row in rows {
        let met = if row.ratio.is_some_and(|ratio| ratio < row.target) {
            " missed"
        } else {
            ""
        };
        say(format_args!(
            "{:<72} {:>10} {:>10} {:>8} {:>7}{met}",
            row.scenario,
            number(row.buildkit_s),
            number(row.shipway_s),
            row.ratio
                .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            row.target,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_disk_has_done_is_counted() {
        let table = "   7  0 loop0 1 2 3 4 50 6 7 8 9 10 11 600 13 14 15 16 17\n 254  0 vda 2 0 0 0 3 0 0 0 0 0 0\n";
        assert_eq!(operations(table), 1 + 50 + 600 + 2 + 3);
    }

    #[test]
    fn a_filesystem_without_a_journal_is_found() {
        let (sda, sdb) = ("sda".to_owned(), "sdb1".to_owned());
        let journal = "sda-8".to_owned();
        assert!(has_journals(&[], &[]));
        assert!(has_journals(
            std::slice::from_ref(&sda),
            std::slice::from_ref(&journal)
        ));
        assert!(!has_journals(&[sda, sdb], &[journal]));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let seconds = |list: &[u64]| {
            list.iter()
                .copied()
                .map(Duration::from_secs)
                .collect::<Vec<_>>()
        };
        assert_eq!(median(seconds(&[])), None);
        assert_eq!(median(seconds(&[3, 1, 2])), Some(2.0));
        assert_eq!(median(seconds(&[4, 1, 2, 3])), Some(2.5));
    }
}
