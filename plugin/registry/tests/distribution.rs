//! The client against the reference implementation of a registry.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shipway_backend::suite::collect;
use shipway_backend::suite::registry::{self as suite, anonymous};
use shipway_backend::{BackendError, ByteStream, Registry as _};
use shipway_model::descriptor::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use shipway_model::{Descriptor, ImageRef};
use shipway_registry::{RegistryClient, Settings};

struct Server {
    _process: tokio::process::Child,
    _dir: tempfile::TempDir,
    host: String,
}

async fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = free.local_addr().unwrap().to_string();
    drop(free);
    let config = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
         http:\n  addr: {host}\nlog:\n  level: error\n",
        dir.path().join("data").display()
    );
    let path = dir.path().join("config.yml");
    std::fs::write(&path, config).unwrap();
    let process = tokio::process::Command::new("docker-registry")
        .arg("serve")
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("docker-registry is in PATH");
    let up = async {
        while tokio::net::TcpStream::connect(&host).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), up)
        .await
        .expect("the registry starts");
    Server {
        _process: process,
        _dir: dir,
        host,
    }
}

fn stream(data: &[u8]) -> ByteStream {
    shipway_backend::suite::stream([Bytes::copy_from_slice(data)])
}

async fn fetched(
    client: &RegistryClient,
    image: &ImageRef,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, BackendError> {
    collect(client.fetch(image, descriptor, &anonymous()).await?).await
}

#[tokio::test]
async fn it_passes_the_suite() {
    let server = server().await;
    let client = RegistryClient::new(Settings::default());
    suite::all(&client, &server.host).await;
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_passed_over_when_it_fails() {
    let (mirror, origin) = tokio::join!(server(), server());
    let plain = RegistryClient::new(Settings::default());
    let access = anonymous();
    let put = async |host: &str, text: &'static str| {
        let image: ImageRef = format!("{host}/x").parse().unwrap();
        let descriptor = Descriptor::of(OCI_MANIFEST, text.as_bytes());
        let config = Descriptor::of(OCI_CONFIG, b"{}");
        let push = plain.push_blob(&image, &config, stream(b"{}"), &access);
        push.await.unwrap();
        let push = plain.push_manifest(&image, &descriptor, text.into(), &access);
        push.await.unwrap();
        descriptor
    };
    let text = |note: &str| {
        let config = Descriptor::of(OCI_CONFIG, b"{}");
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [],
            "annotations": {"n": note},
        });
        manifest.to_string().leak() as &'static str
    };
    let at_origin = put(&origin.host, text("origin")).await;
    let settings = |mirrors: Vec<String>| {
        let registry = shipway_config::Registry {
            mirrors,
            ..Default::default()
        };
        Settings {
            hosts: [(origin.host.clone(), registry)].into(),
            tries: 1,
            ..Default::default()
        }
    };
    let image: ImageRef = format!("{}/x", origin.host).parse().unwrap();
    let with = RegistryClient::new(settings(vec![mirror.host.clone()]));
    assert_eq!(with.resolve(&image, &access).await.unwrap(), at_origin);
    let at_mirror = put(&mirror.host, text("mirror")).await;
    assert_eq!(with.resolve(&image, &access).await.unwrap(), at_mirror);
    let dead = RegistryClient::new(settings(vec!["127.0.0.1:1".into()]));
    assert_eq!(dead.resolve(&image, &access).await.unwrap(), at_origin);
}

#[tokio::test]
async fn transfers_beyond_the_limit_wait() {
    let server = server().await;
    let client = RegistryClient::new(Settings {
        concurrency: 1,
        ..Default::default()
    });
    let image: ImageRef = format!("{}/x", server.host).parse().unwrap();
    let data = vec![1; 1 << 20];
    let descriptor = Descriptor::of(OCI_LAYER, &data);
    let access = anonymous();
    let push = client.push_blob(&image, &descriptor, stream(&data), &access);
    push.await.unwrap();
    let client = Arc::new(client);
    let all = (0..8).map(|_| fetched(&client, &image, &descriptor));
    for got in futures::future::join_all(all).await {
        assert_eq!(got.unwrap(), data);
    }
}
