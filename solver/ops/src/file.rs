//! The file operation: a chain of changes, written straight into one new layer over its input's layers.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use shipway_engine::{CacheMap, OpContext, Operation, VertexInfo};
use shipway_layers::{Building, Layers, Snapshot};
use shipway_model::op::{ChownOpt, FileAction, FileActionKind, FileOp, UserOpt};
use shipway_model::{Failure, Vertex};
use shipway_tree::compose::NewDir;
use shipway_tree::{Composer, Origin, Owner, Stack, Time};

use crate::content::{ContentInput, Selector, Unlazy, file_content_dep, selector_digest, tree_of};
use crate::exec::Marshalled;
use crate::exec::failed::{FailedOp, FailedStep, KeptResult};
use crate::graph::OpsEnv;

/// Changes of files as an operation.
pub(crate) struct FileOperation {
    info: VertexInfo,
    ops: Arc<OpsEnv>,
    op: FileOp,
    inputs: usize,
    marshalled: Marshalled,
}

impl FileOperation {
    pub(crate) fn new(info: VertexInfo, ops: Arc<OpsEnv>, op: FileOp, vertex: &Vertex) -> Self {
        Self {
            info,
            ops,
            op,
            inputs: vertex.inputs.len(),
            marshalled: Marshalled::of(vertex),
        }
    }
}

/// Text to show for changes that have no name.
pub(crate) fn describe(op: &FileOp) -> String {
    let each = op.actions.iter().map(|action| match &action.kind {
        FileActionKind::Copy(copy) => format!("copy {} {}", copy.src, copy.dest),
        FileActionKind::MkFile { path, .. } => format!("mkfile {path}"),
        FileActionKind::MkDir { path, .. } => format!("mkdir {path}"),
        FileActionKind::Rm { path, .. } => format!("rm {path}"),
        FileActionKind::Symlink {
            oldpath, newpath, ..
        } => format!("symlink {oldpath} {newpath}"),
    });
    each.collect::<Vec<_>>().join(", ")
}

fn owner_of(action: &FileAction) -> Option<&ChownOpt> {
    match &action.kind {
        FileActionKind::Copy(copy) => copy.owner.as_ref(),
        FileActionKind::MkFile { owner, .. }
        | FileActionKind::MkDir { owner, .. }
        | FileActionKind::Symlink { owner, .. } => owner.as_ref(),
        FileActionKind::Rm { .. } => None,
    }
}

/// What of each input is seen: sources of copies, and user databases. An input that is changed is never seen by content.
fn selectors(op: &FileOp, inputs: usize) -> HashMap<usize, Vec<Selector>> {
    let mut seen: HashMap<usize, Vec<Selector>> = HashMap::new();
    for action in &op.actions {
        let owner = owner_of(action);
        let named = owner
            .into_iter()
            .flat_map(|o| [(&o.user, "/etc/passwd"), (&o.group, "/etc/group")]);
        for (user, file) in named {
            if let Some(UserOpt::ByName {
                input: Some(input), ..
            }) = user
                && *input < inputs
            {
                seen.entry(*input).or_default().push(Selector::follow(file));
            }
        }
        if let (FileActionKind::Copy(copy), Some(input)) = (&action.kind, action.secondary_input)
            && input < inputs
        {
            seen.entry(input).or_default().push(Selector::of_copy(copy));
        }
    }
    for changed in op.actions.iter().filter_map(|action| action.input) {
        seen.remove(&changed);
    }
    seen
}

#[async_trait]
impl Operation<Snapshot> for FileOperation {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, _ctx: &OpContext) -> Result<CacheMap<Snapshot>, Failure> {
        let key = shipway_cache::key::file(&self.op, self.inputs);
        let mut map = CacheMap::new(key, self.inputs);
        for (input, selectors) in selectors(&self.op, self.inputs) {
            let mut paths: Vec<&str> = selectors.iter().map(Selector::path).collect();
            // Reverse order, as BuildKit has it.
            paths.sort_unstable_by(|a, b| b.cmp(a));
            map.deps[input].selector = Some(selector_digest(paths.into_iter()));
            let of = ContentInput {
                env: &self.ops.env,
                vertex: &self.marshalled,
                input,
            };
            map.deps[input].content = Some(file_content_dep(of, selectors));
        }
        for dep in &mut map.deps {
            dep.prepare = Some(Arc::new(Unlazy(Arc::clone(&self.ops.env))));
        }
        Ok(map)
    }

    async fn execute(
        &self,
        ctx: &OpContext,
        inputs: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, Failure> {
        let need = self.ops.env.need(ctx).await?;
        for input in &inputs {
            input.materialise(&self.ops.env.layers, &need).await?;
        }
        let work = Work {
            layers: self.ops.env.layers.clone(),
            name: Arc::clone(&self.info.name),
            op: self.op.clone(),
            results: inputs.into_iter().map(State::Done).collect(),
            marshalled: self.marshalled.clone(),
        };
        let done = tokio::task::spawn_blocking(move || work.run());
        let outputs = done.await.map_err(|e| Failure::from_error(&e))??;
        self.ops
            .eager
            .committed(&self.info.digest, &outputs, &self.ops.env, &need);
        Ok(outputs)
    }
}

/// One run of a file operation.
struct Work {
    layers: Layers,
    name: Arc<str>,
    op: FileOp,
    /// Inputs, then one result per action.
    results: Vec<State>,
    marshalled: Marshalled,
}

/// A result while the operation runs.
enum State {
    /// Committed.
    Done(Snapshot),
    /// Being written; boxed since few are.
    Open(Box<Open>),
    /// Went on in a later action's result.
    Moved,
}

struct Open {
    base: Snapshot,
    building: Building,
    composer: Composer,
}

impl Work {
    fn run(mut self) -> Result<Vec<Snapshot>, Failure> {
        let actions = std::mem::take(&mut self.op.actions);
        let inputs = self.results.len();
        for (number, action) in actions.iter().enumerate() {
            let mut open = self.begin(action, &actions, number)?;
            let applied = self.apply(&mut open, action);
            self.results.push(State::Open(Box::new(open)));
            if let Err(failure) = applied {
                return Err(self.failed(failure, inputs));
            }
        }
        let mut outputs: Vec<(usize, Snapshot)> = Vec::new();
        for (number, action) in actions.iter().enumerate() {
            if let Some(output) = action.output {
                outputs.push((output, self.settle(inputs + number)?));
            }
        }
        outputs.sort_by_key(|(output, _)| *output);
        Ok(outputs.into_iter().map(|(_, snapshot)| snapshot).collect())
    }

    /// The failure of the last action together with what all have left, for debuggers.
    fn failed(mut self, failure: Failure, inputs: usize) -> Failure {
        let last = self.results.len() - 1;
        let left = (0..=last).map(|index| match self.results[index] {
            // It went on in the failed one's.
            State::Moved => self.settle(last),
            State::Done(_) | State::Open(_) => self.settle(index),
        });
        let mut left = match left.collect::<Result<Vec<_>, _>>() {
            Ok(left) => left.into_iter().map(KeptResult::new).map(Some),
            Err(error) => {
                tracing::warn!(%error, "what a failed change of files wrote is lost");
                return failure;
            }
        };
        let step = FailedStep {
            op: FailedOp::File {
                action: last - inputs,
            },
            inputs: left.by_ref().take(inputs).collect(),
            mounts: left.collect(),
        };
        failure.with(step.detail(&self.marshalled))
    }

    /// The layer that an action writes: its input's own, where nobody else wants that, else a new one.
    fn begin(
        &mut self,
        action: &FileAction,
        all: &[FileAction],
        number: usize,
    ) -> Result<Open, Failure> {
        let base = match action.input {
            None => Snapshot::default(),
            Some(input) => {
                let wanted_again = all[number..].iter().enumerate().any(|(later, other)| {
                    (later > 0 && other.input == Some(input))
                        || other.secondary_input == Some(input)
                });
                let inputs = self.results.len() - number;
                let is_output = input >= inputs && all[input - inputs].output.is_some();
                if !wanted_again
                    && !is_output
                    && matches!(self.results[input], State::Open(_))
                    && let State::Open(open) =
                        std::mem::replace(&mut self.results[input], State::Moved)
                {
                    return Ok(*open);
                }
                self.settle(input)?
            }
        };
        let building = self.layers.begin()?;
        let lower = tree_of(&base)?;
        let composer =
            Composer::open(building.fs(), &lower).map_err(|e| Failure::from_error(&e))?;
        Ok(Open {
            base,
            building,
            composer,
        })
    }

    /// A result as a snapshot, committed now where it was open.
    fn settle(&mut self, index: usize) -> Result<Snapshot, Failure> {
        let snapshot = match std::mem::replace(&mut self.results[index], State::Moved) {
            State::Done(snapshot) => snapshot,
            State::Open(open) => {
                let Open {
                    base,
                    building,
                    composer,
                } = *open;
                drop(composer);
                base.with(building.finish(&self.name, Timestamp::now())?)
            }
            State::Moved => {
                return Err(Failure::new(
                    "an action's result is used after it was changed",
                ));
            }
        };
        self.results[index] = State::Done(snapshot.clone());
        Ok(snapshot)
    }

    fn apply(&mut self, open: &mut Open, action: &FileAction) -> Result<(), Failure> {
        let owner = self.owner(open, action)?;
        let done = match &action.kind {
            FileActionKind::Copy(copy) => {
                let tree = match action.secondary_input {
                    Some(input) => tree_of(&self.settle(input)?)?,
                    None => Stack::default(),
                };
                let origin = Origin {
                    tree,
                    linkable: true,
                };
                open.composer.copy(&origin, copy, owner)
            }
            FileActionKind::MkFile {
                path,
                mode,
                data,
                timestamp,
                ..
            } => open
                .composer
                .mkfile(path, data, &new_entry(*mode, owner, *timestamp)),
            FileActionKind::MkDir {
                path,
                mode,
                make_parents,
                timestamp,
                ..
            } => open
                .composer
                .mkdir(path, *make_parents, &new_entry(*mode, owner, *timestamp)),
            FileActionKind::Rm {
                path,
                allow_not_found,
                allow_wildcard,
            } => open.composer.rm(path, *allow_not_found, *allow_wildcard),
            FileActionKind::Symlink {
                oldpath,
                newpath,
                timestamp,
                ..
            } => {
                let owner = owner.unwrap_or_default();
                open.composer
                    .symlink(oldpath, newpath, owner, time(*timestamp))
            }
        };
        done.map_err(|e| Failure::from_error(&e))
    }

    fn owner(&mut self, open: &Open, action: &FileAction) -> Result<Option<Owner>, Failure> {
        let Some(wanted) = owner_of(action) else {
            return Ok(None);
        };
        let mut trees = HashMap::new();
        for user in [&wanted.user, &wanted.group].into_iter().flatten() {
            if let UserOpt::ByName {
                input: Some(input), ..
            } = user
            {
                let tree = if action.input == Some(*input) {
                    open.composer.view().clone()
                } else {
                    tree_of(&self.settle(*input)?)?
                };
                trees.insert(*input, tree);
            }
        }
        let tree = |input: Option<usize>| match input.and_then(|i| trees.get(&i)) {
            Some(tree) => Ok(tree.clone()),
            None => Ok(Stack::default()),
        };
        shipway_tree::users::owner(wanted, tree)
            .map(Some)
            .map_err(|e| Failure::from_error(&e))
    }
}

fn time(nanos: i64) -> Option<Time> {
    (nanos != -1).then(|| Time::from_nanos(nanos))
}

fn new_entry(mode: i32, owner: Option<Owner>, timestamp: i64) -> NewDir {
    let mode = u32::try_from(mode).unwrap_or(0o644);
    NewDir {
        mode,
        owner: owner.unwrap_or_default(),
        mtime: time(timestamp),
    }
}

#[cfg(test)]
mod tests {
    use shipway_model::op::FileCopy;

    use super::*;

    fn copy(input: Option<usize>, secondary: usize) -> FileAction {
        let copy = FileCopy {
            src: "/a".into(),
            dest: "/b".into(),
            owner: None,
            mode: -1,
            mode_str: String::new(),
            follow_symlink: true,
            dir_copy_contents: true,
            attempt_unpack: false,
            create_dest_path: true,
            allow_wildcard: true,
            allow_empty_wildcard: true,
            timestamp: -1,
            include_patterns: vec![],
            exclude_patterns: vec![],
            always_replace: false,
            required_paths: vec![],
        };
        FileAction {
            input,
            secondary_input: Some(secondary),
            output: Some(0),
            kind: FileActionKind::Copy(copy),
        }
    }

    #[test]
    fn the_destination_is_never_seen_by_content() {
        let op = FileOp {
            actions: vec![copy(Some(0), 1)],
        };
        let seen = selectors(&op, 2);
        assert!(seen.contains_key(&1) && !seen.contains_key(&0));
        let onto_itself = FileOp {
            actions: vec![copy(Some(0), 0)],
        };
        assert!(selectors(&onto_itself, 1).is_empty());
    }
}
