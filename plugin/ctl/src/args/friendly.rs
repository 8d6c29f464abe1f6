//! The flags of `shipway build`, translated into those of `buildctl build`. Adds nothing that the latter can't do.

use std::path::{Path, PathBuf};

use clap::Args;

use super::build::{BuildFlags, DisplayFlags};
use crate::build::plan::OnError;
use crate::error::Error;
use crate::progress::Mode;

/// The flags of `shipway build`.
#[derive(Debug, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "one per flag")]
pub struct FriendlyFlags {
    /// Name of the image, e.g. app:latest
    #[arg(long, short = 't')]
    pub tag: Vec<String>,
    /// Dockerfile; PATH/Dockerfile if not given
    #[arg(long, short = 'f')]
    pub file: Option<PathBuf>,
    /// Stage to build
    #[arg(long)]
    pub target: Option<String>,
    /// Build argument NAME=VALUE, or NAME from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// Label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Platform to build for, e.g. linux/arm64
    #[arg(long)]
    pub platform: Vec<String>,
    /// Additional context NAME=DIR, NAME=docker-image://REF or NAME=URL
    #[arg(long, value_name = "NAME=SOURCE")]
    pub build_context: Vec<String>,
    /// Secret for RUN --mount=type=secret: id=NAME[,src=FILE|,env=VAR]
    #[arg(long)]
    pub secret: Vec<String>,
    /// SSH agent for RUN --mount=type=ssh: `default|<id>[=<socket>]`
    #[arg(long)]
    pub ssh: Vec<String>,
    /// Allow extra privileged entitlement, e.g. network.host, security.insecure
    #[arg(long)]
    pub allow: Vec<String>,
    /// Do not use the cache
    #[arg(long)]
    pub no_cache: bool,
    /// Always look for newer base images
    #[arg(long)]
    pub pull: bool,
    /// Push the image to its registry
    #[arg(long)]
    pub push: bool,
    /// Where the result goes: DIR, or e.g. type=oci,dest=FILE
    #[arg(long, short = 'o')]
    pub output: Vec<String>,
    /// Cache to import, e.g. type=registry,ref=REF
    #[arg(long)]
    pub cache_from: Vec<String>,
    /// Cache to export, e.g. type=registry,ref=REF,mode=max
    #[arg(long)]
    pub cache_to: Vec<String>,
    /// When a step fails: stop, open a shell in its filesystem (progress is plain then), or keep that as an image and
    /// print how to start it
    #[arg(long, value_enum, default_value = "stop")]
    pub on_error: OnError,
    /// How to show what happens.
    #[command(flatten)]
    pub display: DisplayFlags,
    /// Directory to build from
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
}

impl FriendlyFlags {
    /// The same wishes as `buildctl build` has them.
    ///
    /// # Errors
    /// Names the flag that can't be used and why.
    pub fn into_build_flags(self) -> Result<BuildFlags, Error> {
        let (dir, name) = dockerfile(&self.path, self.file.as_deref())?;
        let mut flags = BuildFlags {
            frontend: Some("dockerfile.v0".to_owned()),
            opt: vec![format!("filename={name}")],
            local: vec![
                format!("context={}", self.path.display()),
                format!("dockerfile={dir}"),
            ],
            ..BuildFlags::default()
        };
        flags
            .opt
            .extend(self.target.iter().map(|target| format!("target={target}")));
        flags
            .opt
            .extend(self.build_arg.iter().map(|arg| format!("build-arg:{arg}")));
        flags
            .opt
            .extend(self.label.iter().map(|label| format!("label:{label}")));
        if !self.platform.is_empty() {
            flags
                .opt
                .push(format!("platform={}", self.platform.join(",")));
        }
        if self.pull {
            flags.opt.push("image-resolve-mode=pull".to_owned());
        }
        for context in &self.build_context {
            add_context(&mut flags, context)?;
        }
        flags.output = self.outputs()?;
        flags.no_cache = self.no_cache;
        flags.secret = self.secret;
        flags.ssh = self.ssh;
        flags.allow = self.allow;
        flags.import_cache = self.cache_from;
        flags.export_cache = self.cache_to;
        flags.display = self.display;
        flags.on_error = self.on_error;
        if self.on_error == OnError::Shell {
            flags.display.progress = match flags.display.progress {
                // A list that is repainted and a shell can't share a terminal.
                Mode::Auto => Mode::Plain,
                Mode::Tty => {
                    return Err(Error::flag("--on-error", "a shell needs --progress=plain"));
                }
                other => other,
            };
        }
        Ok(flags)
    }

    fn outputs(&self) -> Result<Vec<String>, Error> {
        if self.output.is_empty() {
            let name = if self.tag.is_empty() {
                "dangling-name-prefix=<none>".to_owned()
            } else {
                quote(
                    "name",
                    &self
                        .tag
                        .iter()
                        .map(|tag| familiar(tag))
                        .collect::<Vec<_>>()
                        .join(","),
                )
            };
            let push = if self.push { ",push=true" } else { "" };
            return Ok(vec![format!("type=image,unpack=true,{name}{push}")]);
        }
        if self.push {
            return Err(Error::flag(
                "--push",
                "can't be combined with --output; use push=true there",
            ));
        }
        Ok(self
            .output
            .iter()
            .map(|output| self.output(output))
            .collect())
    }

    /// A plain directory is a local export, `-` a tar on standard output; names are added where an image is made.
    fn output(&self, text: &str) -> String {
        let is_image = ["type=image", "type=docker", "type=oci"]
            .iter()
            .any(|t| text.contains(t));
        match text {
            "-" => "type=tar,dest=-".to_owned(),
            dir if !dir.contains("type=") => format!("type=local,{}", quote("dest", dir)),
            image if is_image && !image.contains("name=") && !self.tag.is_empty() => {
                let names: Vec<_> = self.tag.iter().map(|tag| familiar(tag)).collect();
                format!("{image},{}", quote("name", &names.join(",")))
            }
            other => other.to_owned(),
        }
    }
}

fn quote(key: &str, value: &str) -> String {
    format!("\"{key}={}\"", value.replace('"', "\"\""))
}

/// The full name of an image: registry, repository and tag, as runtimes look it up.
fn familiar(name: &str) -> String {
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let named = first.contains(['.', ':']) || first == "localhost";
    let full = match (named, first.is_empty()) {
        (true, _) => name.to_owned(),
        (false, true) => format!("docker.io/library/{rest}"),
        (false, false) => format!("docker.io/{name}"),
    };
    let last = full.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) {
        full
    } else {
        format!("{full}:latest")
    }
}

fn dockerfile(context: &Path, file: Option<&Path>) -> Result<(String, String), Error> {
    let default = context.join("Dockerfile");
    let file = file.unwrap_or(&default);
    let dir = match file.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => {
            return Err(Error::flag(
                "--file",
                format!("{} is no file", file.display()),
            ));
        }
    };
    let name = file.file_name().unwrap_or_default();
    Ok((
        dir.display().to_string(),
        name.to_string_lossy().into_owned(),
    ))
}

fn add_context(flags: &mut BuildFlags, text: &str) -> Result<(), Error> {
    let Some((name, source)) = text.split_once('=') else {
        return Err(Error::flag(
            "--build-context",
            format!("{text:?}, expected NAME=SOURCE"),
        ));
    };
    if source.contains("://") || source.starts_with("target:") {
        flags.opt.push(format!("context:{name}={source}"));
    } else {
        flags.opt.push(format!("context:{name}=local:{name}"));
        flags.local.push(format!("{name}={source}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_runtimes_look_them_up() {
        for (name, full) in [
            ("app", "docker.io/library/app:latest"),
            ("me/app:1", "docker.io/me/app:1"),
            ("localhost/app", "localhost/app:latest"),
            ("r.example:5000/a/b", "r.example:5000/a/b:latest"),
        ] {
            assert_eq!(familiar(name), full);
        }
    }

    #[test]
    fn a_directory_and_a_tag_are_enough() {
        let flags = FriendlyFlags {
            tag: vec!["app".into()],
            path: "dir".into(),
            build_context: vec!["x=docker-image://y".into(), "z=.".into()],
            ..Default::default()
        };
        let flags = flags.into_build_flags().unwrap();
        assert_eq!(flags.frontend.as_deref(), Some("dockerfile.v0"));
        assert_eq!(flags.local, ["context=dir", "dockerfile=dir", "z=."]);
        assert_eq!(
            flags.opt,
            [
                "filename=Dockerfile",
                "context:x=docker-image://y",
                "context:z=local:z"
            ]
        );
        assert_eq!(
            flags.output,
            ["type=image,unpack=true,\"name=docker.io/library/app:latest\""]
        );
    }
}
