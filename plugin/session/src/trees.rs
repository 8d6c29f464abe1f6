//! Sends directories to an exporter of the client: the receiving protocol with the roles swapped. What is in the
//! directories is decided by `walk`.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};
use std::time::{Duration, Instant};

use prost::Message as _;
use shipway_backend::session::{SendTree, Transferred};
use shipway_backend::{BackendError, ErrorKind};
use shipway_proto::MESSAGE_LIMIT;
use shipway_proto::fsutil::packet::PacketType;
use shipway_proto::fsutil::{Packet, Stat};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::channel::{Abort, origin};
use crate::client::Client;
use crate::error::malformed;
use crate::send::{METHOD, exporter_options};
use crate::walk::{Entry, walk};

const ATTEMPT: &str = "sending the result's files to the client";
/// Bytes of a file in one packet.
const PIECE: usize = 128 << 10;
/// Packets that wait for the client.
const QUEUE: usize = 32;
/// How often progress is told.
const TOLD: Duration = Duration::from_millis(100);

impl Client {
    /// Sends directories; done when the client has said so.
    pub(crate) async fn send_dirs(
        &self,
        exporter: usize,
        trees: Vec<SendTree>,
        multi: bool,
        progress: Transferred,
    ) -> Result<(), BackendError> {
        self.require(METHOD, ATTEMPT)?;
        let mut options = exporter_options(exporter);
        if multi {
            options = options.with("buildkit-exporter-multi-platform", ["1"]);
        }
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let (packets, outgoing) = mpsc::channel(QUEUE);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        *request.metadata_mut() = options.into_map(ATTEMPT)?;
        request.extensions_mut().insert(Abort(stop));
        let out = Out::new(packets, progress);
        let files = Files::default();
        let (asks, asked) = blocking::channel();
        let lister = thread({
            let (out, files) = (out.clone(), files.clone());
            move || list(&trees, &files, &out)
        });
        let server = thread(move || serve(&asked, &files, &out));
        let answers = self.run(ATTEMPT, self.open_files(request)).await?;
        let conversation = self.converse(answers, asks);
        let threads = async {
            lister.await?;
            server.await
        };
        tokio::try_join!(conversation, threads)?;
        Ok(())
    }

    /// The method is declared with `BytesMessage`, but for directories each message is a packet.
    async fn open_files(
        &self,
        request: Request<ReceiverStream<Packet>>,
    ) -> Result<Streaming<Packet>, Status> {
        let mut grpc =
            Grpc::with_origin(self.channel(), origin()).max_decoding_message_size(MESSAGE_LIMIT);
        let ready = grpc.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static(METHOD);
        let codec = ProstCodec::<Packet, Packet>::default();
        let answers = grpc.streaming(request, path, codec).await?;
        Ok(answers.into_inner())
    }

    /// Hands the client's requests on; dropping `asks` says that there will be no more.
    async fn converse(
        &self,
        mut answers: Streaming<Packet>,
        asks: blocking::Sender<u32>,
    ) -> Result<(), BackendError> {
        let mut asks = Some(asks);
        while let Some(packet) = self.run(ATTEMPT, answers.message()).await? {
            match (PacketType::try_from(packet.r#type), &asks) {
                (Ok(PacketType::PacketReq), Some(asks)) => {
                    // A server thread that has failed says so itself.
                    let _unheard = asks.send(packet.id);
                }
                (Ok(PacketType::PacketFin), _) => asks = None,
                (Ok(PacketType::PacketErr), _) => {
                    let message = String::from_utf8_lossy(&packet.data).into_owned();
                    return Err(BackendError::caused(ErrorKind::Other, ATTEMPT, message));
                }
                (kind, _) => return Err(malformed(ATTEMPT, format!("unexpected {kind:?}"))),
            }
        }
        if asks.is_some() {
            return Err(malformed(ATTEMPT, "it ended in the middle"));
        }
        Ok(())
    }
}

async fn joined(thread: JoinHandle<Result<(), BackendError>>) -> Result<(), BackendError> {
    match thread.await {
        Ok(result) => result,
        Err(panic) => Err(BackendError::caused(ErrorKind::Other, ATTEMPT, panic)),
    }
}

/// Starts a thread at once; the future awaits it.
fn thread(
    work: impl FnOnce() -> Result<(), BackendError> + Send + 'static,
) -> impl Future<Output = Result<(), BackendError>> {
    joined(tokio::task::spawn_blocking(work))
}

/// The regular files listed so far, by index.
#[derive(Clone, Default)]
struct Files(Arc<Mutex<Vec<Option<PathBuf>>>>);

impl Files {
    fn push(&self, file: Option<PathBuf>) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.push(file);
    }

    /// A file may be asked for once.
    fn take(&self, index: u32) -> Option<PathBuf> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.get_mut(index as usize)?.take()
    }
}

/// Packets to the client, counted.
#[derive(Clone)]
struct Out {
    packets: mpsc::Sender<Packet>,
    sent: Arc<AtomicU64>,
    told: Instant,
    progress: Transferred,
}

impl Out {
    fn new(packets: mpsc::Sender<Packet>, progress: Transferred) -> Self {
        Self {
            packets,
            sent: Arc::default(),
            told: Instant::now(),
            progress,
        }
    }

    fn send(&mut self, packet: Packet) -> Result<(), BackendError> {
        let bytes = packet.encoded_len() as u64;
        let left = |_| BackendError::new(ErrorKind::Cancelled, ATTEMPT);
        self.packets.blocking_send(packet).map_err(left)?;
        let sent = self.sent.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.told.elapsed() >= TOLD {
            (self.progress)(sent);
            self.told = Instant::now();
        }
        Ok(())
    }
}

/// Sends the whole list.
fn list(trees: &[SendTree], files: &Files, out: &Out) -> Result<(), BackendError> {
    let mut out = out.clone();
    let mut send = |stat: Option<Stat>| {
        let packet = Packet {
            stat,
            ..Default::default()
        };
        out.send(packet)
    };
    for tree in trees {
        walk(tree, &mut |Entry { stat, file }| {
            files.push(file);
            send(Some(stat))
        })?;
    }
    send(None)
}

/// Sends the files that are asked for, until no more are.
fn serve(asked: &blocking::Receiver<u32>, files: &Files, out: &Out) -> Result<(), BackendError> {
    let mut out = out.clone();
    let mut piece = vec![0; PIECE];
    for index in asked {
        let Some(path) = files.take(index) else {
            let why = format!("it asked for {index}, which is no file or was asked for before");
            return Err(malformed(ATTEMPT, why));
        };
        send_file(&path, index, &mut piece, &mut out)?;
    }
    out.send(packet(PacketType::PacketFin, 0, &[]))?;
    (out.progress)(out.sent.load(Ordering::Relaxed));
    Ok(())
}

fn send_file(path: &Path, index: u32, piece: &mut [u8], out: &mut Out) -> Result<(), BackendError> {
    let failed = |error| {
        let attempt = format!("reading {}", path.display());
        BackendError::caused(ErrorKind::Other, attempt, error)
    };
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits();
    let mut file: File = File::options()
        .read(true)
        .custom_flags(nofollow.cast_signed())
        .open(path)
        .map_err(failed)?;
    loop {
        let count = file.read(piece).map_err(failed)?;
        out.send(packet(PacketType::PacketData, index, &piece[..count]))?;
        if count == 0 {
            return Ok(());
        }
    }
}

fn packet(kind: PacketType, id: u32, data: &[u8]) -> Packet {
    Packet {
        r#type: kind.into(),
        id,
        data: bytes::Bytes::copy_from_slice(data),
        ..Default::default()
    }
}
