//! Docker's `config.json`: which credentials belong to a registry, and the helpers that keep them. Never writes it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use crate::error::Error;

/// Under which Docker Hub's credentials are kept.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// What the daemon calls Docker Hub.
const HUB_HOST: &str = "registry-1.docker.io";

/// What to show a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// Nothing is known for it.
    Anonymous,
    /// A name and a password.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// A token that stands for the user.
    Identity(String),
    /// A token that the registry itself takes.
    Registry(String),
}

/// The parts of the file that matter here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DockerConfig {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What a helper answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl DockerConfig {
    /// Reads the file; a missing one is empty.
    pub(super) fn load() -> Result<Self, Error> {
        let Some(dir) = directory() else {
            return Ok(Self::default());
        };
        let path = dir.join("config.json");
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| Error::Answer(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::file("reading", path)(error)),
        }
    }

    /// The credentials of a registry, by the name that the daemon has for it.
    pub(super) async fn credentials(&self, host: &str) -> Result<Credentials, Error> {
        let key = if host == HUB_HOST { HUB_KEY } else { host };
        let helper = self
            .cred_helpers
            .get(key)
            .or_else(|| self.cred_helpers.get(host));
        let helper = helper.unwrap_or(&self.creds_store);
        if helper.is_empty() {
            return Ok(self.stored(key));
        }
        match ask_helper(helper, key).await? {
            Credentials::Anonymous => Ok(self.stored(key)),
            found => Ok(found),
        }
    }

    fn stored(&self, key: &str) -> Credentials {
        let exact = self.auths.get(key);
        let same_host = || {
            self.auths
                .iter()
                .find(|(name, _)| host_of(name) == host_of(key))
        };
        let Some(entry) = exact.or_else(|| same_host().map(|(_, entry)| entry)) else {
            return Credentials::Anonymous;
        };
        if !entry.registrytoken.is_empty() {
            return Credentials::Registry(entry.registrytoken.clone());
        }
        if !entry.identitytoken.is_empty() {
            return Credentials::Identity(entry.identitytoken.clone());
        }
        let decoded = STANDARD
            .decode(&entry.auth)
            .ok()
            .and_then(|dt| String::from_utf8(dt).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (username, password) = match pair {
            Some((username, password)) => (username, password.trim_end_matches('\0')),
            None => (entry.username.as_str(), entry.password.as_str()),
        };
        match password {
            "" => Credentials::Anonymous,
            _ => Credentials::Password {
                username: username.to_owned(),
                password: password.to_owned(),
            },
        }
    }
}

/// The host of a key, which may be a URL.
fn host_of(key: &str) -> &str {
    let bare = key
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    bare.split('/').next().unwrap_or(bare)
}

/// The directory of Docker's configuration, if this user can have one.
pub(super) fn directory() -> Option<PathBuf> {
    let own = std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty());
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
    own.map(PathBuf::from).or_else(home)
}

async fn ask_helper(helper: &str, key: &str) -> Result<Credentials, Error> {
    let program = format!("docker-credential-{helper}");
    let failed = Error::file("running credential helper", &program);
    let run = async {
        let mut child = tokio::process::Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(key.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = run.await.map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        if text.contains("credentials not found") {
            return Ok(Credentials::Anonymous);
        }
        return Err(Error::Answer(format!("{program} get: {}", text.trim())));
    }
    let answer: HelperAnswer = serde_json::from_str(&text)
        .map_err(|error| Error::Answer(format!("{program} get: {error}")))?;
    Ok(match answer.username.as_str() {
        "<token>" => Credentials::Identity(answer.secret),
        _ => Credentials::Password {
            username: answer.username,
            password: answer.secret,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_key_or_host() {
        let text = r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"dTpwOnc="},
            "http://r.example:5000/v2/":{"identitytoken":"t"},
            "plain":{"username":"u","password":"p"}},"unknown":1}"#;
        let config: DockerConfig = serde_json::from_str(text).unwrap();
        let password = |u: &str, p: &str| Credentials::Password {
            username: u.into(),
            password: p.into(),
        };
        assert_eq!(config.stored(HUB_KEY), password("u", "p:w"));
        assert_eq!(
            config.stored("r.example:5000"),
            Credentials::Identity("t".into())
        );
        assert_eq!(config.stored("plain"), password("u", "p"));
        assert_eq!(config.stored("other"), Credentials::Anonymous);
    }
}
