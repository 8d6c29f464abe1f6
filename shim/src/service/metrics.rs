//! Reads a control group's figures into containerd's messages. It never writes to a group.

use std::collections::HashMap;
use std::fs;

use containerd_shim::protos::cgroups::metrics as v1;
use containerd_shim::protos::cgroups_v2::metrics as v2;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::protobuf::{MessageDyn, MessageField, MessageFull};

use crate::cgroup::Group;

/// One tick of v1's `cpuacct.stat` in nanoseconds: `USER_HZ` is 100 everywhere.
const TICK_NS: u64 = 10_000_000;

/// The figures of a group, in the message for its cgroup version.
pub(crate) fn collect(group: &Group) -> Result<Any, containerd_shim::protos::protobuf::Error> {
    let files = Files(group);
    if group.is_unified() {
        pack(&unified(&files))
    } else {
        pack(&legacy(&files))
    }
}

fn pack(message: &impl MessageFull) -> Result<Any, containerd_shim::protos::protobuf::Error> {
    let type_url = MessageDyn::descriptor_dyn(message).full_name().to_owned();
    Ok(Any {
        type_url,
        value: message.write_to_bytes()?,
        ..Default::default()
    })
}

struct Files<'a>(&'a Group);

impl Files<'_> {
    fn text(&self, controller: &str, file: &str) -> String {
        let directory = self.0.directory(controller);
        directory
            .and_then(|directory| fs::read_to_string(directory.join(file)).ok())
            .unwrap_or_default()
    }

    /// A file with one number; `max` is the largest, a missing file is 0.
    fn number(&self, controller: &str, file: &str) -> u64 {
        number(self.text(controller, file).trim())
    }

    /// A file with a name and a number on each line.
    fn table(&self, controller: &str, file: &str) -> Table {
        let text = self.text(controller, file);
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        Table(
            pairs
                .map(|(name, value)| (name.to_owned(), number(value.trim())))
                .collect(),
        )
    }
}

struct Table(HashMap<String, u64>);

impl Table {
    fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

fn number(text: &str) -> u64 {
    if text == "max" {
        u64::MAX
    } else {
        text.parse().unwrap_or(0)
    }
}

fn legacy(files: &Files<'_>) -> v1::Metrics {
    let ticks = files.table("cpuacct", "cpuacct.stat");
    let per_cpu = files.text("cpuacct", "cpuacct.usage_percpu");
    let throttled = files.table("cpu", "cpu.stat");
    let cpu = v1::CPUStat {
        usage: MessageField::some(v1::CPUUsage {
            total: files.number("cpuacct", "cpuacct.usage"),
            kernel: ticks.get("system") * TICK_NS,
            user: ticks.get("user") * TICK_NS,
            per_cpu: per_cpu.split_whitespace().map(number).collect(),
            ..Default::default()
        }),
        throttling: MessageField::some(v1::Throttle {
            periods: throttled.get("nr_periods"),
            throttled_periods: throttled.get("nr_throttled"),
            throttled_time: throttled.get("throttled_time"),
            ..Default::default()
        }),
        ..Default::default()
    };
    let oom = files.table("memory", "memory.oom_control");
    v1::Metrics {
        pids: MessageField::some(v1::PidsStat {
            current: files.number("pids", "pids.current"),
            limit: no_limit_is_zero(files.number("pids", "pids.max")),
            ..Default::default()
        }),
        cpu: MessageField::some(cpu),
        memory: MessageField::some(legacy_memory(files)),
        memory_oom_control: MessageField::some(v1::MemoryOomControl {
            oom_kill_disable: oom.get("oom_kill_disable"),
            under_oom: oom.get("under_oom"),
            oom_kill: oom.get("oom_kill"),
            ..Default::default()
        }),
        blkio: MessageField::some(v1::BlkIOStat {
            io_service_bytes_recursive: block_io(
                &files.text("blkio", "blkio.throttle.io_service_bytes_recursive"),
            ),
            io_serviced_recursive: block_io(
                &files.text("blkio", "blkio.throttle.io_serviced_recursive"),
            ),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn legacy_memory(files: &Files<'_>) -> v1::MemoryStat {
    let stat = files.table("memory", "memory.stat");
    let entry = |name: &str| {
        MessageField::some(v1::MemoryEntry {
            limit: files.number("memory", &format!("memory.{name}limit_in_bytes")),
            usage: files.number("memory", &format!("memory.{name}usage_in_bytes")),
            max: files.number("memory", &format!("memory.{name}max_usage_in_bytes")),
            failcnt: files.number("memory", &format!("memory.{name}failcnt")),
            ..Default::default()
        })
    };
    v1::MemoryStat {
        cache: stat.get("cache"),
        rss: stat.get("rss"),
        mapped_file: stat.get("mapped_file"),
        pg_fault: stat.get("pgfault"),
        pg_maj_fault: stat.get("pgmajfault"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        hierarchical_memory_limit: stat.get("hierarchical_memory_limit"),
        total_cache: stat.get("total_cache"),
        total_rss: stat.get("total_rss"),
        total_mapped_file: stat.get("total_mapped_file"),
        total_inactive_anon: stat.get("total_inactive_anon"),
        total_active_anon: stat.get("total_active_anon"),
        total_inactive_file: stat.get("total_inactive_file"),
        total_active_file: stat.get("total_active_file"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
        ..Default::default()
    }
}

fn block_io(text: &str) -> Vec<v1::BlkIOEntry> {
    let entries = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = (words.next()?, words.next()?);
        Some(v1::BlkIOEntry {
            op: op.to_owned(),
            major: number(major),
            minor: number(minor),
            value: number(value),
            ..Default::default()
        })
    });
    entries.collect()
}

fn unified(files: &Files<'_>) -> v2::Metrics {
    let cpu = files.table("cpu", "cpu.stat");
    let events = files.table("memory", "memory.events");
    v2::Metrics {
        pids: MessageField::some(v2::PidsStat {
            current: files.number("pids", "pids.current"),
            limit: no_limit_is_zero(files.number("pids", "pids.max")),
            ..Default::default()
        }),
        cpu: MessageField::some(v2::CPUStat {
            usage_usec: cpu.get("usage_usec"),
            user_usec: cpu.get("user_usec"),
            system_usec: cpu.get("system_usec"),
            nr_periods: cpu.get("nr_periods"),
            nr_throttled: cpu.get("nr_throttled"),
            throttled_usec: cpu.get("throttled_usec"),
            ..Default::default()
        }),
        memory: MessageField::some(unified_memory(files)),
        memory_events: MessageField::some(v2::MemoryEvents {
            low: events.get("low"),
            high: events.get("high"),
            max: events.get("max"),
            oom: events.get("oom"),
            oom_kill: events.get("oom_kill"),
            ..Default::default()
        }),
        io: MessageField::some(v2::IOStat {
            usage: io_entries(&files.text("io", "io.stat")),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn unified_memory(files: &Files<'_>) -> v2::MemoryStat {
    let stat = files.table("memory", "memory.stat");
    v2::MemoryStat {
        anon: stat.get("anon"),
        file: stat.get("file"),
        kernel_stack: stat.get("kernel_stack"),
        slab: stat.get("slab"),
        sock: stat.get("sock"),
        shmem: stat.get("shmem"),
        file_mapped: stat.get("file_mapped"),
        file_dirty: stat.get("file_dirty"),
        file_writeback: stat.get("file_writeback"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        slab_reclaimable: stat.get("slab_reclaimable"),
        slab_unreclaimable: stat.get("slab_unreclaimable"),
        pgfault: stat.get("pgfault"),
        pgmajfault: stat.get("pgmajfault"),
        usage: files.number("memory", "memory.current"),
        usage_limit: files.number("memory", "memory.max"),
        max_usage: files.number("memory", "memory.peak"),
        swap_usage: files.number("memory", "memory.swap.current"),
        swap_limit: files.number("memory", "memory.swap.max"),
        ..Default::default()
    }
}

fn io_entries(text: &str) -> Vec<v2::IOEntry> {
    let entries = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (major, minor) = words.next()?.split_once(':')?;
        let table: HashMap<&str, &str> = words.filter_map(|word| word.split_once('=')).collect();
        let get = |name: &str| table.get(name).map_or(0, |value| number(value));
        Some(v2::IOEntry {
            major: number(major),
            minor: number(minor),
            rbytes: get("rbytes"),
            wbytes: get("wbytes"),
            rios: get("rios"),
            wios: get("wios"),
            ..Default::default()
        })
    });
    entries.collect()
}

/// containerd's messages say 0 for a pids limit that is not there.
fn no_limit_is_zero(limit: u64) -> u64 {
    if limit == u64::MAX { 0 } else { limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_lines_are_read_by_name() {
        let entries = io_entries("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        assert_eq!(
            (entries[0].major, entries[0].rbytes, entries[0].wios),
            (8, 1, 4)
        );
        let entries = block_io("8:0 Read 42\n8:0 Write 0\nTotal 42\n");
        assert_eq!((entries.len(), entries[0].value), (2, 42));
    }
}
