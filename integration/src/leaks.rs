//! What a build must not leave behind: mounts, tasks, containers, shims, leases, control groups, half-written content and
//! temporary files. A census taken before is compared with one taken after.

use std::{collections::BTreeSet, fmt, fs, path::Path, time::Duration};

use sha2::{Digest as _, Sha256};

use crate::{
    Error, Result,
    command::finish,
    containerd::Containerd,
    process::wait_until,
    teardown::{mounts_below, processes},
};

/// Everything that can leak, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census(BTreeSet<Thing>);

/// One thing that is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Thing {
    kind: &'static str,
    namespace: String,
    name: String,
}

impl Thing {
    fn new(kind: &'static str, namespace: &str, name: impl fmt::Display) -> Self {
        Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_string(),
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind, self.namespace, self.name)
    }
}

/// What the references of BuildKit's own history begin with.
const BUILDKIT_RECORD: &str = "history-ref_";

/// Collections and exits run behind a build's end.
const SETTLE: Duration = Duration::from_secs(25);

impl Census {
    /// What is there now below `dir` and in `containerd`.
    pub fn take(containerd: &Containerd, dir: &Path) -> Result<Self> {
        let mut things = BTreeSet::new();
        // Networks that wait for steps have new names after each start: only their number counts.
        let networks = dir.join("shipway/net");
        let points = [mounts_below(dir)?, mounts_below(&private(dir))?].concat();
        let (nets, mounts): (Vec<_>, Vec<_>) = points
            .iter()
            .partition(|point| point.starts_with(&networks));
        things.extend((0..nets.len()).map(|number| Thing::new("network", "", number)));
        things.extend(
            mounts
                .iter()
                .map(|point| Thing::new("mount", "", point.display())),
        );
        let socket = containerd.address.display().to_string();
        for (_, words) in processes() {
            let shim = words
                .first()
                .is_some_and(|word| word.contains("containerd-shim"));
            if shim && words.iter().any(|word| word.starts_with(&socket)) {
                things.insert(Thing::new("shim", "", words.join(" ")));
            }
        }
        for namespace in containerd.namespaces()? {
            for kind in ["tasks", "containers"] {
                let names = containerd.list(&namespace, kind)?;
                things.extend(names.iter().map(|name| Thing::new(kind, &namespace, name)));
            }
            // BuildKit holds its cache by leases; ours are for builds.
            let leases = containerd.list(&namespace, "leases")?;
            let leases = leases.iter().filter(|name| name.starts_with("shipway-"));
            things.extend(leases.map(|name| Thing::new("lease", &namespace, name)));
            let ingests = containerd.run_ctr(&namespace, &["content", "active"])?;
            let ingests = ingests.stdout;
            let ingests = ingests.lines().skip(1).filter(|line| !line.is_empty());
            // BuildKit's daemon leaves the record of a build behind that it was writing when it was told to stop.
            let ingests = ingests.filter(|line| !line.starts_with(BUILDKIT_RECORD));
            things.extend(ingests.map(|line| Thing::new("upload", &namespace, line)));
        }
        things.extend(files(dir));
        things.extend(cgroups(dir));
        Ok(Self(things))
    }

    /// Waits until nothing is there that wasn't there at `self`; says what is otherwise.
    pub fn expect_no_more(&self, containerd: &Containerd, dir: &Path) -> Result<()> {
        let nothing_new = || {
            let clean = Self::take(containerd, dir)?.0.is_subset(&self.0);
            if !clean {
                collect(containerd)?;
            }
            Ok(clean)
        };
        match wait_until("as before", SETTLE, nothing_new) {
            Err(Error::Late { .. }) => {
                let now = Self::take(containerd, dir)?.0;
                let left = now
                    .difference(&self.0)
                    .map(ToString::to_string)
                    .collect::<Vec<_>>();
                Err(Error::Unexpected(format!(
                    "left behind:\n{}",
                    left.join("\n")
                )))
            }
            other => other,
        }
    }
}

/// Makes containerd collect now: by itself it waits for a hundred changes before it removes what was let go. A collection
/// that met a snapshotter without its daemon is not repeated before another snapshot goes: so one is made to go.
fn collect(containerd: &Containerd) -> Result<()> {
    let snapshots = ["snapshots", "--snapshotter", "shipway"];
    for change in [["prepare", "census"], ["rm", "census"]] {
        // BuildKit has no such snapshotter.
        finish(containerd.ctr("default").args(snapshots).args(change))?;
    }
    let id = format!("census-{}", std::process::id());
    containerd.run_ctr("default", &["leases", "create", "--id", &id])?;
    containerd.run_ctr("default", &["leases", "rm", "--sync", &id])?;
    Ok(())
}

/// Shipway's name for its instance with this stand's root.
fn instance(dir: &Path) -> String {
    let root = dir.join("shipway");
    let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
    let hex = digest.iter().map(|byte| format!("{byte:02x}"));
    hex.collect::<String>()[..10].to_owned()
}

/// The daemon's directory in memory.
fn private(dir: &Path) -> std::path::PathBuf {
    let name = format!("shipway-{}", instance(dir));
    let places = ["/run", "/dev/shm"].map(|place| Path::new(place).join(&name));
    let [first, second] = places;
    if second.exists() { second } else { first }
}

/// Files that live as long as a step or an upload.
fn files(dir: &Path) -> Vec<Thing> {
    let private = private(dir);
    let runs = listed(&private)
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name != "steps"));
    let places = [
        dir.join("tmp"),
        dir.join("shipway/layers/work"),
        dir.join("shipway/layers/trash"),
        private.join("steps"),
    ];
    let places = places.into_iter().chain(runs);
    let files = places.flat_map(|place| listed(&place));
    files
        .map(|file| Thing::new("file", "", file.display()))
        .collect()
}

/// Control groups of the instance's builds, in every hierarchy.
fn cgroups(dir: &Path) -> Vec<Thing> {
    let root = Path::new("/sys/fs/cgroup");
    let parents = listed(root).into_iter().map(|h| h.join("shipway"));
    let groups = parents
        .chain([root.join("shipway")])
        .flat_map(|parent| listed(&parent));
    let ours = format!("shipway-{}-", instance(dir));
    let groups = groups.filter(|group| {
        let name = group.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&ours)
    });
    groups
        .map(|group| Thing::new("cgroup", "", group.display()))
        .collect()
}

fn listed(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
