//! Runs CNI plugins as the protocol says: a program per plugin, told by variables and standard input, answering on
//! standard output. It decides nothing about which run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::error::NetworkError;
use crate::list::NetworkList;

/// How long one plugin may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The interface's name in the namespace.
const INTERFACE: &str = "eth0";
/// Where plugins find iptables and the like, beside what the daemon has.
const PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// A namespace as plugins are told of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Its id, the same for `ADD` and `DEL`.
    pub(crate) id: &'a str,
    /// Its path.
    pub(crate) path: &'a Path,
    /// The step's host name, where it has one of its own.
    pub(crate) hostname: Option<&'a str>,
    /// Directory of the plugins.
    pub(crate) binaries: &'a Path,
}

/// What a plugin says when it fails.
#[derive(Debug, Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

/// Runs every plugin of a network in order, after the one that brings the loopback device up; gives the result.
pub(crate) async fn add(list: &NetworkList, place: Place<'_>) -> Result<Value, NetworkError> {
    let loopback = json!({"cniVersion": "1.0.0", "name": "loopback", "type": "loopback"});
    run("ADD", "loopback", "lo", &loopback, place).await?;
    let mut result = None;
    for (index, kind) in list.types().enumerate() {
        let input = list.input(index, result.as_ref());
        let said = run("ADD", kind, INTERFACE, &input, place).await?;
        result = Some(
            serde_json::from_slice(&said).map_err(|error| NetworkError::Plugin {
                plugin: kind.to_owned(),
                command: "ADD",
                why: format!("its result cannot be read: {error}"),
            })?,
        );
    }
    Ok(result.unwrap_or_default())
}

/// Undoes `add`, in the opposite order. Every plugin is asked, whatever the others say; the first error counts.
pub(crate) async fn delete(
    list: &NetworkList,
    result: Option<&Value>,
    place: Place<'_>,
) -> Result<(), NetworkError> {
    let mut outcome = Ok(());
    for (index, kind) in list.types().enumerate().rev() {
        let input = list.input(index, result);
        let deleted = run("DEL", kind, INTERFACE, &input, place).await;
        outcome = outcome.and(deleted.map(drop));
    }
    outcome
}

/// The first plugin of a network that is not among the programs.
pub(crate) fn missing(list: &NetworkList, binaries: &Path) -> Option<PathBuf> {
    let programs = std::iter::once("loopback").chain(list.types());
    programs
        .map(|kind| binaries.join(kind))
        .find(|program| !program.is_file())
}

async fn run(
    command: &'static str,
    plugin: &str,
    interface: &str,
    input: &Value,
    place: Place<'_>,
) -> Result<Vec<u8>, NetworkError> {
    let failed = |why: String| NetworkError::Plugin {
        plugin: plugin.to_owned(),
        command,
        why,
    };
    let mut arguments = "IgnoreUnknown=1".to_owned();
    if let Some(hostname) = place.hostname {
        // The name that plugins for DNS look for.
        arguments = format!("{arguments};K8S_POD_NAME={hostname}");
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut program = Command::new(place.binaries.join(plugin));
    program
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", place.id)
        .env("CNI_NETNS", place.path)
        .env("CNI_IFNAME", interface)
        .env("CNI_ARGS", arguments)
        .env("CNI_PATH", place.binaries)
        .env("PATH", format!("{path}:{PATH}"));
    program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let talk = async {
        let mut child = program.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.to_string().as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(LIMIT, talk).await;
    let output = output
        .map_err(|_| failed(format!("no answer within {} s", LIMIT.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(failed(said(&output.stdout, &output.stderr)))
}

/// A failed plugin's words.
fn said(stdout: &[u8], stderr: &[u8]) -> String {
    let refusal = serde_json::from_slice::<Refusal>(stdout).unwrap_or_default();
    let words = match (refusal.msg.as_str(), refusal.details.as_str()) {
        ("", _) => String::from_utf8_lossy(stderr).trim().to_owned(),
        (message, "") => message.to_owned(),
        (message, details) => format!("{message}: {details}"),
    };
    if words.is_empty() {
        "it failed without a word".to_owned()
    } else {
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_quoted() {
        let json = br#"{"cniVersion":"1.0.0","code":999,"msg":"no address","details":"all taken"}"#;
        assert_eq!(said(json, b"noise"), "no address: all taken");
        assert_eq!(said(b"", b"panic: x\n"), "panic: x");
        assert_eq!(said(b"", b""), "it failed without a word");
    }

    #[test]
    fn a_missing_plugin_is_found_before_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("loopback"), "").unwrap();
        let list = NetworkList::bridge("b", "10.0.0.0/24");
        assert_eq!(missing(&list, dir.path()), Some(dir.path().join("bridge")));
    }
}
