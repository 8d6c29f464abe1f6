//! The domain's traits over the store. Converts, decides nothing.

use std::path::{Path, PathBuf};

use shipway_backend::{
    BackendError, ErrorKind, LayerId, LayerStore as Layers, NewLayer, Usage,
    layers::{LayerUpkeep, Pin},
};
use shipway_model::Digest;

use crate::{
    error::{Error, Result},
    model::CommitInfo,
    store::LayerStore,
};

impl Layers for LayerStore {
    fn create(&self) -> Result<NewLayer, BackendError> {
        self.create().map_err(|e| failed("creating a layer", e))
    }

    fn commit(&self, id: LayerId, usage: Usage, owner: &str) -> Result<(), BackendError> {
        let info = CommitInfo {
            usage: Some(usage),
            owners: vec![owner.into()],
            ..CommitInfo::default()
        };
        self.commit(id, info)
            .map_err(|e| failed(format!("committing layer {id}"), e))
    }

    fn flush(&self) -> Result<(), BackendError> {
        self.flush()
            .map_err(|e| failed("making committed layers durable", e))
    }

    fn discard(&self, id: LayerId) -> Result<(), BackendError> {
        self.discard(id)
            .map_err(|e| failed(format!("discarding layer {id}"), e))
    }

    fn path(&self, id: LayerId) -> Result<PathBuf, BackendError> {
        self.path(id)
            .map_err(|e| failed(format!("finding layer {id}"), e))
    }

    fn usage(&self, id: LayerId) -> Result<Usage, BackendError> {
        self.usage(id)
            .map_err(|e| failed(format!("measuring layer {id}"), e))
    }

    fn own(&self, ids: &[LayerId], owner: &str) -> Result<(), BackendError> {
        self.own(ids, owner)
            .map_err(|e| failed(format!("giving layers to {owner}"), e))
    }

    fn disown(&self, owner: &str) -> Result<(), BackendError> {
        self.disown(&[owner])
            .map_err(|e| failed(format!("taking layers from {owner}"), e))
    }

    fn pin(&self, ids: &[LayerId]) -> Result<Pin, BackendError> {
        self.pin(ids)
            .map(Pin::new)
            .map_err(|e| failed("pinning layers", e))
    }
}

impl LayerUpkeep for LayerStore {
    fn sync(&self) -> Result<(), BackendError> {
        self.sync()
            .map_err(|e| failed("syncing the layer store", e))
    }

    fn collect(&self) -> Result<Usage, BackendError> {
        let collected = self.collect().map_err(|e| failed("collecting layers", e))?;
        Ok(collected.usage)
    }

    fn adopt(&self, dir: &Path, owner: &str) -> Result<LayerId, BackendError> {
        let adopted = self.adopt_foreign(dir, owner);
        adopted.map_err(|e| failed(format!("using {} in place", dir.display()), e))
    }

    fn find_chain(&self, chain_id: &Digest) -> Result<Option<Vec<LayerId>>, BackendError> {
        Ok(self.find_chain(&chain_id.to_string()))
    }

    fn offer(&self, namespace: &str, chain: &[(Digest, LayerId)]) -> Result<Pin, BackendError> {
        let chain = chain
            .iter()
            .map(|(chain_id, id)| (chain_id.to_string(), *id));
        let offer = self.offer(namespace, chain);
        offer
            .map(Pin::new)
            .map_err(|e| failed(format!("offering layers to {namespace}"), e))
    }

    fn owners(&self) -> Result<Vec<(String, LayerId)>, BackendError> {
        Ok(self.all_owned())
    }

    fn scratch_dir(&self, name: &str) -> Result<PathBuf, BackendError> {
        self.scratch_dir(name)
            .map_err(|e| failed(format!("making the directory {name}"), e))
    }
}

fn failed(attempt: impl Into<String>, error: Error) -> BackendError {
    let kind = match &error {
        Error::NoEntry(_) | Error::NoParent(_) | Error::NoLayer(_) => ErrorKind::NotFound,
        Error::EntryExists(_) => ErrorKind::AlreadyExists,
        Error::HasChildren(_)
        | Error::WrongKind { .. }
        | Error::ParentNotCommitted(_)
        | Error::TooDeep { .. }
        | Error::NotOpen(_)
        | Error::InUse(_) => ErrorKind::FailedPrecondition,
        Error::UnusableForeign { .. } | Error::UnfitFilesystem { .. } => ErrorKind::Unsupported,
        Error::Damaged { .. } => ErrorKind::Corrupt,
        Error::Invalid(_) | Error::Io { .. } | Error::Metadata(_) => ErrorKind::Other,
    };
    BackendError::caused(kind, attempt, error)
}
