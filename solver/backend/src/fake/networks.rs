//! Networks that are names only.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::lock;
use crate::{BackendError, NetworkUse, Networks};

/// Networks without a kernel: each is an empty file in a directory.
#[derive(Debug, Clone)]
pub struct FakeNetworks {
    dir: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    made: usize,
    free: Vec<PathBuf>,
}

struct Lent {
    path: PathBuf,
    /// Where it goes afterwards; nowhere if it has a name.
    back: Option<Arc<Mutex<State>>>,
}

impl FakeNetworks {
    /// Networks in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            state: Arc::default(),
        }
    }

    /// How many there have been.
    #[must_use]
    pub fn made(&self) -> usize {
        lock(&self.state).made
    }
}

impl NetworkUse for Lent {
    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(state) = &self.back {
            lock(state).free.push(self.path.clone());
        }
    }
}

#[async_trait]
impl Networks for FakeNetworks {
    async fn enter(&self, hostname: Option<&str>) -> Result<Box<dyn NetworkUse>, BackendError> {
        let mut state = lock(&self.state);
        let free = if hostname.is_none() {
            state.free.pop()
        } else {
            None
        };
        let path = if let Some(path) = free {
            path
        } else {
            state.made += 1;
            let path = self.dir.join(state.made.to_string());
            std::fs::write(&path, hostname.unwrap_or_default()).map_err(|error| {
                BackendError::caused(crate::ErrorKind::Other, "making a network", error)
            })?;
            path
        };
        let back = hostname.is_none().then(|| Arc::clone(&self.state));
        Ok(Box::new(Lent { path, back }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn they_pass_the_suite() {
        let dir = tempfile::tempdir().unwrap();
        crate::suite::network::all(&FakeNetworks::new(dir.path())).await;
    }
}
