//! What a build must not leave behind: mounts, tasks, containers, shims. A census taken
//! before is compared with one taken after. Leases are no leak as such: a cache holds its contents by them.

use std::{collections::BTreeSet, fmt, path::Path, time::Duration};

use crate::{
    Error, Result,
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

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind, self.namespace, self.name)
    }
}

/// Collections and exits run behind a build's end.
const SETTLE: Duration = Duration::from_secs(25);

impl Census {
    /// What is there now below `dir` and in `containerd`.
    pub fn take(containerd: &Containerd, dir: &Path) -> Result<Self> {
        let mut things = BTreeSet::new();
        for point in mounts_below(dir)? {
            let name = point.display().to_string();
            things.insert(Thing {
                kind: "mount",
                namespace: String::new(),
                name,
            });
        }
        let socket = containerd.address.display().to_string();
        for (_, words) in processes() {
            let shim = words
                .first()
                .is_some_and(|word| word.contains("containerd-shim"));
            if shim && words.iter().any(|word| word.starts_with(&socket)) {
                things.insert(Thing {
                    kind: "shim",
                    namespace: String::new(),
                    name: words.join(" "),
                });
            }
        }
        for namespace in containerd.namespaces()? {
            for kind in ["tasks", "containers"] {
                let names = containerd.list(&namespace, kind)?;
                let thing = |name| Thing {
                    kind,
                    namespace: namespace.clone(),
                    name,
                };
                things.extend(names.into_iter().map(thing));
            }
        }
        Ok(Self(things))
    }

    /// Waits until nothing is there that wasn't there at `self`; says what is otherwise.
    pub fn expect_no_more(&self, containerd: &Containerd, dir: &Path) -> Result<()> {
        let nothing_new = || Ok(Self::take(containerd, dir)?.0.is_subset(&self.0));
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
