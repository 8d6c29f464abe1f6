//! One `Write` call: a reference, then data, then a commit. What is left uncommitted can be taken up again.

use std::sync::Arc;

use shipway_proto::content::{WriteAction, WriteContentRequest, WriteContentResponse};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::store::{Ingest, Shared, Store, lock};

type Answers = mpsc::Sender<Result<WriteContentResponse, Status>>;

/// Serves a call until it commits, fails or is given up.
pub(super) async fn serve(
    store: Arc<Store>,
    mut requests: Streaming<WriteContentRequest>,
    answers: Answers,
) {
    let mut write = Write {
        store,
        reference: String::new(),
        ingest: None,
    };
    loop {
        let Ok(Some(request)) = requests.message().await else {
            break;
        };
        let answered = write.step(&request);
        let over = answered.is_err() || request.action() == WriteAction::Commit;
        if answers.send(answered).await.is_err() || over {
            break;
        }
    }
    if let Some(ingest) = &write.ingest {
        lock(ingest).busy = false;
    }
}

struct Write {
    store: Arc<Store>,
    reference: String,
    ingest: Option<Shared>,
}

impl Write {
    fn step(&mut self, request: &WriteContentRequest) -> Result<WriteContentResponse, Status> {
        let shared = match &self.ingest {
            Some(shared) => Arc::clone(shared),
            None if request.r#ref.is_empty() => {
                return Err(Status::invalid_argument(
                    "first message must have a reference",
                ));
            }
            None => {
                let shared = self
                    .store
                    .begin(&request.r#ref, request.total, &request.expected)?;
                self.reference.clone_from(&request.r#ref);
                self.ingest.insert(shared).clone()
            }
        };
        let mut ingest = lock(&shared);
        if request.total > 0 {
            ingest.total = request.total;
        }
        if !request.expected.is_empty() {
            ingest.expected.clone_from(&request.expected);
        }
        match request.action() {
            WriteAction::Stat => Ok(answer(request.action(), &ingest, ingest.digest())),
            WriteAction::Write => {
                ingest.write(request.offset, &request.data)?;
                Ok(answer(request.action(), &ingest, String::new()))
            }
            WriteAction::Commit => {
                if !request.data.is_empty() {
                    ingest.write(request.offset, &request.data)?;
                }
                let (total, expected) = (request.total, &request.expected);
                let digest = self
                    .store
                    .commit(&self.reference, &ingest, total, expected)?;
                Ok(answer(request.action(), &ingest, digest))
            }
        }
    }
}

fn answer(action: WriteAction, ingest: &Ingest, digest: String) -> WriteContentResponse {
    WriteContentResponse {
        action: action.into(),
        started_at: Some(ingest.started),
        updated_at: Some(ingest.updated),
        offset: ingest.offset,
        total: ingest.total,
        digest,
    }
}
