//! Receives a client's directory: which packets are believed, what is asked for, when it is complete. The files
//! themselves are the sink's.
//!
//! One blocking thread reads packets and calls the sink, so that a list of 50,000 entries costs no task switch each.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use prost::Message as _;
use shipway_backend::session::{FileStat, SyncRequest, SyncSink, Transferred};
use shipway_backend::{BackendError, ErrorKind};
use shipway_proto::MESSAGE_LIMIT;
use shipway_proto::filesync::file_sync_client::FileSyncClient;
use shipway_proto::fsutil::Packet;
use shipway_proto::fsutil::packet::PacketType;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};

use crate::channel::{Abort, origin};
use crate::client::Client;
use crate::error::malformed;
use crate::gofs;
use crate::metadata::Options;
use crate::validate::Validator;

const METHOD: &str = "/moby.filesync.v1.FileSync/DiffCopy";
/// A client that walks a huge directory of which nothing is wanted is silent for a while, but not for this long.
const STALL: Duration = Duration::from_mins(10);
/// How often progress is told.
const TOLD: Duration = Duration::from_millis(100);
/// By how much a file may have grown since it was listed, beside doubling.
const GROWTH: u64 = 64 << 20;

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
        let metadata = Options::default()
            .with("dir-name", [request.name.as_str()])
            .with("followpaths", request.follow.iter().map(String::as_str))
            .with(
                "exclude-patterns",
                request.exclude.iter().map(String::as_str),
            )
            .with(
                "include-patterns",
                request.include.iter().map(String::as_str),
            )
            .into_map(&attempt)?;
        let (asks, asked) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        // Dropping this future must stop both the thread and the client.
        let guard = stop.clone().drop_guard();
        let mut call = Request::new(UnboundedReceiverStream::new(asked));
        *call.metadata_mut() = metadata;
        call.extensions_mut().insert(Abort(stop.clone()));
        let mut client = FileSyncClient::with_origin(self.channel(), origin())
            .max_decoding_message_size(MESSAGE_LIMIT);
        let packets = self
            .run(&attempt, client.diff_copy(call))
            .await?
            .into_inner();
        let transfer = Transfer {
            client: self.clone(),
            packets,
            asks,
            stop,
            state: Receiver::new(sink, attempt.clone()),
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
}

/// The thread's side of a transfer.
struct Transfer {
    client: Client,
    packets: Streaming<Packet>,
    asks: mpsc::UnboundedSender<Packet>,
    stop: CancellationToken,
    state: Receiver,
    progress: Progress,
}

impl Transfer {
    async fn run(mut self) -> Result<Box<dyn SyncSink>, BackendError> {
        while let Some(packet) = self.next().await? {
            self.progress.add(packet.encoded_len() as u64);
            match self.state.packet(packet)? {
                Step::Nothing => {}
                Step::Ask(index) => self.send(PacketType::PacketReq, index),
                Step::Complete => {
                    self.send(PacketType::PacketFin, 0);
                    self.state.end()?;
                }
                Step::Over => break,
            }
        }
        self.progress.tell();
        self.state.into_sink()
    }

    async fn next(&mut self) -> Result<Option<Packet>, BackendError> {
        tokio::select! {
            biased;
            packet = self.packets.message() => match packet {
                Ok(packet) => Ok(packet),
                // The list and the data are complete: how the client then leaves does not matter.
                Err(_) if self.state.is_complete() => Ok(None),
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

/// What a packet leads to.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Ask for this entry's data.
    Ask(u32),
    /// All that was asked for is here.
    Complete,
    /// The client has said goodbye.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Listing,
    /// The list is complete, data is still to come.
    Loading,
    Complete,
}

/// One transfer: takes packets, says what to do.
struct Receiver {
    attempt: String,
    sink: Box<dyn SyncSink>,
    list: Validator,
    phase: Phase,
    /// Entries whose data is under way, and how much more of it is believed.
    wanted: HashMap<u32, u64>,
}

impl Receiver {
    fn new(sink: Box<dyn SyncSink>, attempt: String) -> Self {
        Self {
            attempt,
            sink,
            list: Validator::default(),
            phase: Phase::Listing,
            wanted: HashMap::new(),
        }
    }

    fn packet(&mut self, packet: Packet) -> Result<Step, BackendError> {
        let kind = PacketType::try_from(packet.r#type);
        match (kind, self.phase, packet.stat) {
            (Ok(PacketType::PacketStat), Phase::Listing, Some(stat)) => {
                let (index, stat) = self.list.entry(stat).map_err(|e| self.malformed(&e))?;
                self.entry(index, stat)
            }
            (Ok(PacketType::PacketStat), Phase::Listing, None) => {
                self.phase = Phase::Loading;
                Ok(self.progress())
            }
            (Ok(PacketType::PacketData), Phase::Listing | Phase::Loading, _) => {
                self.data(packet.id, &packet.data)
            }
            (Ok(PacketType::PacketFin), Phase::Complete, _) => Ok(Step::Over),
            (Ok(PacketType::PacketErr), _, _) => {
                let message = String::from_utf8_lossy(&packet.data).into_owned();
                Err(BackendError::caused(
                    ErrorKind::Other,
                    self.attempt.clone(),
                    message,
                ))
            }
            (kind, phase, _) => {
                Err(self.malformed(&format!("unexpected {kind:?} while {phase:?}")))
            }
        }
    }

    fn entry(&mut self, index: u32, stat: FileStat) -> Result<Step, BackendError> {
        let has_data = gofs::is_regular(stat.mode) && stat.link_name.is_empty();
        let limit = stat.size.saturating_add(stat.size.max(GROWTH));
        // A client takes a request for anything else for an error.
        if self.sink.entry(index, stat)? && has_data {
            self.wanted.insert(index, limit);
            return Ok(Step::Ask(index));
        }
        Ok(Step::Nothing)
    }

    fn data(&mut self, index: u32, data: &[u8]) -> Result<Step, BackendError> {
        let Some(left) = self.wanted.get_mut(&index) else {
            return Err(self.malformed(&format!("data of file {index}, which was not asked for")));
        };
        match left.checked_sub(data.len() as u64) {
            Some(rest) => *left = rest,
            None => return Err(self.malformed(&format!("file {index} never ends"))),
        }
        self.sink.data(index, data)?;
        if data.is_empty() {
            self.wanted.remove(&index);
        }
        Ok(self.progress())
    }

    fn progress(&mut self) -> Step {
        if self.phase == Phase::Loading && self.wanted.is_empty() {
            self.phase = Phase::Complete;
            return Step::Complete;
        }
        Step::Nothing
    }

    fn end(&mut self) -> Result<(), BackendError> {
        self.sink.end()
    }

    fn is_complete(&self) -> bool {
        self.phase == Phase::Complete
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
