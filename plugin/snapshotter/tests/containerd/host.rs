//! A private containerd with our snapshotter registered, and images made on the spot. Decides nothing about what must
//! hold.

use std::{
    env, fs,
    future::pending,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use containerd_client::Client;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shipway_snapshotter::{LayerStore, serve};
use tempfile::TempDir;
use tokio::{net::UnixListener, task::JoinSet};

/// Names a directory with another `containerd`, `ctr` and shim than those in `PATH`.
const TOOLS: &str = "SHIPWAY_TOOLS";

/// One of the containerds to test with.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    /// Where its programs are; `PATH` if nowhere else.
    tools: Option<PathBuf>,
}

/// The machine's containerd, and that of the tools if they are there.
pub(crate) fn versions() -> Vec<Version> {
    let tools = env::var_os(TOOLS)
        .map(PathBuf::from)
        .filter(|dir| dir.join("containerd").exists());
    let tools = tools.map(|dir| Version { tools: Some(dir) });
    std::iter::once(Version { tools: None })
        .chain(tools)
        .collect()
}

/// The running pair. Dropping it ends containerd, then the snapshotter.
pub(crate) struct Host {
    version: Version,
    pub(crate) store: LayerStore,
    pub(crate) dir: TempDir,
    containerd: Child,
    /// Aborts the service when dropped.
    _server: JoinSet<()>,
}

impl Host {
    pub(crate) async fn start(version: Version) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LayerStore::open(dir.path().join("store")).unwrap();
        let listener = UnixListener::bind(dir.path().join("snapshots.sock")).unwrap();
        let mut server = JoinSet::new();
        let handle = store.clone();
        server.spawn(async move { serve(handle, listener, pending()).await.unwrap() });
        let config = dir.path().join("config.toml");
        fs::write(&config, configuration(dir.path())).unwrap();
        let log = fs::File::create(dir.path().join("containerd.log")).unwrap();
        let containerd = version
            .tool("containerd")
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let host = Self {
            version,
            store,
            dir,
            containerd,
            _server: server,
        };
        host.wait().await;
        host
    }

    /// Until containerd answers on its socket.
    async fn wait(&self) {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..1500 {
            tick.tick().await;
            if UnixStream::connect(self.socket()).is_ok() {
                return;
            }
        }
        panic!("containerd does not come up: {}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("containerd.log")).unwrap()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("containerd.sock")
    }

    pub(crate) async fn client(&self) -> Client {
        Client::from_path(self.socket()).await.unwrap()
    }

    /// Runs `ctr` in a namespace; its output, which must be a success.
    pub(crate) async fn ctr(&self, namespace: &str, arguments: &[&str]) -> String {
        let mut command = self.version.tool("ctr");
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", namespace])
            .args(arguments);
        let run = tokio::task::spawn_blocking(move || command.output().unwrap());
        let Output {
            status,
            stdout,
            stderr,
        } = run.await.unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr),
        );
        assert!(
            status.success(),
            "ctr {arguments:?}: {out}{err}\n{}",
            self.log()
        );
        out.into_owned()
    }

    /// Makes containerd collect now: deleting a lease with `--sync` waits for a collection.
    pub(crate) async fn collect(&self, namespace: &str) {
        self.ctr(namespace, &["leases", "create", "--id", "collect"])
            .await;
        self.ctr(namespace, &["leases", "delete", "--sync", "collect"])
            .await;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.containerd.kill().unwrap();
        self.containerd.wait().unwrap();
    }
}

impl Version {
    fn tool(&self, name: &str) -> Command {
        let Some(tools) = &self.tools else {
            return Command::new(name);
        };
        let mut command = Command::new(tools.join(name));
        // The shim is looked up in PATH and must be of the same version.
        let path = env::var_os("PATH").unwrap();
        let path = std::iter::once(tools.clone()).chain(env::split_paths(&path));
        command.env("PATH", env::join_paths(path).unwrap());
        command
    }
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{dir}/containerd.sock"
[ttrpc]
  address = "{dir}/containerd.sock.ttrpc"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/amd64"
  snapshotter = "shipway"
[proxy_plugins.shipway]
  type = "snapshot"
  address = "{dir}/snapshots.sock"
"#
    )
}

/// One file of a layer: path, mode, content.
pub(crate) type File<'a> = (&'a str, u32, &'a [u8]);

/// An OCI image archive; gives back its chain ids, lowest first.
pub(crate) fn image(archive: &Path, name: &str, layers: &[Vec<File<'_>>]) -> Vec<String> {
    let mut out = tar::Builder::new(fs::File::create(archive).unwrap());
    let mut blob = |media_type: &str, content: &[u8]| {
        let digest = hex::encode(Sha256::digest(content));
        append(&mut out, &format!("blobs/sha256/{digest}"), 0o644, content);
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len() })
    };
    let layers: Vec<Value> = layers
        .iter()
        .map(|files| blob("application/vnd.oci.image.layer.v1.tar", &layer(files)))
        .collect();
    let diff_ids: Vec<&str> = layers
        .iter()
        .map(|l| l["digest"].as_str().unwrap())
        .collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = blob(
        "application/vnd.oci.image.config.v1+json",
        &to_bytes(&config),
    );
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers,
    });
    let mut manifest = blob(media_type, &to_bytes(&manifest));
    manifest["annotations"] = json!({ "io.containerd.image.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    append(&mut out, "index.json", 0o644, &to_bytes(&index));
    append(
        &mut out,
        "oci-layout",
        0o644,
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    );
    out.finish().unwrap();
    chain_ids(&diff_ids)
}

fn chain_ids(diff_ids: &[&str]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => (*diff_id).to_owned(),
            Some(below) => {
                let digest = Sha256::digest(format!("{below} {diff_id}").as_bytes());
                format!("sha256:{}", hex::encode(digest))
            }
        });
    }
    chain
}

fn layer(files: &[File<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        append(&mut tar, path, *mode, content);
    }
    tar.into_inner().unwrap()
}

fn append(tar: &mut tar::Builder<impl std::io::Write>, path: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, path, content).unwrap();
}

fn to_bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}
