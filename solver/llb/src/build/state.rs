//! A filesystem under construction with the settings that the next step starts from. Cheap to clone.

use super::{Output, Vars};
use shipway_model::Platform;
use shipway_model::op::{HostIp, NetMode, SecurityMode, Ulimit};
use std::sync::{Arc, LazyLock};

/// One output of a vertex, or scratch, with settings.
#[derive(Debug, Clone)]
pub struct State {
    output: Option<Output>,
    settings: Arc<Settings>,
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) env: Arc<Vars>,
    pub(super) dir: String,
    pub(super) user: String,
    pub(super) hostname: String,
    pub(super) platform: Option<Platform>,
    pub(super) network: NetMode,
    pub(super) security: SecurityMode,
    pub(super) extra_hosts: Vec<HostIp>,
    pub(super) ulimits: Vec<Ulimit>,
    pub(super) cgroup_parent: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            env: Arc::default(),
            dir: "/".into(),
            user: String::new(),
            hostname: String::new(),
            platform: None,
            network: NetMode::Unset,
            security: SecurityMode::Sandbox,
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            cgroup_parent: String::new(),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self::scratch()
    }
}

impl State {
    /// The empty filesystem, with directory `/` and no other setting.
    #[must_use]
    pub fn scratch() -> Self {
        static SETTINGS: LazyLock<Arc<Settings>> = LazyLock::new(Arc::default);
        Self {
            output: None,
            settings: Arc::clone(&SETTINGS),
        }
    }

    pub(super) fn of(output: Output) -> Self {
        Self {
            output: Some(output),
            ..Self::scratch()
        }
    }

    /// Which output it is; `None` for scratch.
    #[must_use]
    pub fn output(&self) -> Option<Output> {
        self.output
    }

    /// The same settings over other contents.
    #[must_use]
    pub fn with_output(&self, output: Option<Output>) -> Self {
        Self {
            output,
            settings: Arc::clone(&self.settings),
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        Arc::make_mut(&mut self.settings_mut().env).set(name, value);
        self
    }

    /// Sets many, as if one by one.
    #[must_use]
    pub fn envs<'a>(mut self, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let env = Arc::make_mut(&mut self.settings_mut().env);
        pairs.for_each(|(name, value)| env.set(name, value));
        self
    }

    /// The environment.
    #[must_use]
    pub fn vars(&self) -> &Vars {
        &self.settings.env
    }

    /// The environment, without a copy.
    #[must_use]
    pub fn shared_vars(&self) -> Arc<Vars> {
        Arc::clone(&self.settings.env)
    }

    /// Changes the directory; a relative one is joined to the present one.
    #[must_use]
    pub fn dir(mut self, dir: &str) -> Self {
        let dir = crate::build::file::join(&self.settings.dir, dir);
        self.settings_mut().dir = dir;
        self
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &str {
        &self.settings.dir
    }

    /// Sets the user, as `name[:group]` or numbers.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.settings_mut().user);
        self
    }

    /// Sets the host name.
    #[must_use]
    pub fn hostname(mut self, name: &str) -> Self {
        name.clone_into(&mut self.settings_mut().hostname);
        self
    }

    /// Sets the platform.
    #[must_use]
    pub fn platform(mut self, platform: &Platform) -> Self {
        self.settings_mut().platform = Some(platform.normalized());
        self
    }

    /// The platform, where one is set.
    #[must_use]
    pub fn target_platform(&self) -> Option<&Platform> {
        self.settings.platform.as_ref()
    }

    /// Sets the network mode.
    #[must_use]
    pub fn network(mut self, mode: NetMode) -> Self {
        self.settings_mut().network = mode;
        self
    }

    /// Sets the security mode.
    #[must_use]
    pub fn security(mut self, mode: SecurityMode) -> Self {
        self.settings_mut().security = mode;
        self
    }

    /// Adds a line to the hosts file.
    #[must_use]
    pub fn extra_host(mut self, host: &str, ip: &str) -> Self {
        let line = HostIp {
            host: host.to_owned(),
            ip: ip.to_owned(),
        };
        self.settings_mut().extra_hosts.push(line);
        self
    }

    /// Adds a resource limit.
    #[must_use]
    pub fn ulimit(mut self, limit: Ulimit) -> Self {
        self.settings_mut().ulimits.push(limit);
        self
    }

    /// Sets the parent cgroup.
    #[must_use]
    pub fn cgroup_parent(mut self, parent: &str) -> Self {
        parent.clone_into(&mut self.settings_mut().cgroup_parent);
        self
    }

    fn settings_mut(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.settings)
    }
}
