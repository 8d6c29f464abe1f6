//! The exchange with the daemon that makes a build: Status, Session, Solve and the bridge, all at once. Decides what
//! outlives what, and which of several errors is the one to report.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use shipway_proto::control::{ListWorkersRequest, SolveRequest, StatusRequest, StatusResponse};
use shipway_proto::gateway::{self, EvaluateRequest, PingRequest, ReturnRequest};
use shipway_proto::{pb, rpc};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use super::cache::{self, Caches};
use super::failed::FailedStep;
use super::plan::{OnError, Plan};
use super::{kept, outcome, request, shell};
use crate::connect::Daemon;
use crate::error::Error;
use crate::session::{self, SessionName, Tunnel};

/// How long the status stream may be silent once the build is over.
const STATUS_SILENCE: Duration = Duration::from_secs(5);

/// How long the bridge's error waits for the build's own, which says more.
const SOLVE_GRACE: Duration = Duration::from_secs(5);

const PING_LIMIT: Duration = Duration::from_secs(15);

/// What a build is made of.
pub(crate) struct Build<'a> {
    /// Who builds.
    pub(crate) daemon: &'a Daemon,
    /// What to build.
    pub(crate) plan: &'a Plan,
    /// The graph, where no frontend makes one.
    pub(crate) definition: Option<pb::Definition>,
    /// The build's own name.
    pub(crate) reference: &'a str,
    /// Where progress goes.
    pub(crate) progress: mpsc::Sender<StatusResponse>,
    /// Fires when the user has had enough.
    pub(crate) interrupted: CancellationToken,
}

/// What a build ended with.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What the exporters reported.
    pub(crate) exporters: BTreeMap<String, String>,
    /// What the frontend said about its result.
    pub(crate) metadata: BTreeMap<String, prost::bytes::Bytes>,
}

/// Builds. Progress ends when the future does.
pub(crate) async fn run(build: Build<'_>, warn: &mut dyn FnMut(String)) -> Result<Outcome, Error> {
    let mut control = build.daemon.control();
    let workers = control.list_workers(ListWorkersRequest::default());
    let workers = workers.await.map_err(Error::call("listing workers"))?;

    let caches = cache::prepare(build.plan, warn)?;
    let name = SessionName {
        id: uuid::Uuid::new_v4().simple().to_string(),
        shared_key: shared_key(build.plan.locals.get("context").map(PathBuf::as_path)),
    };
    let offer = session::offer(build.plan, caches.stores.clone());
    let tunnel = Tunnel::open(build.daemon.control(), &name, &offer.methods);
    let mut attrs = request::frontend_attrs(build.plan, &caches.imports);
    if build.plan.on_error == OnError::Keep {
        attrs.insert(kept::OPTION.to_owned(), kept::image(build.reference));
    }
    let request = request::solve(
        build.plan,
        build.reference,
        &name.id,
        caches.options.clone(),
        attrs.clone(),
    );

    let (over, build_over) = watch::channel(false);
    let session = async {
        let mut ending = build_over.clone();
        tokio::select! {
            // An early end shows in the build's own error.
            _ended = tunnel.serve(offer.routes) => {}
            _told = ending.wait_for(|over| *over) => {}
        }
    };
    let solving = async {
        let answered = solve(&build, request, attrs, &caches).await;
        over.send_replace(true);
        answered
    };
    let (outcome, (), status) = tokio::join!(solving, session, follow(&build, build_over.clone()));
    if let (OnError::Keep, Err(error)) = (build.plan.on_error, &outcome) {
        kept::tell(error, &workers.into_inner().record);
    }
    let outcome = outcome?;
    status?;
    outcome::update_indexes(&caches, &outcome.exporters)?;
    Ok(outcome)
}

/// A name for the context's directory. Without one the daemon mirrors all contexts to one place, so that two projects
/// built in turn send each other's files away.
fn shared_key(context: Option<&Path>) -> String {
    let Some(path) = context.and_then(|path| path.canonicalize().ok()) else {
        return String::new();
    };
    let host = rustix::system::uname();
    let mut hash = Sha256::new();
    hash.update(host.nodename().to_bytes());
    hash.update([0]);
    hash.update(path.as_os_str().as_encoded_bytes());
    let hash = hash.finalize();
    hash.iter()
        .take(8)
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The build itself beside the bridge that drives it.
async fn solve(
    build: &Build<'_>,
    request: SolveRequest,
    attrs: BTreeMap<String, String>,
    caches: &Caches,
) -> Result<Outcome, Error> {
    let mut control = build.daemon.control();
    let solve = control.solve(request);
    let driven = drive(build, attrs, caches);
    tokio::pin!(solve, driven);
    let mut metadata = None;
    let solved = loop {
        tokio::select! {
            () = build.interrupted.cancelled() => return Err(Error::Canceled),
            solved = &mut solve => break solved,
            result = &mut driven, if metadata.is_none() => match result {
                Ok(found) => metadata = Some(found),
                // Solve fails too, and its error knows more about why.
                Err(error) => match tokio::time::timeout(SOLVE_GRACE, &mut solve).await {
                    Ok(Err(status)) => break Err(status),
                    _ => return Err(error),
                },
            },
        }
    };
    let response = solved.map_err(Error::call("failed to solve"))?.into_inner();
    Ok(Outcome {
        exporters: response.exporter_response,
        metadata: metadata.unwrap_or_default(),
    })
}

/// A bridge call that names its build.
pub(super) fn named<T>(build: &Build<'_>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Ok(id) = MetadataValue::try_from(build.reference) {
        request
            .metadata_mut()
            .insert("buildkit-controlapi-buildid", id);
    }
    request
}

/// Asks for the result and returns it, or the error, to the daemon.
async fn drive(
    build: &Build<'_>,
    attrs: BTreeMap<String, String>,
    caches: &Caches,
) -> Result<BTreeMap<String, prost::bytes::Bytes>, Error> {
    let mut bridge = build.daemon.bridge();
    let mut ping = named(build, PingRequest {});
    ping.set_timeout(PING_LIMIT);
    let answer = bridge
        .ping(ping)
        .await
        .map_err(Error::call("failed to ping the build"))?;
    let can_return = |cap: &shipway_proto::apicaps::ApiCap| cap.id == "return" && cap.enabled;
    if !answer.get_ref().frontend_api_caps.iter().any(can_return) {
        return Err(Error::Answer(
            "the daemon is too old: it can't take a returned result".to_owned(),
        ));
    }
    let request =
        request::bridge_solve(build.plan, build.definition.clone(), &caches.imports, attrs);
    match bridge.solve(named(build, request)).await {
        Ok(response) => {
            let mut result = response.into_inner().result.unwrap_or_default();
            if result.result.is_none() {
                result.result = Some(gateway::result::Result::Ref(gateway::Ref::default()));
            }
            let metadata = result.metadata.clone();
            if build.plan.on_error == OnError::Shell {
                examine(build, &result).await;
            }
            let message = ReturnRequest {
                result: Some(result),
                error: None,
            };
            let returned = bridge.r#return(named(build, message)).await;
            returned.map_err(Error::call("failed to return the result"))?;
            Ok(metadata)
        }
        Err(status) => {
            let message = ReturnRequest {
                result: None,
                error: Some(as_message(&status)),
            };
            // The build fails whether or not this arrives; its own error is the one to show.
            let _returned = bridge.r#return(named(build, message)).await;
            Err(Error::call("failed to solve")(status))
        }
    }
}

/// Runs the result's steps, and opens a shell in the one that fails. The build's own error follows.
async fn examine(build: &Build<'_>, result: &gateway::Result) {
    let refs = match &result.result {
        Some(gateway::result::Result::Ref(of)) => vec![of.id.clone()],
        Some(gateway::result::Result::Refs(map)) => {
            map.refs.values().map(|of| of.id.clone()).collect()
        }
        _ => Vec::new(),
    };
    let mut bridge = build.daemon.bridge();
    for id in refs.into_iter().filter(|id| !id.is_empty()) {
        let evaluated = bridge.evaluate(named(build, EvaluateRequest { r#ref: id }));
        let Err(status) = evaluated.await else {
            continue;
        };
        eprintln!("error: {}", status.message());
        match FailedStep::of(&status) {
            Some(step) => {
                eprintln!("a shell in the failed step's filesystem; its end is the build's:");
                if let Err(error) = shell::open(build, step).await {
                    eprintln!("error: {error}");
                }
            }
            None => {
                eprintln!("what failed is no process that left a filesystem: no shell is opened");
            }
        }
        return;
    }
}

/// A status as a message, with its details untouched.
fn as_message(status: &Status) -> rpc::Status {
    let details = rpc::Status::decode(status.details()).map(|full| full.details);
    rpc::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: details.unwrap_or_default(),
    }
}

/// Hands progress on until the daemon ends it, or is silent for too long after the build.
async fn follow(build: &Build<'_>, mut over: watch::Receiver<bool>) -> Result<(), Error> {
    let mut control = build.daemon.control();
    let request = StatusRequest {
        r#ref: build.reference.to_owned(),
    };
    let open = control.status(request);
    let mut stream = tokio::select! {
        opened = open => opened.map_err(Error::call("failed to get status"))?.into_inner(),
        () = silence(&mut over) => return Ok(()),
    };
    loop {
        let message = tokio::select! {
            message = stream.message() => message.map_err(Error::call("failed to receive status"))?,
            () = silence(&mut over) => return Ok(()),
        };
        let Some(message) = message else {
            return Ok(());
        };
        if build.progress.send(message).await.is_err() {
            return Ok(());
        }
    }
}

/// Waits for the build to be over, and then for as long as the stream may be silent.
async fn silence(over: &mut watch::Receiver<bool>) {
    // The sender lives as long as the build.
    let _told = over.wait_for(|over| *over).await;
    tokio::time::sleep(STATUS_SILENCE).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_has_a_key_of_its_own() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = shared_key(Some(a.path()));
        assert_eq!(key.len(), 16);
        assert_eq!(shared_key(Some(&a.path().join("."))), key);
        assert_ne!(shared_key(Some(b.path())), key);
        assert_eq!(shared_key(None), "");
    }
}
