//! The flags of `buildctl build`, read into a [`Plan`]. Opens no connection and reads no LLB.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use shipway_proto::sourcepolicy;

use super::csv;
use super::outputs::{CacheEntry, parse_cache, parse_output};
use crate::build::plan::{Agent, AuthTls, OnError, Plan, Secret};
use crate::error::Error;
use crate::progress::Mode;

/// The flags of `buildctl build`.
#[derive(Debug, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "one per flag")]
pub struct BuildFlags {
    /// Define exports for build result, e.g. --output type=image,name=docker.io/username/image,push=true
    #[arg(long, short = 'o')]
    pub output: Vec<String>,
    /// How to show what happens.
    #[command(flatten)]
    pub display: DisplayFlags,
    /// Allow build access to the local directory
    #[arg(long, value_name = "NAME=DIR")]
    pub local: Vec<String>,
    /// Allow build access to the local OCI layout
    #[arg(long, value_name = "NAME=DIR")]
    pub oci_layout: Vec<String>,
    /// Define frontend used for build
    #[arg(long)]
    pub frontend: Option<String>,
    /// Define custom options for frontend, e.g. --opt target=foo --opt build-arg:foo=bar
    #[arg(long)]
    pub opt: Vec<String>,
    /// Disable cache for all the vertices
    #[arg(long)]
    pub no_cache: bool,
    /// Export build cache, e.g. --export-cache type=registry,ref=example.com/foo/bar, or --export-cache
    /// type=local,dest=path/to/dir
    #[arg(long)]
    pub export_cache: Vec<String>,
    /// Import build cache, e.g. --import-cache type=registry,ref=example.com/foo/bar, or --import-cache
    /// type=local,src=path/to/dir
    #[arg(long)]
    pub import_cache: Vec<String>,
    /// Secret value exposed to the build. Format id=secretname,src=filepath
    #[arg(long)]
    pub secret: Vec<String>,
    /// Allow extra privileged entitlement, e.g. network.host, security.insecure, device
    #[arg(long)]
    pub allow: Vec<String>,
    /// Allow forwarding SSH agent or a raw Unix socket to the builder. Format `default|<id>[=<socket>[,raw=false]]`
    #[arg(long)]
    pub ssh: Vec<String>,
    /// Read source policy file from a JSON file
    #[arg(long)]
    pub source_policy_file: Option<PathBuf>,
    /// What is done when a step fails; only `shipway build` has a flag for it
    #[arg(skip)]
    pub on_error: OnError,
    /// Run build with proxy network enforcement
    #[arg(long)]
    pub proxy_network: bool,
    /// Overwrite TLS configuration when authenticating with registries, e.g. --registry-auth-tlscontext
    /// host=myserver:2376,insecure=false,ca=/path/to/my/ca.crt,cert=/path/to/my/cert.crt,key=/path/to/my/key.crt
    #[arg(long)]
    pub registry_auth_tlscontext: Vec<String>,
}

/// How to show what happens, and what to keep of it.
#[derive(Debug, Default, Args)]
pub struct DisplayFlags {
    /// Set type of progress (auto, plain, tty, rawjson, quiet). Use plain to show container output
    #[arg(long, default_value = "auto")]
    pub progress: Mode,
    /// Path to trace file. Defaults to no tracing.
    #[arg(long)]
    pub trace: Option<PathBuf>,
    /// Output build metadata (e.g., image digest) to a file as JSON
    #[arg(long)]
    pub metadata_file: Option<PathBuf>,
    /// Write build ref to a file
    #[arg(long)]
    pub ref_file: Option<PathBuf>,
    /// Where to output json cache metrics, use 'stdout' or 'stderr' for standard (error) output.
    #[arg(long)]
    pub debug_json_cache_metrics: Option<PathBuf>,
}

impl BuildFlags {
    /// What the flags ask for.
    ///
    /// # Errors
    /// Names the flag that can't be used and why.
    pub fn plan(&self) -> Result<Plan, Error> {
        let mut attrs = frontend_options(&self.opt)?;
        let frontend = self.frontend.clone().filter(|name| !name.is_empty());
        if self.no_cache && frontend.is_some() {
            attrs.insert("no-cache".to_owned(), String::new());
        }
        Ok(Plan {
            on_error: self.on_error,
            frontend,
            attrs,
            no_cache: self.no_cache,
            locals: directories("--local", &self.local)?,
            layouts: directories("--oci-layout", &self.oci_layout)?,
            exports: self
                .output
                .iter()
                .map(|o| parse_output(o))
                .collect::<Result<_, _>>()?,
            cache_exports: caches("--export-cache", &self.export_cache, parse_export)?,
            cache_imports: caches("--import-cache", &self.import_cache, parse_import)?,
            secrets: self
                .secret
                .iter()
                .map(|s| parse_secret(s))
                .collect::<Result<_, _>>()?,
            agents: agents(&self.ssh)?,
            entitlements: entitlements(&self.allow)?,
            policy: self
                .source_policy_file
                .as_deref()
                .map(read_policy)
                .transpose()?,
            proxy_network: self.proxy_network,
            auth_tls: auth_tls(&self.registry_auth_tlscontext)?,
        })
    }
}

/// Frontend options; a build argument without a value takes it from the environment, or is left out.
fn frontend_options(given: &[String]) -> Result<BTreeMap<String, String>, Error> {
    let mut attrs = BTreeMap::new();
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        attrs.insert("build-arg:SOURCE_DATE_EPOCH".to_owned(), epoch);
    }
    for option in given {
        match (option.split_once('='), option.strip_prefix("build-arg:")) {
            (Some((key, value)), _) => {
                attrs.insert(key.to_owned(), value.to_owned());
            }
            (None, Some(name)) if !name.is_empty() => {
                if let Ok(value) = std::env::var(name) {
                    attrs.insert(option.clone(), value);
                }
            }
            (None, _) => {
                return Err(Error::flag(
                    "--opt",
                    format!("{option:?}, expected key=value"),
                ));
            }
        }
    }
    Ok(attrs)
}

fn directories(flag: &'static str, given: &[String]) -> Result<BTreeMap<String, PathBuf>, Error> {
    let named = csv::attributes(flag, given)?;
    let check = |(name, dir): (String, String)| {
        let path = PathBuf::from(&dir);
        let meta = std::fs::metadata(&path).map_err(Error::file("opening directory", &path))?;
        if !meta.is_dir() {
            return Err(Error::flag(flag, format!("{dir} is not a directory")));
        }
        Ok((name, path))
    };
    named.into_iter().map(check).collect()
}

fn caches(
    flag: &'static str,
    given: &[String],
    finish: fn(CacheEntry) -> Result<CacheEntry, Error>,
) -> Result<Vec<CacheEntry>, Error> {
    given
        .iter()
        .map(|entry| finish(parse_cache(flag, entry)?))
        .collect()
}

fn parse_export(mut entry: CacheEntry) -> Result<CacheEntry, Error> {
    entry
        .attrs
        .entry("mode".to_owned())
        .or_insert_with(|| "min".to_owned());
    entry.require("--export-cache", "local", "dest")?;
    entry.require("--export-cache", "registry", "ref")?;
    Ok(entry)
}

fn parse_import(entry: CacheEntry) -> Result<CacheEntry, Error> {
    entry.require("--import-cache", "local", "src")?;
    entry.require("--import-cache", "registry", "ref")?;
    Ok(entry)
}

/// One `--secret`.
pub(super) fn parse_secret(text: &str) -> Result<Secret, Error> {
    let flag = "--secret";
    let mut found = csv::pairs(flag, text)?;
    let kind = found.remove("type");
    let id = found.remove("id").filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Error::flag(flag, "secret missing ID"))?;
    let source = found.remove("source");
    let file = found
        .remove("src")
        .or(source)
        .filter(|file| !file.is_empty());
    let env = found.remove("env").filter(|env| !env.is_empty());
    if let Some(key) = found.keys().next() {
        return Err(Error::flag(
            flag,
            format!("unexpected key {key:?} in {text:?}"),
        ));
    }
    match (kind.as_deref(), env, file) {
        (None | Some("file" | "env"), Some(name), _) | (Some("env"), None, Some(name)) => {
            Ok(Secret::env(id, name))
        }
        (None | Some("file"), None, Some(path)) => Secret::file(id, PathBuf::from(path)),
        (None | Some("file" | "env"), None, None) if std::env::var_os(&id).is_some() => {
            Ok(Secret::env(id.clone(), id))
        }
        (None | Some("file" | "env"), None, None) => Secret::file(id.clone(), PathBuf::from(id)),
        (Some(other), ..) => Err(Error::flag(
            flag,
            format!("unsupported secret type {other:?}"),
        )),
    }
}

/// All `--ssh`.
pub(super) fn agents(given: &[String]) -> Result<BTreeMap<String, Agent>, Error> {
    let mut agents = BTreeMap::new();
    for text in given {
        let (id, agent) = parse_agent(text)?;
        if agents.insert(id.clone(), agent).is_some() {
            return Err(Error::flag("--ssh", format!("duplicate agent ID {id:?}")));
        }
    }
    Ok(agents)
}

fn parse_agent(text: &str) -> Result<(String, Agent), Error> {
    let flag = "--ssh";
    let (id, value) = text.split_once('=').unwrap_or((text, ""));
    let id = if id.is_empty() { "default" } else { id };
    let mut raw = false;
    let mut paths = Vec::new();
    for part in value.split(',').filter(|part| !part.is_empty()) {
        match part.strip_prefix("raw=") {
            Some(flag_value) => {
                raw = csv::boolean(flag_value).ok_or_else(|| {
                    Error::flag(flag, format!("invalid value for 'raw': {flag_value}"))
                })?;
            }
            None => paths.push(part),
        }
    }
    if raw && paths.len() != 1 {
        let reason = format!("raw mode must supply exactly one socket path for {id:?}");
        return Err(Error::flag(flag, reason));
    }
    let socket = match paths.as_slice() {
        [] => std::env::var_os("SSH_AUTH_SOCK")
            .filter(|path| !path.is_empty())
            .ok_or_else(|| {
                Error::flag(
                    flag,
                    "invalid empty ssh agent socket: SSH_AUTH_SOCK is not set",
                )
            })?
            .into(),
        [path] => PathBuf::from(path),
        _ => {
            return Err(Error::flag(
                flag,
                format!("only single socket allowed in {text:?}"),
            ));
        }
    };
    Ok((id.to_owned(), Agent::open(socket, raw)?))
}

fn entitlements(given: &[String]) -> Result<Vec<String>, Error> {
    for text in given {
        let known = matches!(
            text.as_str(),
            "network.host" | "security.insecure" | "device"
        );
        if !known && !text.starts_with("device=") {
            return Err(Error::flag(
                "--allow",
                format!("unknown entitlement {text}"),
            ));
        }
    }
    Ok(given.to_vec())
}

fn auth_tls(given: &[String]) -> Result<BTreeMap<String, AuthTls>, Error> {
    let flag = "--registry-auth-tlscontext";
    let mut hosts: BTreeMap<String, AuthTls> = BTreeMap::new();
    for text in given {
        let mut found = csv::pairs(flag, text)?;
        let host = found.remove("host").filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| Error::flag(flag, "requires host=<host>"))?;
        let insecure = found
            .remove("insecure")
            .and_then(|v| csv::boolean(&v))
            .unwrap_or(false);
        let ca = found.remove("ca").map(PathBuf::from);
        let pair = match (found.remove("cert"), found.remove("key")) {
            (Some(cert), Some(key)) => Some((PathBuf::from(cert), PathBuf::from(key))),
            (None, None) => None,
            _ => return Err(Error::flag(flag, "requires cert=<cert>,key=<key>")),
        };
        if let Some(key) = found.keys().next() {
            return Err(Error::flag(flag, format!("unexpected key {key:?}")));
        }
        if ca.is_none() && pair.is_none() && !insecure {
            let reason = "requires ca=<ca> or cert=<cert>,key=<key> or insecure=true";
            return Err(Error::flag(flag, reason));
        }
        let entry = hosts.entry(host).or_default();
        entry.insecure |= insecure;
        entry.authorities.extend(ca);
        entry.identities.extend(pair);
    }
    Ok(hosts)
}

/// A source policy as its JSON file has it.
fn read_policy(path: &Path) -> Result<sourcepolicy::Policy, Error> {
    let text = std::fs::read(path).map_err(Error::file("reading", path))?;
    crate::build::policy::parse(&text).map_err(|reason| {
        Error::flag(
            "--source-policy-file",
            format!("{}: {reason}", path.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_name_a_file_or_a_variable() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let secret = parse_secret(&format!("id=a,src={path}")).unwrap();
        assert_eq!(
            secret,
            Secret::File {
                id: "a".into(),
                path: path.into()
            }
        );
        assert_eq!(
            parse_secret("id=a,env=B").unwrap(),
            Secret::env("a".into(), "B".into())
        );
        assert_eq!(
            parse_secret("type=env,id=a,src=B").unwrap(),
            Secret::env("a".into(), "B".into())
        );
        assert_eq!(
            parse_secret("id=PATH").unwrap(),
            Secret::env("PATH".into(), "PATH".into())
        );
        for wrong in [
            "src=x",
            "id=a,src=/nonexistent",
            "id=a,type=x,src=y",
            "id=a,foo=b",
            "id",
        ] {
            assert!(parse_secret(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cache_exports_default_to_the_minimum() {
        let flags = BuildFlags {
            export_cache: vec!["type=inline".into()],
            ..Default::default()
        };
        let plan = flags.plan().unwrap();
        assert_eq!(plan.cache_exports[0].attrs["mode"], "min");
        let flags = BuildFlags {
            export_cache: vec!["type=local".into()],
            ..Default::default()
        };
        assert!(flags.plan().is_err());
    }

    #[test]
    fn a_build_argument_without_value_comes_from_the_environment() {
        let options = ["build-arg:PATH", "build-arg:NO_SUCH_VARIABLE", "a=b"].map(str::to_owned);
        let attrs = frontend_options(&options).unwrap();
        assert_eq!(attrs["build-arg:PATH"], std::env::var("PATH").unwrap());
        assert!(!attrs.contains_key("build-arg:NO_SUCH_VARIABLE"));
        assert!(frontend_options(&["x".to_owned()]).is_err());
    }
}
