//! Receives a client's directory: which packets are believed, what is asked for, when it is complete. The files
//! themselves are the sink's.
//!
//! One blocking thread reads packets and calls the sink, so that a list of 50,000 entries costs no task switch each.
//! Several calls list parts of the directory side by side: Go's client flushes each message of a call before it makes
//! the next, and messages of several calls share a flush.

use std::collections::{HashMap, HashSet};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::Fuse;
use prost::Message as _;
use shipway_backend::session::{SyncRequest, SyncSink, Transferred};
use shipway_backend::{BackendError, ErrorKind};
use shipway_proto::MESSAGE_LIMIT;
use shipway_proto::filesync::file_sync_client::FileSyncClient;
use shipway_proto::fsutil::packet::PacketType;
use shipway_proto::fsutil::{Packet, Stat};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, Streaming};

use crate::channel::{Abort, origin};
use crate::client::Client;
use crate::error::malformed;
use crate::gofs;
use crate::lists::{Lists, Origin};
use crate::metadata::Options;
use crate::validate::Validator;

const METHOD: &str = "/moby.filesync.v1.FileSync/DiffCopy";
/// A client that walks a huge directory of which nothing is wanted is silent for a while, but not for this long.
const STALL: Duration = Duration::from_mins(10);
/// How often progress is told.
const TOLD: Duration = Duration::from_millis(100);
/// By how much a file may have grown since it was listed, beside doubling.
const GROWTH: u64 = 64 << 20;

/// Metadata of each call that a transfer makes: one for the directories of each group beside the rest, and one for the
/// rest.
fn calls(request: &SyncRequest, attempt: &str) -> Result<Vec<MetadataMap>, BackendError> {
    let call = |include: &[String], exclude: &[&[String]], follow: &[String]| {
        Options::default()
            .with("dir-name", [request.name.as_str()])
            .with("followpaths", follow.iter().map(String::as_str))
            .with(
                "exclude-patterns",
                exclude.iter().copied().flatten().map(String::as_str),
            )
            .with("include-patterns", include.iter().map(String::as_str))
            .into_map(attempt)
    };
    let mut exclude = vec![request.exclude.as_slice()];
    // A call without patterns would list everything.
    let beside = request.beside.iter().filter(|group| !group.is_empty());
    let mut all: Vec<MetadataMap> = beside
        .map(|group| call(group, &exclude, &[]))
        .collect::<Result<_, _>>()?;
    exclude.extend(request.beside.iter().map(Vec::as_slice));
    all.push(call(&request.include, &exclude, &request.follow)?);
    Ok(all)
}

impl Client {
    /// Receives a directory into `sink`.
    pub(crate) async fn receive_dir(
        &self,
        request: SyncRequest,
        sink: Box<dyn SyncSink>,
        progress: Transferred,
    ) -> Result<Box<dyn SyncSink>, BackendError> {
        let attempt = format!("loading {:?} from the client", request.name);
        self.require(METHOD, &attempt)?;
        let stop = CancellationToken::new();
        // Dropping this future must stop both the thread and the client.
        let guard = stop.clone().drop_guard();
        let calls = calls(&request, &attempt)?
            .into_iter()
            .map(|metadata| self.call(metadata, &attempt, &stop));
        let calls = futures::future::try_join_all(calls).await?;
        let transfer = Transfer {
            client: self.clone(),
            state: Receiver::new(sink, attempt.clone(), calls.len()),
            calls,
            turn: 0,
            stop,
            progress: Progress::new(progress),
        };
        let runtime = tokio::runtime::Handle::current();
        let thread = tokio::task::spawn_blocking(move || runtime.block_on(transfer.run()));
        let result = thread
            .await
            .map_err(|panic| BackendError::caused(ErrorKind::Other, attempt, panic))?;
        drop(guard);
        result
    }

    async fn call(
        &self,
        metadata: MetadataMap,
        attempt: &str,
        stop: &CancellationToken,
    ) -> Result<Call, BackendError> {
        let (asks, asked) = mpsc::unbounded_channel();
        let mut call = Request::new(UnboundedReceiverStream::new(asked));
        *call.metadata_mut() = metadata;
        call.extensions_mut().insert(Abort(stop.clone()));
        let mut client = FileSyncClient::with_origin(self.channel(), origin())
            .max_decoding_message_size(MESSAGE_LIMIT);
        let packets = self.run(attempt, client.diff_copy(call)).await?;
        Ok(Call {
            packets: packets.into_inner().fuse(),
            asks,
        })
    }
}

/// One call of a transfer.
struct Call {
    packets: Fuse<Streaming<Packet>>,
    asks: mpsc::UnboundedSender<Packet>,
}

impl Call {
    fn send(&self, kind: PacketType, id: u32) {
        let packet = Packet {
            r#type: kind.into(),
            id,
            ..Default::default()
        };
        // A client that no longer listens is noticed by reading from it.
        let _unheard = self.asks.send(packet);
    }
}

/// The thread's side of a transfer.
struct Transfer {
    client: Client,
    calls: Vec<Call>,
    /// The call that is looked at first.
    turn: usize,
    stop: CancellationToken,
    state: Receiver,
    progress: Progress,
}

impl Transfer {
    async fn run(mut self) -> Result<Box<dyn SyncSink>, BackendError> {
        let mut asks = Vec::new();
        while let Some((call, packet)) = self.next().await? {
            self.progress.add(packet.encoded_len() as u64);
            let step = self.state.packet(call, packet, &mut asks)?;
            for Origin { call, id } in asks.drain(..) {
                self.calls[call].send(PacketType::PacketReq, id);
            }
            match step {
                Step::Nothing => {}
                Step::Complete => {
                    for call in &self.calls {
                        call.send(PacketType::PacketFin, 0);
                    }
                    self.state.end()?;
                }
                Step::Over => break,
            }
        }
        self.progress.tell();
        self.state.into_sink()
    }

    /// The next packet of any call; `None` when one that is still needed has ended, or all have.
    async fn next(&mut self) -> Result<Option<(usize, Packet)>, BackendError> {
        let (calls, turn) = (&mut self.calls, &mut self.turn);
        let is_complete = self.state.is_complete();
        let lists = &self.state.lists;
        let packet = std::future::poll_fn(|cx| poll_calls(calls, lists, turn, is_complete, cx));
        tokio::select! {
            biased;
            packet = packet => match packet.transpose() {
                Ok(packet) => Ok(packet),
                // The list and the data are complete: how the client then leaves does not matter.
                Err(_) if is_complete => Ok(None),
                Err(status) => Err(self.client.failed(&self.state.attempt, &status)),
            },
            () = self.stop.cancelled() => {
                let attempt = &self.state.attempt;
                Err(BackendError::new(ErrorKind::Cancelled, attempt.clone()))
            }
            () = self.client.closed_token().cancelled() => Err(self.client.gone()),
            () = tokio::time::sleep(STALL) => {
                let silent = Status::deadline_exceeded("client sends nothing");
                Err(self.client.failed(&self.state.attempt, &silent))
            }
        }
    }
}

/// A packet of the call whose turn it is or of the next that has one. A call that ends is the end, unless the transfer
/// `is_complete`: then the last one is.
fn poll_calls(
    calls: &mut [Call],
    lists: &Lists,
    turn: &mut usize,
    is_complete: bool,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<(usize, Packet), Status>>> {
    let mut ended = 0;
    for place in 0..calls.len() {
        let at = (*turn + place) % calls.len();
        if lists.is_ahead(at) {
            continue;
        }
        match calls[at].packets.poll_next_unpin(cx) {
            Poll::Ready(Some(packet)) => {
                *turn = at;
                return Poll::Ready(Some(packet.map(|packet| (at, packet))));
            }
            Poll::Ready(None) if is_complete => ended += 1,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
    }
    if ended == calls.len() {
        return Poll::Ready(None);
    }
    Poll::Pending
}

struct Progress {
    tell: Transferred,
    bytes: u64,
    told: Instant,
}

impl Progress {
    fn new(tell: Transferred) -> Self {
        Self {
            tell,
            bytes: 0,
            told: Instant::now(),
        }
    }

    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.told.elapsed() >= TOLD {
            self.tell();
            self.told = Instant::now();
        }
    }

    fn tell(&self) {
        (self.tell)(self.bytes);
    }
}

/// What a packet leads to, beside entries that are asked for.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// All that was asked for is here.
    Complete,
    /// The client has said goodbye on every call.
    Over,
}

/// An entry whose data is under way.
struct Wanted {
    /// What the sink knows it by.
    index: u32,
    /// How much more of it is believed.
    left: u64,
}

/// One transfer: takes packets, says what to do.
struct Receiver {
    attempt: String,
    sink: Box<dyn SyncSink>,
    lists: Lists,
    list: Validator,
    wanted: HashMap<Origin, Wanted>,
    complete: bool,
    /// Calls on which the client has not said goodbye.
    open: HashSet<usize>,
}

impl Receiver {
    fn new(sink: Box<dyn SyncSink>, attempt: String, calls: usize) -> Self {
        Self {
            attempt,
            sink,
            lists: Lists::new(calls),
            list: Validator::default(),
            wanted: HashMap::new(),
            complete: false,
            open: (0..calls).collect(),
        }
    }

    /// Takes a packet of a call; what is to be asked for is added to `asks`.
    fn packet(
        &mut self,
        call: usize,
        packet: Packet,
        asks: &mut Vec<Origin>,
    ) -> Result<Step, BackendError> {
        let kind = PacketType::try_from(packet.r#type);
        let expected = match (kind, packet.stat) {
            (Ok(PacketType::PacketStat), Some(stat)) => self.lists.push(call, stat),
            (Ok(PacketType::PacketStat), None) => self.lists.end(call),
            (Ok(PacketType::PacketData), _) if !self.complete => {
                self.data(
                    Origin {
                        call,
                        id: packet.id,
                    },
                    &packet.data,
                )?;
                true
            }
            (Ok(PacketType::PacketFin), _) if self.complete => {
                self.open.remove(&call);
                let over = self.open.is_empty();
                return Ok(if over { Step::Over } else { Step::Nothing });
            }
            (Ok(PacketType::PacketErr), _) => {
                let message = String::from_utf8_lossy(&packet.data).into_owned();
                let attempt = self.attempt.clone();
                return Err(BackendError::caused(ErrorKind::Other, attempt, message));
            }
            _ => false,
        };
        if !expected {
            let when = if self.complete {
                "after its end"
            } else {
                "early or late"
            };
            return Err(self.malformed(&format!("unexpected {kind:?}, {when}")));
        }
        while let Some((origin, stat)) = self.lists.next() {
            if self.entry(origin, stat)? {
                asks.push(origin);
            }
        }
        if !self.complete && self.lists.is_over() && self.wanted.is_empty() {
            self.complete = true;
            return Ok(Step::Complete);
        }
        Ok(Step::Nothing)
    }

    /// Takes the next entry of the whole list; true asks for its data.
    fn entry(&mut self, origin: Origin, stat: Stat) -> Result<bool, BackendError> {
        let (index, stat) = self.list.entry(stat).map_err(|e| self.malformed(&e))?;
        let has_data = gofs::is_regular(stat.mode) && stat.link_name.is_empty();
        let left = stat.size.saturating_add(stat.size.max(GROWTH));
        // A client takes a request for anything else for an error.
        let is_wanted = self.sink.entry(index, stat)? && has_data;
        if is_wanted {
            self.wanted.insert(origin, Wanted { index, left });
        }
        Ok(is_wanted)
    }

    fn data(&mut self, origin: Origin, data: &[u8]) -> Result<(), BackendError> {
        let id = origin.id;
        let Some(wanted) = self.wanted.get_mut(&origin) else {
            return Err(self.malformed(&format!("data of file {id}, which was not asked for")));
        };
        match wanted.left.checked_sub(data.len() as u64) {
            Some(left) => wanted.left = left,
            None => return Err(self.malformed(&format!("file {id} never ends"))),
        }
        self.sink.data(wanted.index, data)?;
        if data.is_empty() {
            self.wanted.remove(&origin);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BackendError> {
        self.sink.end()
    }

    fn is_complete(&self) -> bool {
        self.complete
    }

    fn into_sink(self) -> Result<Box<dyn SyncSink>, BackendError> {
        if self.is_complete() {
            return Ok(self.sink);
        }
        Err(self.malformed("it ended in the middle"))
    }

    fn malformed(&self, why: &(impl ToString + ?Sized)) -> BackendError {
        malformed(self.attempt.clone(), why.to_string())
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
