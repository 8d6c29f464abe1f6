//! What a build takes: arguments, secrets and sockets, each with where it is declared. Noted while instructions are
//! applied; printing it is `subrequest`'s.

use super::Lowering;
use crate::span::Lines;
use std::collections::{BTreeMap, BTreeSet};

/// What a stage declares and uses.
#[derive(Debug, Clone, Default)]
pub(super) struct Capture {
    pub(super) args: BTreeMap<String, ArgInfo>,
    pub(super) used: BTreeSet<String>,
    pub(super) secrets: BTreeMap<String, Need>,
    pub(super) ssh: BTreeMap<String, Need>,
}

/// An argument with its value.
#[derive(Debug, Clone)]
pub(super) struct ArgInfo {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) doc: String,
    pub(super) lines: Lines,
    /// Arguments that its default uses.
    pub(super) deps: BTreeSet<String>,
}

/// A secret or a socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    pub(super) required: bool,
    pub(super) lines: Lines,
}

/// What a target takes, in order of lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// Name of the target; empty for none.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Arguments.
    pub args: Vec<OutlineArg>,
    /// Secrets.
    pub secrets: Vec<OutlineItem>,
    /// Agent sockets.
    pub ssh: Vec<OutlineItem>,
}

/// An argument of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// Its value without build arguments, or the one given.
    pub value: String,
    /// Its description.
    pub description: String,
    /// Where it is declared.
    pub lines: Lines,
}

/// A secret or a socket of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineItem {
    /// Its id.
    pub name: String,
    /// The build fails without it.
    pub required: bool,
    /// Where it is used first.
    pub lines: Lines,
}

impl Capture {
    /// Names that are used, directly or by the defaults of others. What the stage does not declare is in `global`.
    fn all_used<'a>(&'a self, global: &'a Self) -> BTreeSet<&'a str> {
        let mut used = BTreeSet::new();
        let mut open: Vec<&str> = self.used.iter().map(String::as_str).collect();
        while let Some(name) = open.pop() {
            if used.insert(name)
                && let Some(info) = self.arg(name, global)
            {
                open.extend(info.deps.iter().map(String::as_str));
            }
        }
        used
    }

    fn arg<'a>(&'a self, name: &str, global: &'a Self) -> Option<&'a ArgInfo> {
        self.args.get(name).or_else(|| global.args.get(name))
    }
}

impl Lowering<'_> {
    pub(super) fn outline(&self, target: usize) -> Outline {
        let mut args: BTreeMap<&str, &ArgInfo> = BTreeMap::new();
        let mut secrets: BTreeMap<&str, Need> = BTreeMap::new();
        let mut ssh: BTreeMap<&str, Need> = BTreeMap::new();
        for stage in self.in_depth(target) {
            let outline = &self.stages[stage].outline;
            let used = outline.all_used(&self.outline).into_iter();
            for info in used.filter_map(|name| outline.arg(name, &self.outline)) {
                args.entry(&info.name).or_insert(info);
            }
            for (name, need) in &outline.secrets {
                secrets.entry(name).or_insert(*need);
            }
            for (name, need) in &outline.ssh {
                ssh.entry(name).or_insert(*need);
            }
        }
        let mut args: Vec<OutlineArg> = args
            .into_values()
            .map(|info| OutlineArg {
                name: info.name.clone(),
                value: info.value.clone(),
                description: info.doc.clone(),
                lines: info.lines,
            })
            .collect();
        args.sort_by_key(|arg| arg.lines.first);
        let stage = &self.stages[target];
        Outline {
            name: stage.alias.clone(),
            description: stage.doc.clone(),
            args,
            secrets: items(secrets),
            ssh: items(ssh),
        }
    }

    /// The target, its base, then what it takes files from; each once.
    fn in_depth(&self, target: usize) -> Vec<usize> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![target];
        while let Some(stage) = open.pop() {
            if !seen.insert(stage) {
                continue;
            }
            order.push(stage);
            let stage = &self.stages[stage];
            open.extend(stage.deps.iter().rev().map(|&(dep, _)| dep));
            open.extend(stage.base);
        }
        order
    }
}

fn items(needs: BTreeMap<&str, Need>) -> Vec<OutlineItem> {
    let item = |(name, need): (&str, Need)| OutlineItem {
        name: name.to_owned(),
        required: need.required,
        lines: need.lines,
    };
    let mut items: Vec<OutlineItem> = needs.into_iter().map(item).collect();
    items.sort_by_key(|item| item.lines.first);
    items
}
