//! The adapter against the CNI plugins of the distribution. Needs root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use shipway_backend::{Networks as _, suite};
use shipway_network::{Cni, NetworkList, Settings, clean_up};
use tokio_util::sync::CancellationToken;

/// Where Debian has the plugins.
const PLUGINS: &str = "/usr/lib/cni";

fn settings(state: PathBuf) -> Settings {
    let number = std::process::id() % 200 + 20;
    let bridge = format!("sw-test{number}");
    Settings {
        list: NetworkList::bridge(&bridge, &format!("10.{number}.0.0/24")),
        bridge: Some(bridge),
        binaries: PLUGINS.into(),
        ready: 1,
        state,
    }
}

fn bridge_of(settings: &Settings) -> PathBuf {
    Path::new("/sys/class/net").join(settings.bridge.as_deref().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path().join("net"));
    let bridge = bridge_of(&settings);
    let cni = Cni::open(settings).await.unwrap();
    suite::network::all(&cni).await;
    assert!(bridge.exists());
    // A daemon that is killed runs no more of its own code: a new one finds everything as it was.
    drop(cni.enter(None).await.unwrap());
    drop(cni);
    clean_up(&dir.path().join("net")).await.unwrap();
    assert!(!bridge.exists());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(&dir.path().display().to_string()));
    assert!(!dir.path().join("net").exists());

    let settings = self::settings(dir.path().join("net"));
    let cni = Cni::open(settings).await.unwrap();
    let stopped = CancellationToken::new();
    stopped.cancel();
    cni.maintain(stopped).await;
    assert!(!bridge.exists() && !dir.path().join("net").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_plugin_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path().join("net"));
    settings.binaries = dir.path().to_owned();
    let Err(error) = Cni::open(settings).await else {
        panic!("there are no plugins")
    };
    assert!(error.to_string().contains("loopback is missing"), "{error}");
}
