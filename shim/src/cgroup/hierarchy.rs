//! Finds out which control group hierarchies this machine has mounted where. It never writes to them.

use std::io;
use std::path::{Path, PathBuf};

/// The hierarchies of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hierarchies {
    /// v1, or hybrid: one tree for each set of controllers.
    Legacy(Vec<Hierarchy>),
    /// v2: one tree for all, mounted here.
    Unified(PathBuf),
}

/// One tree of cgroup v1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Its controllers; `name=systemd` for one without.
    pub(crate) controllers: Vec<String>,
    /// Where it is mounted.
    pub(crate) mount_point: PathBuf,
}

impl Hierarchies {
    /// Looks at this process's mounts.
    pub(crate) fn find() -> io::Result<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/mountinfo")?).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no cgroup filesystem is mounted")
        })
    }

    /// A tree of v1 counts as the machine's when it has a controller; then what v2 there is has none.
    fn parse(mountinfo: &str) -> Option<Self> {
        let mut unified = None;
        let mut legacy: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some(mount) = CgroupMount::parse(line) else {
                continue;
            };
            let mount_point = PathBuf::from(mount.mount_point);
            if mount.kind == "cgroup2" {
                unified.get_or_insert(mount_point);
                continue;
            }
            let controllers = controllers(mount.options);
            if !legacy.iter().any(|known| known.controllers == controllers) {
                legacy.push(Hierarchy {
                    controllers,
                    mount_point,
                });
            }
        }
        let real = legacy
            .iter()
            .any(|tree| tree.controllers.iter().any(|name| !name.contains('=')));
        if real {
            Some(Self::Legacy(legacy))
        } else {
            unified.map(Self::Unified)
        }
    }

    /// The directories of a group, with the controllers of each. A v1 tree that is not in `wanted` is left out; v2 has
    /// one directory for everything.
    pub(crate) fn directories(&self, group: &Path, wanted: &[&str]) -> Vec<(Vec<String>, PathBuf)> {
        let below = group.strip_prefix("/").unwrap_or(group);
        match self {
            Self::Unified(mount_point) => vec![(Vec::new(), mount_point.join(below))],
            Self::Legacy(trees) => trees
                .iter()
                .filter(|tree| {
                    tree.controllers
                        .iter()
                        .any(|name| wanted.contains(&name.as_str()))
                })
                .map(|tree| (tree.controllers.clone(), tree.mount_point.join(below)))
                .collect(),
        }
    }
}

struct CgroupMount<'a> {
    mount_point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> CgroupMount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (own, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let kind = filesystem
            .next()
            .filter(|kind| kind.starts_with("cgroup"))?;
        let mount_point = own.split(' ').nth(4)?;
        Some(Self {
            mount_point,
            kind,
            options: filesystem.nth(1)?,
        })
    }
}

fn controllers(options: &str) -> Vec<String> {
    const NOT_CONTROLLERS: [&str; 6] = [
        "rw",
        "ro",
        "xattr",
        "clone_children",
        "noprefix",
        "favordynmods",
    ];
    options
        .split(',')
        .filter(|option| !NOT_CONTROLLERS.contains(option) && !option.starts_with("release_agent"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
31 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n\
32 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
33 30 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
34 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
35 30 0:31 / /other/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn a_hybrid_machine_is_a_legacy_one() {
        let found = Hierarchies::parse(HYBRID).unwrap();
        let directories = found.directories(Path::new("/b/1"), &["cpu", "memory"]);
        let paths: Vec<_> = directories.into_iter().map(|(_, path)| path).collect();
        let expected = [
            "/sys/fs/cgroup/cpu,cpuacct/b/1",
            "/sys/fs/cgroup/memory/b/1",
        ];
        assert_eq!(paths, expected.map(PathBuf::from));
    }

    #[test]
    fn a_machine_with_v2_only_is_unified() {
        let line = "30 25 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            Hierarchies::parse(line),
            Some(Hierarchies::Unified("/sys/fs/cgroup".into()))
        );
        assert_eq!(Hierarchies::parse(""), None);
    }
}
