//! Pushes a made image: what the registry lacks, layers at once, then configurations, manifests and the index.

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use shipway_backend::RegistryAccess;
use shipway_model::{Descriptor, Failure, ImageRef};

use crate::attest::MadeAttestations;
use crate::image::Made;
use crate::{ExportEnv, Options};

/// Blobs that are pushed at a time.
const AT_ONCE: usize = 4;

pub(crate) async fn push(
    options: &Options,
    name: &str,
    made: &Made,
    env: &ExportEnv,
) -> Result<(), Failure> {
    let mut image: ImageRef = name
        .parse()
        .map_err(|e: shipway_model::reference::InvalidReference| Failure::from_error(&e))?;
    if options.push_by_digest {
        image.tag = None;
    }
    let access = env.access(options.insecure);
    env.report().part("pushing layers", "", 0, 0, false);
    let mut blobs: Vec<&Descriptor> = Vec::new();
    for each in &made.images {
        blobs.extend(each.layers.iter().chain([&each.config.0]));
    }
    let small = made.attestations.iter().flat_map(MadeAttestations::blobs);
    blobs.extend(small.map(|(descriptor, _)| descriptor));
    // Layers from an image of the same registry's are pushed from here as well: fetched lazily they are here by now.
    let mut each: Vec<BoxFuture<'_, Result<(), Failure>>> = Vec::new();
    for blob in blobs {
        each.push(Box::pin(push_blob(&image, blob, &access, made, env)));
    }
    futures::stream::iter(each)
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    env.report().part("pushing layers", "", 0, 0, true);
    let part = format!("pushing manifest for {name}@{}", made.target().digest);
    env.report().part(&part, "", 0, 0, false);
    let single = made.index.is_none();
    let images = made.images.iter().map(|each| &each.manifest);
    let attestations = made.attestations.iter().map(|each| &each.manifest);
    for (descriptor, bytes) in images.chain(attestations) {
        let to = if single {
            image.clone()
        } else {
            by_digest(&image, descriptor)
        };
        env.registry
            .push_manifest(&to, descriptor, bytes.clone(), &access)
            .await?;
    }
    if let Some((descriptor, bytes)) = &made.index {
        env.registry
            .push_manifest(&image, descriptor, bytes.clone(), &access)
            .await?;
    }
    env.report().part(&part, "", 0, 0, true);
    Ok(())
}

fn by_digest(image: &ImageRef, descriptor: &Descriptor) -> ImageRef {
    ImageRef {
        tag: None,
        digest: Some(descriptor.digest),
        ..image.clone()
    }
}

async fn push_blob(
    image: &ImageRef,
    blob: &Descriptor,
    access: &RegistryAccess,
    made: &Made,
    env: &ExportEnv,
) -> Result<(), Failure> {
    if env
        .registry
        .has_blob(image, &blob.digest, None, access)
        .await?
    {
        return Ok(());
    }
    let configs = made.images.iter().map(|each| &each.config);
    let said = made.attestations.iter().flat_map(MadeAttestations::blobs);
    let at_hand = configs
        .chain(said)
        .find(|(descriptor, _)| descriptor.digest == blob.digest);
    let data: shipway_backend::ByteStream = match at_hand {
        Some((_, bytes)) => {
            let bytes = bytes.clone();
            Box::pin(futures::stream::once(async move { Ok(bytes) }))
        }
        None => env.namespace().blobs.open(&blob.digest, 0).await?,
    };
    env.registry.push_blob(image, blob, data, access).await?;
    Ok(())
}
