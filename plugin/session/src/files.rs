//! The file services of a client under one trait. Each is decided in a module of its own.

use std::collections::BTreeMap;

use async_trait::async_trait;
use shipway_backend::session::{Files, SendTree, SyncRequest, SyncSink, Transferred};
use shipway_backend::{BackendError, ByteStream};
use shipway_model::Digest;

use crate::client::Client;

#[async_trait]
impl Files for Client {
    async fn receive(
        &self,
        request: SyncRequest,
        sink: Box<dyn SyncSink>,
        progress: Transferred,
    ) -> Result<Box<dyn SyncSink>, BackendError> {
        self.receive_dir(request, sink, progress).await
    }

    async fn send_stream(
        &self,
        exporter: usize,
        metadata: BTreeMap<String, String>,
        data: ByteStream,
    ) -> Result<(), BackendError> {
        self.send_bytes(exporter, &metadata, data).await
    }

    async fn send_trees(
        &self,
        exporter: usize,
        trees: Vec<SendTree>,
        multi: bool,
        progress: Transferred,
    ) -> Result<(), BackendError> {
        self.send_dirs(exporter, trees, multi, progress).await
    }

    async fn blob_size(&self, store: &str, digest: &Digest) -> Result<u64, BackendError> {
        self.stored_size(store, digest).await
    }

    async fn read_blob(&self, store: &str, digest: &Digest) -> Result<ByteStream, BackendError> {
        self.read_stored(store, digest).await
    }

    async fn write_blob(
        &self,
        store: &str,
        digest: &Digest,
        size: u64,
        data: ByteStream,
    ) -> Result<(), BackendError> {
        self.write_stored(store, digest, size, data).await
    }

    async fn pull(&self, host: &str, path: &str) -> Result<ByteStream, BackendError> {
        self.pull_stream(host, path).await
    }
}
