//! Processes: a root filesystem, more mounts, and what the process needs. Mounts are numbered in order of their targets.

use super::{Graph, Kind, Output, State, Vars, VertexOptions};
use shipway_model::op::{
    CacheSharing, CdiDevice, ContentCache, ExecOp, Meta, Mount, MountKind, NetMode, ProxyEnv,
    SecretEnv, SecretMount, SecurityMode, Ulimit,
};

/// A state mounted at a path.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent options of one mount"
)]
pub struct BindMount {
    /// What is mounted.
    pub state: State,
    /// Path inside of it.
    pub source: String,
    /// No writes.
    pub readonly: bool,
    /// Writes are lost after the process.
    pub discard: bool,
    /// Whether it may be keyed by content.
    pub content_cache: ContentCache,
}

/// What is mounted beside the root.
#[derive(Debug, Clone)]
pub enum RunMount {
    /// A state.
    Bind(BindMount),
    /// A directory that outlives the build.
    Cache {
        /// Its name.
        id: String,
        /// Who may use it at once.
        sharing: CacheSharing,
        /// What it starts from, at which path.
        state: State,
        /// Path inside of `state`.
        source: String,
        /// No writes.
        readonly: bool,
    },
    /// Memory.
    Tmpfs {
        /// Limit in bytes; 0 for none.
        size: u64,
        /// Path inside of it.
        source: String,
        /// No writes.
        readonly: bool,
    },
}

/// A secret as file, variable or both.
#[derive(Debug, Clone, Default)]
pub struct Secret {
    /// Id at the client.
    pub id: String,
    /// File that holds it.
    pub target: Option<String>,
    /// Variable that holds it.
    pub env: Option<String>,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Permission bits of the file.
    pub mode: u32,
    /// The client may lack it.
    pub optional: bool,
}

/// A socket to the client's ssh agent.
#[derive(Debug, Clone, Default)]
pub struct SshSocket {
    /// Id at the client.
    pub id: String,
    /// Path of the socket; a numbered default where empty.
    pub target: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// The client may lack it.
    pub optional: bool,
}

/// A process to run. Settings of the state hold unless this overrides them.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Mounts by target, beside the root.
    pub mounts: Vec<(String, RunMount)>,
    /// Secrets.
    pub secrets: Vec<Secret>,
    /// Agent sockets.
    pub ssh: Vec<SshSocket>,
    /// CDI devices.
    pub devices: Vec<CdiDevice>,
    /// Proxy variables.
    pub proxy: Option<ProxyEnv>,
    /// The root takes no writes.
    pub readonly_root: bool,
    /// Network mode.
    pub network: Option<NetMode>,
    /// Security mode.
    pub security: Option<SecurityMode>,
    /// More limits.
    pub ulimits: Vec<Ulimit>,
    /// More lines of the hosts file: host and address.
    pub extra_hosts: Vec<(String, String)>,
    /// Parent cgroup.
    pub cgroup_parent: Option<String>,
    /// Exit codes that count as success, where not only 0.
    pub valid_exit_codes: Vec<i32>,
}

impl Run {
    /// A process without anything beside its root.
    pub fn new<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Also mounts something.
    #[must_use]
    pub fn mount(mut self, target: impl Into<String>, mount: RunMount) -> Self {
        self.mounts.push((target.into(), mount));
        self
    }
}

/// The results of a process: its root, and each mount that keeps writes.
#[derive(Debug, Clone)]
pub struct Executed {
    root: State,
    mounts: Vec<(String, State)>,
}

impl Executed {
    /// The root filesystem afterwards.
    #[must_use]
    pub fn root(&self) -> &State {
        &self.root
    }

    /// A mount afterwards; `None` where it keeps no writes.
    #[must_use]
    pub fn mount(&self, target: &str) -> Option<&State> {
        self.mounts
            .iter()
            .find(|(path, _)| path == target)
            .map(|(_, state)| state)
    }
}

/// An exec op whose mounts still name outputs of the graph.
#[derive(Debug, Clone)]
pub(super) struct ExecNode {
    pub(super) op: ExecOp,
    /// One per mount of `op` that comes first: sources, in the mounts' order.
    pub(super) sources: Vec<Option<Output>>,
    /// Platform of the state, used where the options name none.
    pub(super) platform: Option<shipway_model::Platform>,
}

impl Graph {
    /// Runs a process in `state`.
    pub fn run(&mut self, state: &State, run: Run, options: VertexOptions) -> Executed {
        let options = caps(&run, state, options);
        let platform = options.platform.clone();
        let mut mounts = mounts(state, &run);
        mounts.sort_by(|a, b| a.mount.dest.cmp(&b.mount.dest));
        number_outputs(&mut mounts);
        let node = self.nodes.len();
        let platformed = |state: State| match &platform {
            Some(platform) => state.platform(platform),
            None => state,
        };
        let result = |mount: &Placed, before: &State| match mount.mount.output {
            Some(index) => platformed(before.with_output(Some(Output { node, index }))),
            None => before.clone(),
        };
        let root = mounts.iter().find(|mount| mount.root);
        let root = root.map_or_else(|| state.clone(), |mount| result(mount, state));
        let kept = mounts
            .iter()
            .filter(|mount| !mount.root && mount.mount.output.is_some());
        let kept = kept.map(|m| (m.mount.dest.clone(), result(m, &m.state)));
        let executed = Executed {
            root,
            mounts: kept.collect(),
        };
        let exec = finish(state, run, mounts);
        self.push(Kind::Exec(Box::new(exec)), options);
        executed
    }
}

/// A mount with what it was before.
#[expect(
    clippy::struct_excessive_bools,
    reason = "the root may keep writes or not"
)]
struct Placed {
    mount: Mount,
    state: State,
    root: bool,
    /// Its writes become an output.
    kept: bool,
}

fn mounts(state: &State, run: &Run) -> Vec<Placed> {
    let root = RunMount::Bind(BindMount {
        state: state.clone(),
        readonly: run.readonly_root,
        ..BindMount::default()
    });
    let mut placed = vec![place("/", &root, true)];
    placed.extend(
        run.mounts
            .iter()
            .map(|(target, mount)| place(target, mount, false)),
    );
    placed
}

fn place(target: &str, mount: &RunMount, root: bool) -> Placed {
    let (state, selector, readonly, discard) = match mount {
        RunMount::Bind(bind) => (&bind.state, &bind.source, bind.readonly, bind.discard),
        RunMount::Cache {
            state,
            source,
            readonly,
            ..
        } => (state, source, *readonly, true),
        RunMount::Tmpfs {
            source, readonly, ..
        } => (&State::scratch(), source, *readonly, true),
    };
    let (kind, content_cache) = match mount {
        RunMount::Bind(bind) => (MountKind::Bind, bind.content_cache),
        RunMount::Cache { id, sharing, .. } => {
            let kind = MountKind::Cache {
                id: id.clone(),
                sharing: *sharing,
            };
            (kind, ContentCache::Default)
        }
        RunMount::Tmpfs { size, .. } => (MountKind::Tmpfs { size: *size }, ContentCache::Default),
    };
    let mount = Mount {
        input: None,
        selector: selector.clone(),
        dest: target.to_owned(),
        output: None,
        readonly,
        kind,
        content_cache,
        result_id: String::new(),
    };
    Placed {
        mount,
        state: state.clone(),
        root,
        kept: !readonly && !discard,
    }
}

fn number_outputs(mounts: &mut [Placed]) {
    let kept = mounts.iter_mut().filter(|mount| mount.kept);
    kept.enumerate()
        .for_each(|(index, mount)| mount.mount.output = Some(index));
}

fn finish(state: &State, run: Run, placed: Vec<Placed>) -> ExecNode {
    let settings = state.settings();
    let ssh = sockets(run.ssh);
    let env = environment(
        &settings.env,
        ssh.first().map(|(socket, _)| socket.as_str()),
    );
    let secret_env = run.secrets.iter().filter_map(|secret| {
        let name = secret.env.clone()?;
        Some(SecretEnv {
            id: secret.id.clone(),
            name,
            optional: secret.optional,
        })
    });
    let secret_env = secret_env.collect();
    let sources = placed.iter().map(|placed| placed.state.output()).collect();
    let secrets = run.secrets.into_iter().filter_map(secret_mount);
    let sockets = ssh
        .into_iter()
        .map(|(dest, socket)| bare(dest, MountKind::Ssh(socket)));
    let mounts = placed.into_iter().map(|placed| placed.mount);
    let extra = run.extra_hosts.into_iter();
    let extra = extra.map(|(host, ip)| shipway_model::op::HostIp { host, ip });
    let meta = Meta {
        args: run.args,
        env,
        cwd: settings.dir.clone(),
        user: settings.user.clone(),
        proxy_env: run.proxy,
        extra_hosts: settings.extra_hosts.iter().cloned().chain(extra).collect(),
        hostname: settings.hostname.clone(),
        ulimits: settings
            .ulimits
            .iter()
            .cloned()
            .chain(run.ulimits)
            .collect(),
        cgroup_parent: run
            .cgroup_parent
            .unwrap_or_else(|| settings.cgroup_parent.clone()),
        remove_mount_stubs_recursive: true,
        valid_exit_codes: run.valid_exit_codes,
    };
    let op = ExecOp {
        meta,
        mounts: mounts.chain(secrets).chain(sockets).collect(),
        network: run.network.unwrap_or(settings.network),
        security: run.security.unwrap_or(settings.security),
        secret_env,
        cdi_devices: run.devices,
    };
    ExecNode {
        op,
        sources,
        platform: settings.platform.clone(),
    }
}

/// `NAME=value` in order; programs find the first agent by a variable.
fn environment(vars: &Vars, socket: Option<&str>) -> Vec<String> {
    // Graphs have a variable per process and assignment: by hand, this takes a quarter of the time.
    let pair = |(name, value): (&str, &str)| {
        let mut pair = String::with_capacity(name.len() + 1 + value.len());
        pair.push_str(name);
        pair.push('=');
        pair.push_str(value);
        pair
    };
    let pairs = vars.iter().map(pair);
    let socket = socket.filter(|_| !vars.contains("SSH_AUTH_SOCK"));
    let socket = socket.map(|socket| format!("SSH_AUTH_SOCK={socket}"));
    pairs.chain(socket).collect()
}

/// Sockets with their paths, numbered where none is given.
fn sockets(ssh: Vec<SshSocket>) -> Vec<(String, SecretMount)> {
    let socket = |(number, socket): (usize, SshSocket)| {
        let numbered = format!("/run/buildkit/ssh_agent.{number}");
        let target = if socket.target.is_empty() {
            numbered
        } else {
            socket.target
        };
        let mount = SecretMount {
            id: socket.id,
            uid: socket.uid,
            gid: socket.gid,
            mode: socket.mode,
            optional: socket.optional,
        };
        (target, mount)
    };
    ssh.into_iter().enumerate().map(socket).collect()
}

fn secret_mount(secret: Secret) -> Option<Mount> {
    let mount = SecretMount {
        id: secret.id,
        uid: secret.uid,
        gid: secret.gid,
        mode: secret.mode,
        optional: secret.optional,
    };
    Some(bare(secret.target?, MountKind::Secret(mount)))
}

fn bare(dest: String, kind: MountKind) -> Mount {
    Mount {
        input: None,
        selector: String::new(),
        dest,
        output: None,
        readonly: false,
        kind,
        content_cache: ContentCache::Default,
        result_id: String::new(),
    }
}

fn caps(run: &Run, state: &State, options: VertexOptions) -> VertexOptions {
    let settings = state.settings();
    let any = |test: fn(&RunMount) -> bool| run.mounts.iter().any(|(_, mount)| test(mount));
    let selector = |mount: &RunMount| match mount {
        RunMount::Bind(bind) => !bind.source.is_empty(),
        RunMount::Cache { source, .. } | RunMount::Tmpfs { source, .. } => !source.is_empty(),
    };
    let content = |mount: &RunMount| match mount {
        RunMount::Bind(bind) => bind.content_cache != ContentCache::Default,
        RunMount::Cache { .. } | RunMount::Tmpfs { .. } => false,
    };
    let bind = |mount: &RunMount| match mount {
        RunMount::Bind(bind) => bind.state.output().is_some(),
        RunMount::Cache { .. } | RunMount::Tmpfs { .. } => false,
    };
    let limited = options.meta.linux_resources.is_some();
    let network = run.network.unwrap_or(settings.network) != NetMode::Unset;
    let insecure = run.security.unwrap_or(settings.security) == SecurityMode::Insecure;
    let cache = any(|mount| matches!(mount, RunMount::Cache { .. }));
    options
        .cap("exec.meta.base")
        .cap("exec.meta.setsdefaultpath")
        .cap_if(!run.valid_exit_codes.is_empty(), "exec.validexitcode")
        .cap_if(
            !run.ulimits.is_empty() || !settings.ulimits.is_empty(),
            "exec.meta.ulimit",
        )
        .cap_if(limited, "exec.meta.linux.resources")
        .cap_if(network, "exec.meta.network")
        .cap_if(insecure, "exec.meta.security")
        .cap_if(run.proxy.is_some(), "exec.meta.proxyenv")
        .cap_if(any(selector), "exec.mount.selector")
        .cap_if(cache, "exec.mount.cache")
        .cap_if(cache, "exec.mount.cache.sharing")
        .cap_if(
            any(|mount| matches!(mount, RunMount::Tmpfs { .. })),
            "exec.mount.tmpfs",
        )
        .cap_if(
            any(|mount| matches!(mount, RunMount::Tmpfs { size: 1.., .. })),
            "exec.mount.tmpfs.size",
        )
        .cap_if(state.output().is_some() || any(bind), "exec.mount.bind")
        .cap_if(any(content), "exec.mount.cache.content")
        .cap_if(!run.secrets.is_empty(), "exec.mount.secret")
        .cap_if(
            run.secrets.iter().any(|secret| secret.env.is_some()),
            "exec.secretenv",
        )
        .cap_if(!run.ssh.is_empty(), "exec.mount.ssh")
        .cap_if(!run.devices.is_empty(), "exec.meta.cdi")
}
