//! `RUN --mount`: binds, caches, memory, secrets and agent sockets become mounts of the process.

use super::dispatch::Step;
use super::outline::Need;
use super::stages::{Progress, SCRATCH};
use super::{Lowering, paths};
use crate::error::{Error, InstructionError, StageError};
use crate::syntax::{Mount, MountType, Run, Sharing};
use shipway_llb::VertexOptions;
use shipway_llb::build::{
    self, BindMount, FileActions, MkDir, Owner, RunMount, Secret, SshSocket, State, clean,
};
use shipway_model::op::CacheSharing;

/// What the mounts of one RUN come to.
#[derive(Default)]
pub(super) struct Mounts {
    files: Vec<(String, RunMount)>,
    secrets: Vec<Secret>,
    sockets: Vec<SshSocket>,
}

impl Mounts {
    pub(super) fn add_to(self, process: &mut build::Run) {
        process.mounts.extend(self.files);
        process.secrets.extend(self.secrets);
        process.ssh.extend(self.sockets);
    }
}

impl Lowering<'_> {
    pub(super) fn mounts(&mut self, step: &Step<'_>, run: &Run) -> Result<Mounts, Error> {
        let mut mounts = Mounts::default();
        let mut expanded = Vec::with_capacity(run.mounts.len());
        for spec in &run.mounts {
            expanded.push(spec.expand(&mut |value| self.expand(step, value))?);
        }
        for (place, mount) in expanded.into_iter().enumerate() {
            // A cache without base is its own.
            let from_nothing = mount.from.is_empty() && mount.kind == MountType::Cache;
            let from = if from_nothing { SCRATCH } else { &mount.from };
            let source = (!from.is_empty()).then(|| step.sources[place]);
            if let Some(source) = source
                && self.stages[source].progress != Progress::Dispatched
            {
                let (from, target) = (from.to_owned(), mount.target.clone());
                return Err(StageError::MountFrom { from, target }.into());
            }
            match mount.kind {
                MountType::Secret => mounts.secrets.push(self.secret(step, mount)?),
                MountType::Ssh => mounts.sockets.push(self.socket(step, mount)?),
                MountType::Bind | MountType::Cache | MountType::Tmpfs => {
                    mounts.files.push(self.files(step, source, &mount)?);
                }
            }
        }
        Ok(mounts)
    }

    /// A mount of files, with its target.
    fn files(
        &mut self,
        step: &Step<'_>,
        source: Option<usize>,
        mount: &Mount,
    ) -> Result<(String, RunMount), Error> {
        let state = match source {
            Some(source) => self.stages[source].state.clone(),
            None => self.context.clone(),
        };
        let target = self.mount_target(step.stage, mount)?;
        let path = clean(&format!("/{}", mount.source));
        let whole = path == "/";
        let owned = mount.uid.is_some() || mount.gid.is_some() || mount.mode.is_some();
        let (state, selector) = match (whole, owned) {
            (false, _) => (state, path.clone()),
            (true, true) => (self.owned_cache(&state, mount), "/cache".to_owned()),
            (true, false) => (state, String::new()),
        };
        match source {
            Some(source) => {
                let used = self.stages[source].used;
                self.used_paths[used].insert(path);
            }
            None => {
                self.stages[step.stage].context_paths.insert(path);
            }
        }
        Ok((target, self.files_mount(mount, state, selector)))
    }

    fn files_mount(&self, mount: &Mount, state: State, source: String) -> RunMount {
        let readonly = mount.readonly;
        match mount.kind {
            MountType::Cache => {
                let id = match mount.id.as_str() {
                    "" => clean(&mount.target),
                    id => id.to_owned(),
                };
                let sharing = match mount.sharing {
                    None | Some(Sharing::Shared) => CacheSharing::Shared,
                    Some(Sharing::Private) => CacheSharing::Private,
                    Some(Sharing::Locked) => CacheSharing::Locked,
                };
                let id = format!("{}/{id}", self.options.cache_namespace);
                RunMount::Cache {
                    id,
                    sharing,
                    state,
                    source,
                    readonly,
                }
            }
            MountType::Tmpfs => RunMount::Tmpfs {
                size: mount.size,
                source,
                readonly,
            },
            MountType::Bind | MountType::Secret | MountType::Ssh => RunMount::Bind(BindMount {
                state,
                source,
                readonly,
                discard: true,
                ..BindMount::default()
            }),
        }
    }

    /// Relative targets start at the working directory.
    fn mount_target(&self, stage: usize, mount: &Mount) -> Result<String, Error> {
        let mut target = mount.target.clone();
        if !paths::is_absolute(&clean(&target), "linux") {
            let dir = self.stages[stage].state.directory();
            target = clean(&format!("/{dir}/{target}"));
        }
        if target == "/" {
            return Err(InstructionError::MountTarget(target).into());
        }
        Ok(target)
    }

    /// A cache that starts as a directory of that owner and mode.
    fn owned_cache(&mut self, state: &State, mount: &Mount) -> State {
        let owner = Owner::numeric(mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        let make = MkDir {
            path: "/cache".into(),
            mode: mount.mode.unwrap_or(0o755),
            owner: Some(owner),
            ..MkDir::default()
        };
        let name = "[internal] setting cache mount permissions";
        let actions = FileActions::new().mkdir(make);
        self.graph.file(state, actions, VertexOptions::named(name))
    }

    fn secret(&mut self, step: &Step<'_>, mount: Mount) -> Result<Secret, Error> {
        let os = self.stages[step.stage]
            .platform
            .as_ref()
            .map_or("", |p| p.os.as_str());
        let windows = os == "windows";
        let mut target = mount.target;
        if windows {
            target = target.replace('\\', "/");
        }
        let id = if mount.source.is_empty() {
            mount.id
        } else {
            mount.source
        };
        let id = match (id.as_str(), target.as_str()) {
            ("", "") => return Err(InstructionError::SecretName.into()),
            ("", target) => base_name(target).to_owned(),
            _ => id,
        };
        if windows && !target.is_empty() && !paths::is_absolute(&target, os) {
            let text = "secret target must be an absolute path with forward slashes on Windows";
            return Err(InstructionError::WindowsPath(text).into());
        }
        if target.is_empty() && mount.env.is_none() {
            if windows {
                let text = "secret target is required on Windows";
                return Err(InstructionError::WindowsPath(text).into());
            }
            target = format!("/run/secrets/{}", base_name(&id));
        }
        let need = Need {
            required: mount.required,
            lines: step.instruction.lines,
        };
        self.stages[step.stage]
            .outline
            .secrets
            .entry(id.clone())
            .or_insert(need);
        Ok(Secret {
            id,
            target: (!target.is_empty()).then_some(target),
            env: mount.env,
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
            mode: mount.mode.unwrap_or(0o400),
            optional: !mount.required,
        })
    }

    fn socket(&mut self, step: &Step<'_>, mount: Mount) -> Result<SshSocket, Error> {
        if !mount.source.is_empty() {
            return Err(InstructionError::SshSource.into());
        }
        let shown = if mount.id.is_empty() {
            "default"
        } else {
            &mount.id
        };
        let need = Need {
            required: mount.required,
            lines: step.instruction.lines,
        };
        self.stages[step.stage]
            .outline
            .ssh
            .entry(shown.to_owned())
            .or_insert(need);
        Ok(SshSocket {
            id: mount.id,
            target: mount.target,
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
            mode: mount.mode.unwrap_or(0o600),
            optional: !mount.required,
        })
    }
}

/// The last element of a path.
pub(super) fn base_name(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    trimmed
        .rsplit('/')
        .next()
        .filter(|name| !name.is_empty())
        .unwrap_or("/")
}
