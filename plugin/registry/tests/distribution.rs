//! The client against the reference implementation of a registry.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use shipway_backend::{BackendError, ByteStream, ErrorKind, Registry as _, RegistryAccess};
use shipway_model::descriptor::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use shipway_model::{Descriptor, Digest, ImageRef};
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

fn anonymous() -> RegistryAccess {
    RegistryAccess {
        auth: Vec::new(),
        insecure: false,
    }
}

fn stream(data: &[u8]) -> ByteStream {
    let pieces: Vec<_> = data
        .chunks(300_000)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    futures::stream::iter(pieces).boxed()
}

async fn fetched(
    client: &RegistryClient,
    image: &ImageRef,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, BackendError> {
    let stream = client.fetch(image, descriptor, &anonymous()).await?;
    let chunks: Vec<Bytes> = stream.try_collect().await?;
    Ok(chunks.concat())
}

#[tokio::test]
async fn an_image_is_pushed_resolved_and_fetched() {
    let server = server().await;
    let client = RegistryClient::new(Settings::default());
    let access = anonymous();
    let image: ImageRef = format!("{}/a/b:1", server.host).parse().unwrap();
    let layer: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let config = b"{}".to_vec();
    let of_layer = Descriptor::of(OCI_LAYER, &layer);
    let of_config = Descriptor::of(OCI_CONFIG, &config);
    for (descriptor, data) in [(&of_layer, &layer), (&of_config, &config)] {
        let digest = &descriptor.digest;
        assert!(
            !client
                .has_blob(&image, digest, None, &access)
                .await
                .unwrap()
        );
        let push = client.push_blob(&image, descriptor, stream(data), &access);
        push.await.unwrap();
        assert!(
            client
                .has_blob(&image, digest, None, &access)
                .await
                .unwrap()
        );
    }
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": of_config, "layers": [of_layer],
    }));
    let manifest = Bytes::from(manifest.unwrap());
    let descriptor = Descriptor::of(OCI_MANIFEST, &manifest);
    let push = client.push_manifest(&image, &descriptor, manifest.clone(), &access);
    push.await.unwrap();
    let resolved = client.resolve(&image, &access).await.unwrap();
    assert_eq!(resolved, descriptor);
    let pinned = image.clone().with_digest(descriptor.digest);
    assert_eq!(client.resolve(&pinned, &access).await.unwrap(), descriptor);
    assert_eq!(
        fetched(&client, &image, &descriptor).await.unwrap(),
        manifest
    );
    assert_eq!(fetched(&client, &image, &of_layer).await.unwrap(), layer);
    let other: ImageRef = format!("{}/other", server.host).parse().unwrap();
    let digest = &of_layer.digest;
    assert!(
        !client
            .has_blob(&other, digest, Some("no/such"), &access)
            .await
            .unwrap()
    );
    assert!(
        client
            .has_blob(&other, digest, Some("a/b"), &access)
            .await
            .unwrap()
    );
    assert_eq!(fetched(&client, &other, &of_layer).await.unwrap(), layer);
}

#[tokio::test]
async fn what_is_not_there_and_what_is_wrong_is_named() {
    let server = server().await;
    let client = RegistryClient::new(Settings::default());
    let access = anonymous();
    let image: ImageRef = format!("{}/a/b:1", server.host).parse().unwrap();
    let error = client.resolve(&image, &access).await.unwrap_err();
    assert!(error.is_not_found());
    let whole = format!("{error}: {}", error.cause.as_ref().unwrap());
    assert_eq!(whole, format!("{image}: not found"));
    let absent = Descriptor::of(OCI_LAYER, b"absent");
    assert!(
        fetched(&client, &image, &absent)
            .await
            .unwrap_err()
            .is_not_found()
    );
    let liar = Descriptor::new(OCI_LAYER, Digest::of(b"x"), 4);
    let push = client.push_blob(&image, &liar, stream(b"liar"), &access);
    assert_eq!(push.await.unwrap_err().kind, ErrorKind::Corrupt);
    let broken = || BackendError::new(ErrorKind::Other, "reading");
    let data = futures::stream::iter([Ok("li".into()), Err(broken())]).boxed();
    let push = client.push_blob(&image, &liar, data, &access).await;
    assert_eq!(push.unwrap_err().to_string(), "reading");
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
