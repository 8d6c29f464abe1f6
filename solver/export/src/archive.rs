//! The oci and docker exporters: an OCI layout, with Docker's manifest beside it for the docker kind, as a tar stream to the
//! client, or blob by blob into a content store of the client's.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use shipway_backend::{BackendError, ByteStream, ErrorKind};
use shipway_model::descriptor::OCI_INDEX;
use shipway_model::{Descriptor, Digest, Failure, ImageRef};
use shipway_tree::Time;
use shipway_tree::tarball::{Header, Type, Writer};
use tokio::sync::mpsc;

use crate::image::{Made, make, pretty};
use crate::{ExportEnv, Exportable, Options};

/// Alignment of tar entries.
const BLOCK: u64 = 512;

/// One file of the archive.
#[expect(clippy::large_enum_variant, reason = "a few at a time")]
enum Content {
    /// Small, at hand.
    Bytes(Bytes),
    /// In the content store.
    Stored(Descriptor),
    /// A directory.
    Directory,
}

pub(crate) async fn export(
    options: &Options,
    docker: bool,
    index: usize,
    what: &Exportable,
    env: &ExportEnv,
) -> Result<BTreeMap<String, String>, Failure> {
    if docker && what.results.len() > 1 {
        return Err(Failure::new(
            "docker exporter does not currently support exporting manifest lists",
        ));
    }
    let made = make(options, what, env).await?;
    let names = canonical(&options.names)?;
    let top = top_index(options, what, &made, &names)?;
    let mut response = made.response();
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        response.insert("image.name".into(), names.join(","));
    }
    let files = env.client()?.files();
    if !options.tar {
        for (descriptor, content) in blobs(&made) {
            let data = stream(content, env).await?;
            files
                .write_blob("export", &descriptor.digest, descriptor.size, data)
                .await?;
        }
        let key = "containerimage.descriptor".to_owned();
        response.entry(key).or_default();
        return Ok(response);
    }
    env.report().part("sending tarball", "", 0, 0, false);
    let entries = entries(&made, top, docker.then_some(&names[..]))?;
    let (to, data) = mpsc::channel(4);
    let send = files.send_stream(index, response.clone(), received(data));
    let (written, sent) = tokio::join!(write(entries, env, to), send);
    // A client that refuses the stream makes writing fail too: its own words come first.
    sent?;
    written?;
    env.report().part("sending tarball", "", 0, 0, true);
    Ok(response)
}

fn received(mut data: mpsc::Receiver<Result<Bytes, BackendError>>) -> ByteStream {
    Box::pin(futures::stream::poll_fn(move |cx| data.poll_recv(cx)))
}

fn canonical(names: &[String]) -> Result<Vec<ImageRef>, Failure> {
    let parse = |name: &String| {
        name.parse::<ImageRef>()
            .map_err(|e| Failure::from_error(&e))
    };
    names.iter().map(parse).collect()
}

/// Every blob of the image, once, the manifests last.
fn blobs(made: &Made) -> Vec<(Descriptor, Content)> {
    let mut seen: BTreeSet<Digest> = BTreeSet::new();
    let mut all = Vec::new();
    for image in &made.images {
        for layer in &image.layers {
            all.push((layer.clone(), Content::Stored(layer.clone())));
        }
        all.push((
            image.config.0.clone(),
            Content::Bytes(image.config.1.clone()),
        ));
    }
    let at_hand = |(descriptor, bytes): &(Descriptor, Bytes)| {
        (descriptor.clone(), Content::Bytes(bytes.clone()))
    };
    for attestations in &made.attestations {
        all.extend(attestations.blobs().map(at_hand));
    }
    all.extend(made.images.iter().map(|image| at_hand(&image.manifest)));
    all.extend(made.attestations.iter().map(|made| at_hand(&made.manifest)));
    if let Some((descriptor, bytes)) = &made.index {
        all.push((descriptor.clone(), Content::Bytes(bytes.clone())));
    }
    all.retain(|(descriptor, _)| seen.insert(descriptor.digest));
    all
}

/// The layout's `index.json`: what was made, once per name.
fn top_index(
    options: &Options,
    what: &Exportable,
    made: &Made,
    names: &[ImageRef],
) -> Result<Bytes, Failure> {
    let target = made.target();
    let epoch = options.epoch.or(what.epoch);
    let created = match epoch.and_then(|s| jiff::Timestamp::from_second(s).ok()) {
        Some(time) => time.to_string(),
        None => jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string(),
    };
    let with = |name: Option<&ImageRef>| {
        let mut descriptor = target.clone();
        let annotations = &mut descriptor.annotations;
        annotations.insert("org.opencontainers.image.created".into(), created.clone());
        if let Some(name) = name {
            annotations.insert("io.containerd.image.name".into(), name.to_string());
            if let Some(tag) = &name.tag {
                annotations.insert("org.opencontainers.image.ref.name".into(), tag.clone());
            }
        }
        descriptor
    };
    let manifests: Vec<Descriptor> = if names.is_empty() {
        vec![with(None)]
    } else {
        names.iter().map(|name| with(Some(name))).collect()
    };
    pretty(&json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}))
}

/// Files of the archive by path; `docker` are the names for Docker's own manifest.
fn entries(
    made: &Made,
    index: Bytes,
    docker: Option<&[ImageRef]>,
) -> Result<BTreeMap<String, Content>, Failure> {
    let layout = Bytes::from_static(br#"{"imageLayoutVersion":"1.0.0"}"#);
    let mut entries = BTreeMap::from([
        ("oci-layout".to_owned(), Content::Bytes(layout)),
        ("index.json".to_owned(), Content::Bytes(index)),
        ("blobs/".to_owned(), Content::Directory),
        ("blobs/sha256/".to_owned(), Content::Directory),
    ]);
    for (descriptor, content) in blobs(made) {
        entries.insert(format!("blobs/sha256/{}", descriptor.digest.hex()), content);
    }
    if let (Some(names), Some(image)) = (docker, made.images.first()) {
        let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let tags: Vec<String> = names.iter().map(ImageRef::familiar).collect();
        let layers: Vec<String> = image
            .layers
            .iter()
            .map(|layer| path(&layer.digest))
            .collect();
        let manifest: Value = json!([{
            "Config": path(&image.config.0.digest),
            "RepoTags": if tags.is_empty() { Value::Null } else { json!(tags) },
            "Layers": layers,
        }]);
        let bytes = serde_json::to_vec(&manifest).map_err(|e| Failure::from_error(&e))?;
        entries.insert("manifest.json".to_owned(), Content::Bytes(bytes.into()));
    }
    Ok(entries)
}

async fn stream(content: Content, env: &ExportEnv) -> Result<ByteStream, Failure> {
    Ok(match content {
        Content::Bytes(bytes) => Box::pin(futures::stream::once(async move { Ok(bytes) })),
        Content::Stored(descriptor) => env.namespace().blobs.open(&descriptor.digest, 0).await?,
        Content::Directory => Box::pin(futures::stream::empty()),
    })
}

/// Writes the archive: entries sorted by path, all of 1970.
async fn write(
    entries: BTreeMap<String, Content>,
    env: &ExportEnv,
    to: mpsc::Sender<Result<Bytes, BackendError>>,
) -> Result<(), Failure> {
    let gone = |_| Failure::new("the client stopped taking the tarball");
    for (path, content) in entries {
        let size = match &content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Stored(descriptor) => descriptor.size,
            Content::Directory => 0,
        };
        let header = header(&path, size, matches!(content, Content::Directory))?;
        to.send(Ok(header)).await.map_err(gone)?;
        let mut data = stream(content, env).await?;
        let mut sent = 0;
        while let Some(chunk) = data.next().await {
            let chunk = chunk?;
            sent += chunk.len() as u64;
            to.send(Ok(chunk)).await.map_err(gone)?;
        }
        if sent != size {
            let attempt = format!("reading {path} for the tarball: {sent} bytes instead of {size}");
            return Err(BackendError::new(ErrorKind::Corrupt, attempt).into());
        }
        let padding = size.next_multiple_of(BLOCK) - size;
        to.send(Ok(zeros(padding))).await.map_err(gone)?;
    }
    to.send(Ok(zeros(2 * BLOCK))).await.map_err(gone)
}

fn zeros(count: u64) -> Bytes {
    vec![0; usize::try_from(count).unwrap_or(0)].into()
}

fn header(path: &str, size: u64, directory: bool) -> Result<Bytes, Failure> {
    let kind = if directory { Type::Dir } else { Type::File };
    let mode = match path {
        _ if directory => 0o755,
        "index.json" | "oci-layout" | "manifest.json" => 0o644,
        _ => 0o444,
    };
    let mut bytes = Vec::new();
    let header = Header {
        mode,
        size,
        mtime: Time { sec: 0, nsec: 0 },
        ..Header::new(path.as_bytes(), kind)
    };
    Writer::new(&mut bytes)
        .header(&header)
        .map_err(|e| Failure::from_error(&e))?;
    Ok(bytes.into())
}
