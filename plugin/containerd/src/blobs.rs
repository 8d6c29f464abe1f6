//! Blobs of one namespace: what is known of them, reading, labels. Writing is in `upload` and `gather`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::StreamExt as _;
use prost_types::FieldMask;
use shipway_backend::{BackendError, BlobInfo, BlobSlot, Blobs, ByteStream, Lease};
use shipway_model::Digest;
use shipway_proto::content as wire;
use shipway_proto::content::content_client::ContentClient;
use tonic::Code;
use tonic::transport::Channel;

use crate::connection::repeat;
use crate::error::failed;
use crate::gather::Gathered;
use crate::scope::Scope;

impl Scope {
    pub(crate) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.connection.channel.clone())
            .max_decoding_message_size(shipway_proto::MESSAGE_LIMIT)
    }
}

#[async_trait]
impl Blobs for Scope {
    async fn info(&self, digest: &Digest) -> Result<Option<BlobInfo>, BackendError> {
        let answer = repeat(|| {
            let digest = digest.to_string();
            let (mut client, request) =
                (self.content(), self.request(wire::InfoRequest { digest }));
            async move { client.info(request).await }
        });
        match answer.await {
            Ok(answer) => {
                let info = answer.info.unwrap_or_default();
                Ok(Some(BlobInfo {
                    size: u64::try_from(info.size).unwrap_or_default(),
                    labels: info.labels,
                }))
            }
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(failed(format!("looking for blob {digest}"), &status)),
        }
    }

    async fn open(&self, digest: &Digest, offset: u64) -> Result<ByteStream, BackendError> {
        let attempt = format!("reading blob {digest}");
        let message = wire::ReadContentRequest {
            digest: digest.to_string(),
            offset: offset.try_into().unwrap_or(i64::MAX),
            size: 0,
        };
        let answers = repeat(|| {
            let (mut client, request) = (self.content(), self.request(message.clone()));
            async move { client.read(request).await }
        });
        let answers = answers.await.map_err(|status| failed(&attempt, &status))?;
        let chunks = answers.map(move |answer| match answer {
            Ok(answer) => Ok(answer.data),
            Err(status) => Err(failed(&attempt, &status)),
        });
        Ok(chunks.boxed())
    }

    async fn write(
        &self,
        lease: &Lease,
        name: &str,
        expected: Option<(Digest, u64)>,
        labels: BTreeMap<String, String>,
    ) -> Result<BlobSlot, BackendError> {
        if expected.is_none() {
            let blob = Gathered::new(self.clone(), lease.clone(), name, labels);
            return Ok(BlobSlot::Write(Box::new(blob)));
        }
        self.upload(lease, name, expected, labels).await
    }

    async fn label(
        &self,
        digest: &Digest,
        labels: BTreeMap<String, String>,
    ) -> Result<(), BackendError> {
        if labels.is_empty() {
            return Ok(());
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = wire::Info {
            digest: digest.to_string(),
            labels,
            ..Default::default()
        };
        let message = wire::UpdateRequest {
            info: Some(info),
            update_mask: Some(FieldMask { paths }),
        };
        let updated = repeat(|| {
            let (mut client, request) = (self.content(), self.request(message.clone()));
            async move { client.update(request).await }
        });
        let updated = updated.await;
        updated.map_err(|status| failed(format!("labelling blob {digest}"), &status))?;
        Ok(())
    }

    async fn delete(&self, digest: &Digest) -> Result<(), BackendError> {
        let deleted = repeat(|| {
            let digest = digest.to_string();
            let message = wire::DeleteContentRequest { digest };
            let (mut client, request) = (self.content(), self.request(message));
            async move { client.delete(request).await }
        });
        match deleted.await {
            Err(status) if status.code() != Code::NotFound => {
                Err(failed(format!("deleting blob {digest}"), &status))
            }
            _ => Ok(()),
        }
    }
}
