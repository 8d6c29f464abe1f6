//! Image records. Never touches what an image names.

use std::collections::BTreeMap;

use async_trait::async_trait;
use containerd_client::services::v1 as wire;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::types;
use shipway_backend::{BackendError, ErrorKind, Image, Images};
use shipway_model::Descriptor;
use tonic::Code;
use tonic::transport::Channel;

use crate::connection::repeat;
use crate::error::failed;
use crate::scope::Scope;

/// Tries to create or replace a record that others delete and create at the same time.
const TRIES: usize = 5;

impl Scope {
    fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.connection.channel.clone())
    }
}

#[async_trait]
impl Images for Scope {
    async fn get(&self, name: &str) -> Result<Option<Image>, BackendError> {
        let attempt = || format!("reading image {name:?}");
        let answer = repeat(|| {
            let name = name.to_owned();
            let (mut client, request) =
                (self.images(), self.request(wire::GetImageRequest { name }));
            async move { client.get(request).await }
        });
        match answer.await {
            Ok(answer) => answer
                .image
                .map(|image| to_image(image, &attempt()))
                .transpose(),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(failed(attempt(), &status)),
        }
    }

    async fn put(&self, image: Image) -> Result<(), BackendError> {
        self.ensure().await?;
        let attempt = format!("naming image {:?}", image.name);
        let image = Some(to_wire(image));
        let mut last = tonic::Status::ok("");
        for _ in 0..TRIES {
            let created = repeat(|| {
                let message = wire::CreateImageRequest {
                    image: image.clone(),
                    ..Default::default()
                };
                let (mut client, request) = (self.images(), self.request(message));
                async move { client.create(request).await }
            });
            match created.await {
                Ok(_) => return Ok(()),
                Err(status) if status.code() == Code::AlreadyExists => {}
                Err(status) => return Err(failed(attempt, &status)),
            }
            let replaced = repeat(|| {
                let message = wire::UpdateImageRequest {
                    image: image.clone(),
                    ..Default::default()
                };
                let (mut client, request) = (self.images(), self.request(message));
                async move { client.update(request).await }
            });
            match replaced.await {
                Ok(_) => return Ok(()),
                Err(status) if status.code() == Code::NotFound => last = status,
                Err(status) => return Err(failed(attempt, &status)),
            }
        }
        Err(failed(attempt, &last))
    }
}

fn to_wire(image: Image) -> wire::Image {
    let target = types::Descriptor {
        media_type: image.target.media_type,
        digest: image.target.digest.to_string(),
        size: image.target.size.try_into().unwrap_or(i64::MAX),
        annotations: image.target.annotations.into_iter().collect(),
    };
    wire::Image {
        name: image.name,
        labels: image.labels.into_iter().collect(),
        target: Some(target),
        ..Default::default()
    }
}

fn to_image(image: wire::Image, attempt: &str) -> Result<Image, BackendError> {
    let corrupt = |why: String| BackendError::caused(ErrorKind::Corrupt, attempt, why);
    let target = image
        .target
        .ok_or_else(|| corrupt("it has no target".into()))?;
    let digest = target.digest.parse();
    let digest = digest.map_err(|error| corrupt(format!("{error}")))?;
    let size = u64::try_from(target.size).map_err(|error| corrupt(format!("{error}")))?;
    Ok(Image {
        name: image.name,
        target: Descriptor {
            annotations: target.annotations.into_iter().collect(),
            ..Descriptor::new(&target.media_type, digest, size)
        },
        labels: image.labels.into_iter().collect::<BTreeMap<_, _>>(),
    })
}
