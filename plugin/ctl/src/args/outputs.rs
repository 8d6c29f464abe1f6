//! `--output`, `--export-cache` and `--import-cache` values. Decides where each exporter's result goes on this side;
//! creates nothing yet.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use super::csv;
use crate::build::plan::{DirectoryMode, Export, Sink};
use crate::error::Error;

/// One cache to import or export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// The back end's name.
    pub kind: String,
    /// Its settings.
    pub attrs: BTreeMap<String, String>,
}

impl CacheEntry {
    /// Checks that a back end has the setting that it can't do without.
    pub(super) fn require(&self, flag: &'static str, kind: &str, key: &str) -> Result<(), Error> {
        if self.kind == kind && self.attrs.get(key).is_none_or(String::is_empty) {
            return Err(Error::flag(flag, format!("{kind} cache requires {key}")));
        }
        Ok(())
    }
}

/// One `--export-cache` or `--import-cache`; a bare reference means a registry.
pub(super) fn parse_cache(flag: &'static str, text: &str) -> Result<CacheEntry, Error> {
    if !text.contains("type=") {
        let attrs = [("ref".to_owned(), text.to_owned())].into();
        return Ok(CacheEntry {
            kind: "registry".to_owned(),
            attrs,
        });
    }
    let mut attrs = csv::pairs(flag, text)?;
    let kind = attrs.remove("type").filter(|kind| !kind.is_empty());
    let kind = kind.ok_or_else(|| Error::flag(flag, "requires type=<type>"))?;
    let mut entry = CacheEntry { kind, attrs };
    if entry.kind == "gha" {
        github(flag, &mut entry.attrs)?;
    }
    Ok(entry)
}

/// Fills in what a GitHub runner has in its environment.
fn github(flag: &'static str, attrs: &mut BTreeMap<String, String>) -> Result<(), Error> {
    let env = |name: &str| std::env::var(name).ok();
    let v2 = match attrs.get("version") {
        Some(version) => version == "2",
        None => env("ACTIONS_CACHE_SERVICE_V2")
            .and_then(|v| csv::boolean(&v))
            .unwrap_or(false),
    };
    let mut fill = |key: &str, value: Option<String>| {
        if let (false, Some(value)) = (attrs.contains_key(key), value) {
            attrs.insert(key.to_owned(), value);
        }
    };
    if v2 {
        fill("url_v2", env("ACTIONS_RESULTS_URL"));
    }
    fill(
        "url",
        env("ACTIONS_CACHE_URL").or_else(|| env("ACTIONS_RESULTS_URL")),
    );
    fill("token", env("ACTIONS_RUNTIME_TOKEN"));
    for key in ["url", "token"] {
        if !(attrs.contains_key(key) || key == "url" && attrs.contains_key("url_v2")) {
            return Err(Error::flag(
                flag,
                format!("cache with type gha requires {key}"),
            ));
        }
    }
    Ok(())
}

/// One `--output`.
pub(super) fn parse_output(text: &str) -> Result<Export, Error> {
    let flag = "--output";
    let mut attrs = csv::pairs(flag, text)?;
    let kind = attrs.remove("type").filter(|kind| !kind.is_empty());
    let kind = kind.ok_or_else(|| Error::flag(flag, "requires type=<type>"))?;
    if let Some(value) = attrs.get("output") {
        let reason = format!("output={value} not supported, you meant dest={value}?");
        return Err(Error::flag(flag, reason));
    }
    let sink = sink(&kind, &attrs).map_err(|reason| Error::flag(flag, reason))?;
    if !matches!(sink, Sink::Daemon) {
        attrs.remove("dest");
    }
    Ok(Export { kind, attrs, sink })
}

fn sink(kind: &str, attrs: &BTreeMap<String, String>) -> Result<Sink, String> {
    let dest = attrs.get("dest").map_or("", String::as_str);
    let as_tar = attrs
        .get("tar")
        .and_then(|value| csv::boolean(value))
        .unwrap_or(true);
    match (kind, dest) {
        ("local", "") => Err("output directory is required for local exporter".to_owned()),
        ("local", dir) => {
            let mode = match attrs.get("mode").map(String::as_str) {
                None | Some("" | "copy") => DirectoryMode::Copy,
                Some("delete") => DirectoryMode::Delete,
                Some(other) => return Err(format!("invalid local exporter mode {other:?}")),
            };
            Ok(Sink::Directory(PathBuf::from(dir), mode))
        }
        ("oci" | "docker", "") if !as_tar => {
            Err(format!("output directory is required for {kind} exporter"))
        }
        ("oci" | "docker", dir) if !as_tar => Ok(Sink::Store(PathBuf::from(dir))),
        ("tar" | "oci" | "docker", "" | "-") => {
            if std::io::stdout().is_terminal() {
                let reason = "refusing to write to console";
                return Err(format!(
                    "output file is required for {kind} exporter. {reason}"
                ));
            }
            Ok(Sink::Stdout)
        }
        ("tar" | "oci" | "docker", file) => {
            let path = PathBuf::from(file);
            if path.is_dir() {
                return Err("destination file is a directory".to_owned());
            }
            Ok(Sink::File(path))
        }
        (_, "") => Ok(Sink::Daemon),
        (_, dest) => Err(format!("output {dest} is not supported by {kind} exporter")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exporter_has_its_place() {
        let export = parse_output("type=image,unpack=true,\"name=a,b\"").unwrap();
        assert_eq!(
            (export.kind.as_str(), &export.sink),
            ("image", &Sink::Daemon)
        );
        assert_eq!(export.attrs["name"], "a,b");
        let local = Sink::Directory("out".into(), DirectoryMode::Copy);
        assert_eq!(parse_output("type=local,dest=out").unwrap().sink, local);
        assert_eq!(
            parse_output("type=oci,tar=false,dest=d").unwrap().sink,
            Sink::Store("d".into())
        );
        let export = parse_output("type=docker,dest=x.tar,name=n").unwrap();
        assert_eq!(export.sink, Sink::File("x.tar".into()));
        assert!(!export.attrs.contains_key("dest"));
        for wrong in [
            "name=x",
            "type=local",
            "type=image,dest=x",
            "type=local,dest=x,mode=y",
            "type=image,output=x",
        ] {
            assert!(parse_output(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bare_cache_reference_means_a_registry() {
        let entry = parse_cache("--import-cache", "example.com/a").unwrap();
        assert_eq!(
            (entry.kind.as_str(), entry.attrs["ref"].as_str()),
            ("registry", "example.com/a")
        );
    }
}
