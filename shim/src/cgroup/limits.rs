//! Writes a specification's resource limits into a control group. It never makes up a limit that was not given.

use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::group::Group;

/// Whether resources hold a limit, rather than the empty lists that builders of specifications leave.
pub(crate) fn is_limited(resources: &LinuxResources) -> bool {
    resources.memory().is_some()
        || resources.cpu().is_some()
        || resources.pids().is_some()
        || resources.block_io().is_some()
        || resources
            .hugepage_limits()
            .as_ref()
            .is_some_and(|limits| !limits.is_empty())
        || resources
            .unified()
            .as_ref()
            .is_some_and(|files| !files.is_empty())
        || resources
            .devices()
            .as_ref()
            .is_some_and(|rules| !rules.is_empty())
}

impl Group {
    /// Applies all limits but those on devices.
    pub(crate) fn limit(&self, resources: &LinuxResources) -> io::Result<()> {
        let writer = Writer { group: self };
        if let Some(memory) = resources.memory() {
            writer.memory(memory)?;
        }
        if let Some(cpu) = resources.cpu() {
            writer.cpu(cpu)?;
        }
        if let Some(pids) = resources.pids() {
            writer.put("pids", "pids.max", "pids.max", &count_or_max(pids.limit()))?;
        }
        if let Some(block_io) = resources.block_io() {
            writer.block_io(block_io)?;
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            let size = limit.page_size();
            let (v1, v2) = (
                format!("hugetlb.{size}.limit_in_bytes"),
                format!("hugetlb.{size}.max"),
            );
            writer.put("hugetlb", &v1, &v2, &limit.limit().to_string())?;
        }
        for (file, value) in resources.unified().iter().flatten() {
            if file.contains('/') || !self.is_unified() {
                return Err(invalid(format!(
                    "{file} is not a file of this machine's control groups"
                )));
            }
            writer.put("", file, file, value)?;
        }
        Ok(())
    }
}

struct Writer<'a> {
    group: &'a Group,
}

impl Writer<'_> {
    fn put(&self, controller: &str, v1: &str, v2: &str, value: &str) -> io::Result<()> {
        let file = if self.group.is_unified() { v2 } else { v1 };
        let directory = self
            .group
            .directory(controller)
            .ok_or_else(|| invalid(format!("this machine has no {controller} controller")))?;
        write(&directory.join(file), value)
    }

    fn memory(&self, memory: &LinuxMemory) -> io::Result<()> {
        if self.group.is_unified() {
            self.unified_memory(memory)?;
        } else {
            self.legacy_memory(memory)?;
        }
        memory.reservation().map_or(Ok(()), |bytes| {
            self.put(
                "memory",
                "memory.soft_limit_in_bytes",
                "memory.low",
                &bytes.to_string(),
            )
        })
    }

    /// OCI counts memory and swap together, v2 swap alone.
    fn unified_memory(&self, memory: &LinuxMemory) -> io::Result<()> {
        if let Some(limit) = memory.limit() {
            self.put("memory", "", "memory.max", &count_or_max(limit))?;
        }
        let Some(both) = memory.swap() else {
            return Ok(());
        };
        let memory = memory.limit().unwrap_or(0).max(0);
        let alone = if both < 0 { -1 } else { (both - memory).max(0) };
        self.put("memory", "", "memory.swap.max", &count_or_max(alone))
    }

    /// The kernel refuses a moment with less swap than memory, so the order depends on which one grows.
    fn legacy_memory(&self, memory: &LinuxMemory) -> io::Result<()> {
        let limit = memory.limit().map(|limit| ("memory.limit_in_bytes", limit));
        let swap = memory
            .swap()
            .map(|swap| ("memory.memsw.limit_in_bytes", swap));
        let set = |(file, value): (&str, i64)| self.put("memory", file, file, &value.to_string());
        let (Some(limit), Some(swap)) = (limit, swap) else {
            return limit.into_iter().chain(swap).try_for_each(set);
        };
        set(limit)
            .and_then(|()| set(swap))
            .or_else(|_| set(swap).and_then(|()| set(limit)))
    }

    fn cpu(&self, cpu: &LinuxCpu) -> io::Result<()> {
        if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
            let value = if self.group.is_unified() {
                weight_of_shares(shares)
            } else {
                shares
            };
            self.put("cpu", "cpu.shares", "cpu.weight", &value.to_string())?;
        }
        let (quota, period) = (cpu.quota(), cpu.period());
        if self.group.is_unified() && (quota.is_some() || period.is_some()) {
            let quota = count_or_max(quota.filter(|quota| *quota > 0).unwrap_or(-1));
            self.put(
                "cpu",
                "",
                "cpu.max",
                &format!("{quota} {}", period.unwrap_or(100_000)),
            )?;
        } else {
            if let Some(period) = period {
                self.put("cpu", "cpu.cfs_period_us", "", &period.to_string())?;
            }
            if let Some(quota) = quota {
                self.put("cpu", "cpu.cfs_quota_us", "", &quota.to_string())?;
            }
        }
        for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                self.put("cpuset", file, file, value)?;
            }
        }
        Ok(())
    }

    fn block_io(&self, limits: &LinuxBlockIo) -> io::Result<()> {
        if let Some(weight) = limits.weight().filter(|weight| *weight > 0) {
            self.put(
                "blkio",
                "blkio.weight",
                "io.bfq.weight",
                &weight.to_string(),
            )?;
        }
        let throttles = [
            (
                limits.throttle_read_bps_device(),
                "blkio.throttle.read_bps_device",
                "rbps",
            ),
            (
                limits.throttle_write_bps_device(),
                "blkio.throttle.write_bps_device",
                "wbps",
            ),
            (
                limits.throttle_read_iops_device(),
                "blkio.throttle.read_iops_device",
                "riops",
            ),
            (
                limits.throttle_write_iops_device(),
                "blkio.throttle.write_iops_device",
                "wiops",
            ),
        ];
        let unified = self.group.is_unified();
        for (devices, v1, v2) in throttles {
            let key = if unified {
                format!("{v2}=")
            } else {
                String::new()
            };
            devices.iter().flatten().try_for_each(|device| {
                let line = format!(
                    "{}:{} {key}{}",
                    device.major(),
                    device.minor(),
                    device.rate()
                );
                self.put("blkio", v1, "io.max", &line)
            })?;
        }
        Ok(())
    }
}

fn write(file: &Path, value: &str) -> io::Result<()> {
    fs::write(file, value).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("writing {value} to {}: {error}", file.display()),
        )
    })
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn count_or_max(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

/// v1's shares (2 to 262144) on v2's scale (1 to 10000).
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_keep_their_ends_on_the_new_scale() {
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 39, 10000]);
        assert_eq!([-1, 5].map(count_or_max), ["max", "5"].map(str::to_owned));
    }

    #[test]
    fn what_builders_leave_is_no_limit() {
        let left = oci_spec::runtime::Linux::default()
            .resources()
            .clone()
            .unwrap();
        assert!(!is_limited(&left));
    }
}
