//! Names of vertices in progress displays: `[linux/amd64->arm64 stage 2/5] RUN make`.

use super::Lowering;
use crate::platform::format_all;
use crate::shell::{Env, Shell};
use shipway_model::Platform;
use std::fmt::Write as _;

/// `code` with variables in place, its first word in upper case.
pub(super) fn shown(shell: Shell, code: &str, env: &dyn Env) -> String {
    let text = shell
        .expand(code, env)
        .map_or_else(|_| code.to_owned(), |expanded| expanded.text);
    let (name, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
    let upper = |c: char| c.is_ascii() && !c.is_ascii_lowercase();
    if name.chars().all(upper) {
        return text;
    }
    name.to_uppercase() + rest
}

/// The first line of a heredoc's body, with dots where there are more.
pub(super) fn summary(body: &str) -> String {
    let mut lines = body.trim().lines();
    let first = lines.next().unwrap_or_default().to_owned();
    if lines.next().is_some() {
        format!("{first}...")
    } else {
        first
    }
}

impl Lowering<'_> {
    /// The name of the stage's next step; images that are no stage have no steps.
    pub(super) fn next_step(
        &mut self,
        stage: usize,
        text: &str,
        platform: Option<&Platform>,
        env: &dyn Env,
    ) -> String {
        if self.stages[stage].steps == 0 {
            return text.to_owned();
        }
        self.stages[stage].step += 1;
        self.this_step(stage, text, platform, env)
    }

    /// The stage's platform where names show it.
    pub(super) fn shown_platform(&self, stage: usize) -> Option<Platform> {
        let platform = self.stages[stage].platform.as_ref();
        platform.filter(|_| self.options.multi_platform).cloned()
    }

    /// A name with the number of the step that was named last.
    pub(super) fn this_step(
        &self,
        stage: usize,
        text: &str,
        platform: Option<&Platform>,
        env: &dyn Env,
    ) -> String {
        let stage = &self.stages[stage];
        if stage.steps == 0 {
            return text.to_owned();
        }
        let mut name = String::from("[");
        if let Some(platform) = platform.filter(|_| self.options.multi_platform) {
            name.push_str(&format_all(platform));
            name.push_str(&cross_target(platform, env));
            name.push(' ');
        }
        if !stage.name.is_empty() {
            name.push_str(&stage.name);
            name.push(' ');
        }
        let (step, steps) = (stage.step, stage.steps);
        let width = steps.ilog10() as usize + 1;
        name.reserve(2 * width + "/] ONBUILD ".len() + text.len());
        // Writing to a text never fails.
        let _ = write!(name, "{step:width$}/{steps}] ");
        name.push_str(if stage.trigger { "ONBUILD " } else { "" });
        name.push_str(text);
        name
    }
}

/// `->arch` where the step's environment says that it compiles for something else.
fn cross_target(platform: &Platform, env: &dyn Env) -> String {
    let Some(mut target) = declared_target(env) else {
        return String::new();
    };
    if target.os.is_empty() {
        target.os.clone_from(&platform.os);
    }
    if target.architecture.is_empty() {
        target.architecture.clone_from(&platform.architecture);
    }
    let target = target.normalized();
    if target.os != platform.os {
        return format!("->{}", format_all(&target));
    }
    if target.architecture == platform.architecture {
        return String::new();
    }
    let variant = if target.variant.is_empty() { "" } else { "/" };
    format!("->{}{variant}{}", target.architecture, target.variant)
}

/// The platform that `TARGET*` variables name.
fn declared_target(env: &dyn Env) -> Option<Platform> {
    let mut target = Platform::default();
    let mut declared = false;
    for name in env.names() {
        let value = env.get(name).unwrap_or_default();
        let field = match name {
            "TARGETPLATFORM" => match crate::platform::parse(value) {
                Ok(platform) => return Some(platform),
                Err(_) => continue,
            },
            "TARGETOS" => &mut target.os,
            "TARGETARCH" => &mut target.architecture,
            "TARGETVARIANT" => &mut target.variant,
            _ => continue,
        };
        value.clone_into(field);
        declared = true;
    }
    declared.then_some(target)
}
