//! The options of a Dockerfile build, from the string map that clients send. A key that is not known is left alone:
//! clients send many that concern others. A value of a known key that cannot be read is an error.

use crate::error::{Error, OptionError};
use crate::lint::Checks;
use crate::platform;
use crate::syntax::{csv_fields, go_bool};
use shipway_llb::build::ResolveMode;
use shipway_model::Platform;
use shipway_model::definition::LinuxResources;
use shipway_model::op::{NetMode, Ulimit};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The options as clients send them.
pub type OptionMap = BTreeMap<String, String>;

/// Typed options of a build.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent options of a build"
)]
pub struct BuildOptions {
    /// Stage to build; empty for the last one.
    pub target: String,
    /// `--build-arg`.
    pub build_args: OptionMap,
    /// Labels that the image gets beside its own.
    pub labels: OptionMap,
    /// Platforms to build for; empty for the daemon's own.
    pub platforms: Vec<Platform>,
    /// The result is one per platform, even if there is only one.
    pub multi_platform: bool,
    /// Platform of the daemon.
    pub build_platform: Platform,
    /// Stages whose cache is not used; empty for all of them.
    pub no_cache: Option<Vec<String>>,
    /// Extra hosts: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// Limits of each step.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of `/dev/shm`; 0 for the default.
    pub shm_size: u64,
    /// Parent cgroup of each step.
    pub cgroup_parent: String,
    /// Host name of each step.
    pub hostname: String,
    /// Network of each step.
    pub network: NetMode,
    /// How images are resolved.
    pub resolve_mode: ResolveMode,
    /// Prefix of the ids of cache mounts.
    pub cache_namespace: String,
    /// CPU and memory of each step.
    pub limits: Option<LinuxResources>,
    /// Checks to apply instead of the file's own.
    pub checks: Option<Checks>,
    /// Let the daemon print advice about git sources.
    pub git_advice: bool,
    /// The client's session.
    pub session: String,
    /// All options as sent: named contexts are looked up here.
    pub raw: OptionMap,
}

impl BuildOptions {
    /// Reads the options of a client whose session is `session`, for a daemon that runs on `build_platform`.
    ///
    /// # Errors
    /// A value that means nothing.
    pub fn parse(raw: &OptionMap, session: &str, build_platform: &Platform) -> Result<Self, Error> {
        refuse_removed(raw)?;
        let text = |key: &str| raw.get(key).map(String::as_str).unwrap_or_default();
        let platforms = platforms(text("platform"))?;
        let checks = raw
            .get("build-arg:BUILDKIT_DOCKERFILE_CHECK")
            .map(|v| Checks::parse(v));
        let hostname = match text("build-arg:BUILDKIT_SANDBOX_HOSTNAME") {
            "" => text("hostname"),
            name => name,
        };
        let advice = text("build-arg:BUILDKIT_GIT_ADVICE");
        let bad_advice = OptionError::Check("build-arg:BUILDKIT_GIT_ADVICE");
        Ok(Self {
            target: text("target").to_owned(),
            build_args: with_prefix(raw, "build-arg:"),
            labels: with_prefix(raw, "label:"),
            multi_platform: multi_platform(raw, platforms.len())?,
            platforms,
            build_platform: build_platform.normalized(),
            no_cache: raw.get("no-cache").map(|stages| match stages.as_str() {
                "" => Vec::new(),
                stages => stages.split(',').map(str::to_owned).collect(),
            }),
            extra_hosts: extra_hosts(text("add-hosts"))?,
            ulimits: ulimits(text("ulimit"))?,
            shm_size: shm_size(text("shm-size"))?,
            cgroup_parent: text("cgroup-parent").to_owned(),
            hostname: hostname.to_owned(),
            network: net_mode(text("force-network-mode"))?,
            resolve_mode: resolve_mode(text("image-resolve-mode"))?,
            cache_namespace: text("build-arg:BUILDKIT_CACHE_MOUNT_NS").to_owned(),
            limits: limits(raw)?,
            checks: checks.transpose()?,
            git_advice: !advice.is_empty() && go_bool(advice).ok_or(bad_advice)?,
            session: session.to_owned(),
            raw: raw.clone(),
        })
    }

    /// True where the cache of this stage is not used. Stages without name only count when all do.
    #[must_use]
    pub fn ignores_cache_of(&self, stage: &str) -> bool {
        match self.no_cache.as_deref() {
            None => false,
            Some([]) => true,
            Some(stages) => stages.iter().any(|name| name.eq_ignore_ascii_case(stage)),
        }
    }

    /// The session that offers the local directory `name`: builds of one command may share one.
    #[must_use]
    pub fn session_of(&self, name: &str) -> &str {
        self.raw
            .get(&format!("local-sessionid:{name}"))
            .map_or(&self.session, String::as_str)
    }
}

fn with_prefix(raw: &OptionMap, prefix: &str) -> OptionMap {
    let named = raw
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value)));
    named
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
}

fn refuse_removed(raw: &OptionMap) -> Result<(), OptionError> {
    if raw
        .get("override-copy-image")
        .is_some_and(|image| !image.is_empty())
    {
        return Err(OptionError::Removed("override-copy-image"));
    }
    let disabled = raw
        .get("build-arg:BUILDKIT_DISABLE_FILEOP")
        .and_then(|v| go_bool(v));
    if disabled == Some(true) {
        return Err(OptionError::Removed("BUILDKIT_DISABLE_FILEOP"));
    }
    Ok(())
}

fn platforms(text: &str) -> Result<Vec<Platform>, OptionError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let parse = |part: &str| match platform::parse(part) {
        Ok(platform) => Ok(platform.normalized()),
        Err(source) => Err(OptionError::Platform {
            value: part.to_owned(),
            source,
        }),
    };
    text.split(',').map(parse).collect()
}

fn multi_platform(raw: &OptionMap, count: usize) -> Result<bool, OptionError> {
    let wish = raw
        .get("build-arg:BUILDKIT_MULTI_PLATFORM")
        .filter(|value| !value.is_empty());
    let wish = wish.or_else(|| raw.get("multi-platform").filter(|value| !value.is_empty()));
    let Some(wish) = wish else {
        return Ok(count > 1);
    };
    let wish = go_bool(wish).ok_or_else(|| OptionError::MultiPlatform(wish.clone()))?;
    if !wish && count > 1 {
        return Err(OptionError::SinglePlatform);
    }
    Ok(wish)
}

fn resolve_mode(text: &str) -> Result<ResolveMode, OptionError> {
    match text {
        "" | "default" => Ok(ResolveMode::Default),
        "pull" => Ok(ResolveMode::Pull),
        "local" => Ok(ResolveMode::Local),
        other => Err(OptionError::ResolveMode(other.to_owned())),
    }
}

fn net_mode(text: &str) -> Result<NetMode, OptionError> {
    match text {
        "" | "sandbox" => Ok(NetMode::Unset),
        "none" => Ok(NetMode::None),
        "host" => Ok(NetMode::Host),
        other => Err(OptionError::NetMode(other.to_owned())),
    }
}

fn extra_hosts(text: &str) -> Result<Vec<(String, String)>, OptionError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let host = |field: String| {
        let field = field.to_lowercase();
        let (host, ip) = field
            .split_once('=')
            .ok_or_else(|| OptionError::Hosts(format!("invalid key-value pair {field}")))?;
        let bad = || OptionError::Hosts(format!("failed to parse IP {ip}"));
        let address: IpAddr = ip.parse().map_err(|_| bad())?;
        Ok((host.to_owned(), address.to_canonical().to_string()))
    };
    let fields = csv_fields(text).map_err(|reason| OptionError::Hosts(reason.to_owned()))?;
    fields.into_iter().map(host).collect()
}

fn shm_size(text: &str) -> Result<u64, OptionError> {
    if text.is_empty() {
        return Ok(0);
    }
    let size: i64 = text
        .parse()
        .map_err(|_| OptionError::ShmSize(text.to_owned()))?;
    // Nothing and less than nothing both leave the default.
    Ok(u64::try_from(size).unwrap_or(0))
}

fn ulimits(text: &str) -> Result<Vec<Ulimit>, OptionError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let fields = csv_fields(text).map_err(|reason| OptionError::Ulimit(reason.to_owned()))?;
    fields.iter().map(|field| ulimit(field)).collect()
}

/// `name=soft[:hard]`, -1 for no limit.
fn ulimit(text: &str) -> Result<Ulimit, OptionError> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let bad = |reason: String| OptionError::Ulimit(reason);
    let (name, values) = text
        .split_once('=')
        .ok_or_else(|| bad(format!("invalid ulimit argument: {text}")))?;
    if !NAMES.contains(&name) {
        return Err(bad(format!("invalid ulimit type: {name}")));
    }
    let number = |text: &str| {
        text.parse::<i64>()
            .map_err(|_| bad(format!("invalid limit {text}")))
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft == -1 || soft > hard) {
        let reason = "ulimit soft limit must be less than or equal to hard limit";
        return Err(bad(format!("{reason}: {soft} > {hard}")));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

fn limits(raw: &OptionMap) -> Result<Option<LinuxResources>, OptionError> {
    let limits = LinuxResources {
        memory: number(raw, "memory", |n: i64| n > 0)?,
        memory_swap: number(raw, "memswap", |n: i64| n == -1 || n > 0)?,
        cpu_shares: number(raw, "cpushares", |n: u64| n > 0)?,
        cpu_period: number(raw, "cpuperiod", |n: u64| n > 0)?,
        cpu_quota: number(raw, "cpuquota", |n: i64| n > 0)?,
        cpuset_cpus: cpuset(raw, "cpusetcpus")?,
        cpuset_mems: cpuset(raw, "cpusetmems")?,
    };
    Ok((limits != LinuxResources::default()).then_some(limits))
}

fn number<N: std::str::FromStr + Default + Copy>(
    raw: &OptionMap,
    key: &'static str,
    allowed: impl Fn(N) -> bool,
) -> Result<N, OptionError> {
    let Some(value) = raw.get(key).filter(|value| !value.is_empty()) else {
        return Ok(N::default());
    };
    let number = value.parse().ok().filter(|&number| allowed(number));
    number.ok_or_else(|| OptionError::Limit {
        key,
        value: value.clone(),
    })
}

/// A list such as `0-3,5`.
fn cpuset(raw: &OptionMap, key: &'static str) -> Result<String, OptionError> {
    /// Larger indexes exist nowhere.
    const MAX: u32 = 8192;
    let value = raw.get(key).cloned().unwrap_or_default();
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|&n| n <= MAX);
    let fine = |part: &str| match part.split_once('-') {
        Some((low, high)) => matches!((number(low), number(high)), (Some(l), Some(h)) if l <= h),
        None => part.trim().is_empty() || number(part).is_some(),
    };
    if value.split(',').all(fine) {
        Ok(value)
    } else {
        Err(OptionError::Limit { key, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<BuildOptions, Error> {
        let raw = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        BuildOptions::parse(&raw, "s", &Platform::new("linux", "amd64", ""))
    }

    #[test]
    fn known_keys_are_typed_and_others_left_alone() {
        let options = parse(&[
            ("platform", "linux/arm64,linux/x86_64"),
            ("build-arg:A", "1"),
            ("label:l", "v"),
            ("no-cache", "a,B"),
            ("add-hosts", "H=1.2.3.4,h2=::1"),
            ("ulimit", "nofile=1:2,cpu=3"),
            ("shm-size", "64"),
            ("image-resolve-mode", "pull"),
            ("force-network-mode", "none"),
            ("memory", "5"),
            ("cpusetcpus", "0-3,5"),
            ("local-sessionid:ctx", "other"),
            ("attest:sbom", ""),
            ("whatever", "x"),
        ])
        .unwrap();
        assert!(options.multi_platform && options.platforms.len() == 2);
        assert_eq!(options.build_args["A"], "1");
        assert!(options.ignores_cache_of("b") && !options.ignores_cache_of("c"));
        assert_eq!(options.extra_hosts[1], ("h2".into(), "::1".into()));
        assert_eq!((options.ulimits[0].soft, options.ulimits[0].hard), (1, 2));
        assert_eq!((options.ulimits[1].soft, options.ulimits[1].hard), (3, 3));
        assert_eq!(options.limits.as_ref().unwrap().memory, 5);
        assert_eq!(
            (options.session_of("ctx"), options.session_of("x")),
            ("other", "s")
        );
        assert!(!parse(&[]).unwrap().ignores_cache_of(""));
        assert!(parse(&[("no-cache", "")]).unwrap().ignores_cache_of(""));
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        let cases = [
            ("platform", "x/y/z/w"),
            ("image-resolve-mode", "x"),
            ("add-hosts", "a"),
            ("add-hosts", "a=b"),
            ("shm-size", "x"),
            ("ulimit", "x=1"),
            ("ulimit", "nofile=2:1"),
            ("ulimit", "nofile=-1:1"),
            ("force-network-mode", "x"),
            ("multi-platform", "x"),
            ("memory", "0"),
            ("memswap", "-2"),
            ("cpusetmems", "3-1"),
            ("build-arg:BUILDKIT_GIT_ADVICE", "x"),
            ("build-arg:BUILDKIT_DOCKERFILE_CHECK", "x"),
        ];
        for (key, value) in cases {
            assert!(parse(&[(key, value)]).is_err(), "{key}={value}");
        }
        let two = ("platform", "linux/amd64,linux/arm64");
        assert!(parse(&[two, ("multi-platform", "false")]).is_err());
    }
}
