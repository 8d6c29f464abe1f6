//! What a step mounts where: turns an op's mounts and inputs into the launcher's description, taking cache directories,
//! secrets and agent sockets on the way.

use std::path::PathBuf;
use std::sync::Arc;

use shipway_backend::{ErrorKind, NetworkUse, Session};
use shipway_layers::{Building, Snapshot};
use shipway_model::Failure;
use shipway_model::op::{CacheSharing, ExecOp, Mount, MountKind, NetMode, SecretMount};
use shipway_step::{LayerStack, MountAttribute, MountSource, StepMount};

use super::caller::Caller;
use super::clean;
use super::scratch::StepFiles;
use super::ssh::AgentSocket;
use crate::cache_mounts::{CacheMountUse, CacheMounts};
use crate::graph::OpsEnv;

/// What a step mounts, and what must live as long as it runs.
pub(super) struct Plan {
    /// The root filesystem.
    pub(super) root: LayerStack,
    /// The root is read-only.
    pub(super) readonly_root: bool,
    /// Other mounts, sorted by destination.
    pub(super) mounts: Vec<StepMount>,
    /// Size of `/dev/shm`, where a mount asks for one.
    pub(super) shm_size: Option<u64>,
    /// What becomes of the mounts that have an output.
    pub(super) outputs: Vec<PlannedOutput>,
    /// Agents to serve.
    pub(super) agents: Vec<AgentSocket>,
    /// Socket path of the first agent mount, whether the client has an agent or not.
    pub(super) ssh_socket: Option<String>,
    /// New layers of mounts without an output.
    pub(super) discarded: Vec<Discarded>,
    /// What each mount of the op shows, in its order.
    pub(super) views: Vec<View>,
    pub(super) caches: Vec<CacheMountUse>,
    /// A network of its own, where the daemon has such for steps.
    pub(super) network: Option<Box<dyn NetworkUse>>,
    /// Inputs are mounted from their layers' directories: these keep them.
    pub(super) inputs: Vec<Snapshot>,
}

/// One output of a step.
pub(super) struct PlannedOutput {
    /// Number of the op's output.
    pub(super) number: usize,
    /// The mount that it comes from.
    pub(super) mount: usize,
    /// What it is.
    pub(super) output: Output,
}

/// A layer that a mount without an output writes into.
pub(super) struct Discarded {
    /// The mount.
    pub(super) mount: usize,
    /// What it writes upon.
    pub(super) input: Snapshot,
    /// The layer.
    pub(super) building: Building,
}

/// What a mount shows, as directories of the host.
#[derive(Debug, Clone, Default)]
pub enum View {
    /// Layers, lowest first, and the part of them that is mounted. Memory is none: what a process writes there is its own,
    /// and BuildKit too shows an empty filesystem in its place.
    Layers(Vec<PathBuf>, String),
    /// A file or a socket, without paths in it: secrets and agents.
    #[default]
    File,
}

/// An output of a step.
pub(super) enum Output {
    /// The input as it was.
    Unchanged(Snapshot),
    /// A new layer on the input.
    Changed(Snapshot, Building),
}

/// Plans one step.
pub(super) struct Planner<'a> {
    pub(super) ops: &'a OpsEnv,
    pub(super) caller: &'a Caller,
    pub(super) op: &'a ExecOp,
    pub(super) files: &'a StepFiles,
    pub(super) plan: Plan,
}

/// Key of a cache mount: its id, and what its directory starts from.
fn cache_key(id: &str, base: Option<&Snapshot>) -> String {
    match base {
        None => id.to_owned(),
        Some(base) => {
            let ids: Vec<String> = base.ids().map(|id| id.to_string()).collect();
            format!("{id}:{}", ids.join("."))
        }
    }
}

/// Empties the cache directories that a forced step names, where no other step uses them.
pub(super) fn clear_cache_mounts(op: &ExecOp, mounts: &CacheMounts) -> Result<(), Failure> {
    for mount in &op.mounts {
        if let MountKind::Cache { id, .. } = &mount.kind {
            mounts.clear(id)?;
        }
    }
    Ok(())
}

fn lower(snapshot: &Snapshot) -> Vec<PathBuf> {
    let paths = snapshot
        .layers()
        .iter()
        .rev()
        .filter_map(|layer| layer.path());
    paths.map(PathBuf::from).collect()
}

impl Plan {
    pub(super) fn new(inputs: Vec<Snapshot>) -> Self {
        Self {
            root: LayerStack::read_only(Vec::<PathBuf>::new()),
            readonly_root: false,
            mounts: Vec::new(),
            shm_size: None,
            outputs: Vec::new(),
            agents: Vec::new(),
            ssh_socket: None,
            discarded: Vec::new(),
            views: Vec::new(),
            caches: Vec::new(),
            network: None,
            inputs,
        }
    }
}

impl Planner<'_> {
    /// Takes every mount of the op.
    pub(super) async fn plan(mut self) -> Result<Plan, Failure> {
        let mut has_root = false;
        let op = self.op;
        for (index, mount) in op.mounts.iter().enumerate() {
            has_root |= mount.dest == "/";
            self.plan.views.push(match mount.kind {
                MountKind::Tmpfs { .. } => View::Layers(Vec::new(), "/".to_owned()),
                _ => View::File,
            });
            self.mount(index, mount).await?;
        }
        if !has_root {
            return Err(Failure::new("no root mount"));
        }
        self.plan
            .mounts
            .sort_by(|a, b| a.destination.cmp(&b.destination));
        self.plan.network = self.network().await?;
        Ok(self.plan)
    }

    /// The network of a step that asks for the daemon's default; none where that is the host's.
    async fn network(&self) -> Result<Option<Box<dyn NetworkUse>>, Failure> {
        let hostname = Some(self.op.meta.hostname.as_str()).filter(|name| !name.is_empty());
        match (&self.ops.networks, self.op.network) {
            (Some(networks), NetMode::Unset) => Ok(Some(networks.enter(hostname).await?)),
            _ => Ok(None),
        }
    }

    fn input(&self, mount: &Mount) -> Snapshot {
        mount
            .input
            .and_then(|i| self.plan.inputs.get(i))
            .cloned()
            .unwrap_or_default()
    }

    async fn mount(&mut self, index: usize, mount: &Mount) -> Result<(), Failure> {
        match &mount.kind {
            MountKind::Bind => self.bind(index, mount),
            MountKind::Tmpfs { size } if mount.dest == "/dev/shm" => {
                self.plan.shm_size = (*size != 0).then_some(*size);
                Ok(())
            }
            MountKind::Tmpfs { size } => {
                let size = (*size != 0).then_some(*size);
                let source = MountSource::Tmpfs { size, mode: 0o1777 };
                self.add(mount, source, vec![MountAttribute::NoSuid]);
                Ok(())
            }
            MountKind::Cache { id, sharing } => self.cache(index, id, *sharing).await,
            MountKind::Secret(secret) => self.secret(mount, secret).await,
            MountKind::Ssh(ssh) => self.ssh(mount, ssh).await,
        }
    }

    fn add(&mut self, mount: &Mount, source: MountSource, mut attributes: Vec<MountAttribute>) {
        if mount.readonly {
            attributes.push(MountAttribute::ReadOnly);
        }
        let destination = clean(&mount.dest);
        self.plan
            .mounts
            .retain(|other| other.destination.as_os_str() != destination.as_str());
        self.plan
            .mounts
            .push(StepMount::new(destination, source).with(attributes));
    }

    fn bind(&mut self, index: usize, mount: &Mount) -> Result<(), Failure> {
        let input = self.input(mount);
        let stack = self.stack(index, mount, &input)?;
        let lower = stack.lower.iter().rev().cloned();
        let own = stack.writable.iter().map(|own| own.upper.clone());
        self.plan.views[index] = View::Layers(lower.chain(own).collect(), clean(&mount.selector));
        if mount.dest == "/" {
            self.plan.root = stack;
            self.plan.readonly_root = mount.readonly;
            return Ok(());
        }
        let selector = clean(&mount.selector);
        let subpath = (selector != "/").then(|| PathBuf::from(selector));
        self.add(
            mount,
            MountSource::Layers {
                layers: stack,
                subpath,
            },
            Vec::new(),
        );
        Ok(())
    }

    /// The layers of a bind mount, with a new one on top where the step may write.
    fn stack(
        &mut self,
        index: usize,
        mount: &Mount,
        input: &Snapshot,
    ) -> Result<LayerStack, Failure> {
        if mount.readonly
            && let Some(number) = mount.output
        {
            self.output(number, index, Output::Unchanged(input.clone()));
        }
        // An empty tree has no directory of its own to show, and a root needs mount points.
        if mount.readonly && !input.is_empty() && mount.dest != "/" {
            return Ok(LayerStack::read_only(lower(input)));
        }
        let building = self.ops.env.layers.begin()?;
        let stack = LayerStack::writable(lower(input), building.fs(), building.work());
        match mount.output {
            Some(number) if !mount.readonly => {
                self.output(number, index, Output::Changed(input.clone(), building));
            }
            _ => self.plan.discarded.push(Discarded {
                mount: index,
                input: input.clone(),
                building,
            }),
        }
        Ok(stack)
    }

    fn output(&mut self, number: usize, mount: usize, output: Output) {
        self.plan.outputs.push(PlannedOutput {
            number,
            mount,
            output,
        });
    }

    async fn cache(
        &mut self,
        index: usize,
        id: &str,
        sharing: CacheSharing,
    ) -> Result<(), Failure> {
        let op = self.op;
        let mount = &op.mounts[index];
        let base = mount.input.map(|_| self.input(mount));
        let key = cache_key(id, base.as_ref());
        let existing = self.plan.caches.iter().find(|cache| cache.key == key);
        let dir = if let Some(cache) = existing {
            cache.dir.clone()
        } else {
            let args = self.op.meta.args.join(" ");
            let description = format!("cached mount {} from exec {args}", mount.dest);
            let entered = tokio::select! {
                entered = self.ops.cache_mounts.enter(&key, sharing, &description) => entered?,
                () = self.caller.cancelled.cancelled() => return Err(Failure::cancelled()),
            };
            if let Some(base) = base.as_ref().filter(|_| entered.fresh) {
                fill(&entered, base, &clean(&mount.selector)).await?;
            }
            let dir = entered.dir.clone();
            self.plan.caches.push(entered);
            dir
        };
        if let Some(number) = mount.output {
            self.output(number, index, Output::Unchanged(base.unwrap_or_default()));
        }
        self.plan.views[index] = View::Layers(vec![dir.clone()], "/".to_owned());
        self.add(mount, MountSource::path(dir), Vec::new());
        Ok(())
    }

    async fn secret(&mut self, mount: &Mount, secret: &SecretMount) -> Result<(), Failure> {
        let Some(value) = secret_value(self.ops, self.caller, &secret.id, secret.optional).await?
        else {
            return Ok(());
        };
        let name = format!("secret-{}", self.plan.mounts.len());
        let owner = (secret.uid, secret.gid, secret.mode);
        let file = self.files.owned_file(&name, &value, owner)?;
        let mut attributes = vec![
            MountAttribute::ReadOnly,
            MountAttribute::NoDev,
            MountAttribute::NoSuid,
        ];
        if secret.mode & 0o111 == 0 {
            attributes.push(MountAttribute::NoExec);
        }
        self.add(mount, MountSource::path(file), attributes);
        Ok(())
    }

    async fn ssh(&mut self, mount: &Mount, ssh: &SecretMount) -> Result<(), Failure> {
        self.plan
            .ssh_socket
            .get_or_insert_with(|| clean(&mount.dest));
        let session = match self.agent(&ssh.id).await {
            Ok(session) => session,
            Err(_) if ssh.optional => return Ok(()),
            Err(failure) => {
                let message = format!("no SSH key {:?} forwarded from the client", ssh.id);
                return Err(Failure {
                    message: message.into(),
                    ..failure
                });
            }
        };
        let path = self
            .files
            .path(&format!("agent-{}", self.plan.mounts.len()));
        let owner = (ssh.uid, ssh.gid, ssh.mode);
        self.plan
            .agents
            .push(AgentSocket::bind(&path, owner, session, &ssh.id)?);
        self.add(
            mount,
            MountSource::path(path),
            vec![MountAttribute::ReadOnly],
        );
        Ok(())
    }
}

impl Planner<'_> {
    /// A client that offers an ssh agent of this id.
    async fn agent(&self, id: &str) -> Result<Arc<dyn Session>, Failure> {
        let mut last = Failure::new("no client offers an ssh agent");
        for session in self.ops.env.clients(&self.caller.sessions).await? {
            match session.secrets().check_agent(id).await {
                Ok(()) => return Ok(session),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }
}

/// A secret's value; `None` where the client has none and that is fine.
pub(super) async fn secret_value(
    ops: &OpsEnv,
    caller: &Caller,
    id: &str,
    optional: bool,
) -> Result<Option<Vec<u8>>, Failure> {
    let mut last = None;
    let clients = ops.env.clients(&caller.sessions).await;
    for session in clients.unwrap_or_default() {
        match session.secrets().secret(id).await {
            Ok(value) => return Ok(Some(value)),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Unsupported) => {}
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(Failure::from(error).context(format!("secret {id}"))),
        _ if optional => Ok(None),
        _ => Err(Failure::new(format!("secret {id}: not found"))),
    }
}

/// Copies what a cache mount starts from into its new directory.
async fn fill(cache: &CacheMountUse, base: &Snapshot, selector: &str) -> Result<(), Failure> {
    let (dir, selector) = (cache.dir.clone(), selector.to_owned());
    let base = base.clone();
    let copied = tokio::task::spawn_blocking(move || {
        let layers = base.layers().iter().filter_map(|layer| layer.path());
        crate::content::copy_out(layers, &selector, &dir)
    });
    copied.await.map_err(|e| Failure::from_error(&e))?
}
