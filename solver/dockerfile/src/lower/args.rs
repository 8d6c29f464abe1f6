//! Arguments: the predefined ones, those before the first FROM, and proxies. Stage arguments are `meta`'s.

use super::Lowering;
use super::outline::ArgInfo;
use crate::error::Error;
use crate::options::OptionMap;
use crate::platform::{format, format_all};
use crate::syntax::Dockerfile;
use shipway_llb::build::Vars;
use shipway_model::Platform;
use shipway_model::op::ProxyEnv;
use std::collections::{BTreeMap, BTreeSet};

/// The arguments that exist without being declared by a build argument: what the build runs on and for.
pub(super) fn predefined(
    build: &Platform,
    target: &Platform,
    stage: &str,
    given: &OptionMap,
) -> Vars {
    let stage = if stage.is_empty() { "default" } else { stage };
    let values = [
        ("BUILDPLATFORM", format(build)),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", build.os_version.clone()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", build.variant.clone()),
        ("TARGETPLATFORM", format_all(target)),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", target.os_version.clone()),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", target.variant.clone()),
        ("TARGETSTAGE", stage.to_owned()),
    ];
    let chosen = values.into_iter().map(|(name, value)| {
        let value = given.get(name).cloned().unwrap_or(value);
        (name.to_owned(), value)
    });
    chosen.collect()
}

/// Proxy settings among the build arguments, in any case; the last spelling in order wins.
pub(super) fn proxy(args: &OptionMap) -> Option<ProxyEnv> {
    let mut proxy = ProxyEnv::default();
    let mut found = false;
    for (name, value) in args {
        let field = match name.to_ascii_lowercase().as_str() {
            "http_proxy" => &mut proxy.http_proxy,
            "https_proxy" => &mut proxy.https_proxy,
            "ftp_proxy" => &mut proxy.ftp_proxy,
            "no_proxy" => &mut proxy.no_proxy,
            "all_proxy" => &mut proxy.all_proxy,
            _ => continue,
        };
        value.clone_into(field);
        found = true;
    }
    found.then_some(proxy)
}

/// What a default needs: a name that it replaces counts as what that needed itself.
fn dependencies(
    mut matched: BTreeSet<String>,
    key: &str,
    infos: &BTreeMap<String, ArgInfo>,
) -> BTreeSet<String> {
    if matched.remove(key)
        && let Some(before) = infos.get(key)
    {
        matched.extend(before.deps.iter().cloned());
    }
    matched
}

impl Lowering<'_> {
    /// Evaluates the arguments before the first FROM, first as if no build argument were given: checks want defaults
    /// that work by themselves.
    pub(super) fn global_args(&mut self, file: &Dockerfile, target: &str) -> Result<(), Error> {
        let build = &self.options.build_platform;
        let start = predefined(build, &self.platform, target, &self.build_args);
        if let Ok((defaults, _)) = self.evaluate(file, start.clone(), &OptionMap::new()) {
            super::checks::default_bases(file, self.shell, &defaults, &self.lint);
        }
        let (args, infos) = self.evaluate(file, start, &self.build_args)?;
        self.global_args = args;
        self.outline.args = infos;
        Ok(())
    }

    fn evaluate(
        &self,
        file: &Dockerfile,
        mut vars: Vars,
        given: &OptionMap,
    ) -> Result<(Vars, BTreeMap<String, ArgInfo>), Error> {
        let mut infos: BTreeMap<String, ArgInfo> = BTreeMap::new();
        for arg in &file.global_args {
            let key = &arg.def.key;
            let mut deps = BTreeSet::new();
            let value = match (given.get(key), &arg.def.value) {
                (Some(value), _) => Some(value.clone()),
                (None, None) => None,
                (None, Some(default)) => {
                    let expanded = self.shell.expand(default, &vars);
                    let expanded = expanded.map_err(|error| Error::at(arg.lines, error))?;
                    deps = dependencies(expanded.matched, key, &infos);
                    Some(expanded.text)
                }
            };
            if let Some(value) = &value {
                vars.set(key, value);
            }
            let info = ArgInfo {
                name: key.clone(),
                value: value.unwrap_or_default(),
                doc: arg.def.doc.clone(),
                lines: arg.lines,
                deps,
            };
            infos.insert(key.clone(), info);
        }
        Ok((vars, infos))
    }
}
