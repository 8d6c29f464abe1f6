//! What a step used, read from its cgroup (version 1 or 2) before runc removes it. Where a figure cannot be read there is none.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cgroups::HIERARCHIES;

/// The cgroup of one step.
#[derive(Debug, Clone)]
pub(crate) struct Usage {
    cgroup: PathBuf,
}

/// What a step used.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) out_of_memory: bool,
    pub(crate) peak_memory: Option<u64>,
    pub(crate) cpu_micros: Option<u64>,
}

impl Usage {
    pub(super) fn of(cgroup: &Path) -> Self {
        let relative = cgroup.strip_prefix("/").unwrap_or(cgroup);
        Self {
            cgroup: relative.to_owned(),
        }
    }

    /// Reads what there is.
    pub(crate) fn read(&self) -> Figures {
        let one = |name: &str| number(&self.text("memory", name)?);
        let kills = self
            .text("memory", "memory.oom_control")
            .or_else(|| self.text("", "memory.events"))
            .and_then(|text| field(&text, "oom_kill"));
        let nanos = self.text("cpuacct", "cpuacct.usage");
        let nanos = nanos.and_then(|text| number(&text));
        let micros = || field(&self.text("", "cpu.stat")?, "usage_usec");
        Figures {
            out_of_memory: kills.is_some_and(|kills| kills > 0),
            peak_memory: one("memory.max_usage_in_bytes")
                .or_else(|| number(&self.text("", "memory.peak")?)),
            cpu_micros: nanos.map(|nanos| nanos / 1000).or_else(micros),
        }
    }

    fn text(&self, controller: &str, file: &str) -> Option<String> {
        let path = Path::new(HIERARCHIES)
            .join(controller)
            .join(&self.cgroup)
            .join(file);
        fs::read_to_string(path).ok()
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| number(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "oom 1\noom_kill 2\noom_group_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(2));
        assert_eq!(field(text, "kill"), None);
    }
}
