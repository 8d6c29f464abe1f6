//! Sends directories to the daemon: the list of entries at once, the content of those it asks for. Decides which
//! directories may be read; `walk` decides what is in them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use shipway_proto::filesync::file_sync_server;
use shipway_proto::fsutil::packet::PacketType;
use shipway_proto::fsutil::{Packet, Stat};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::headers;
use crate::walk::{self, Filter, Visit};

/// Largest piece of a file in one packet, in bytes. Receivers of all versions have room for it.
const PIECE: usize = 32 << 10;

/// Entries sent as one batch: enough that batches are rare, few enough that the daemon starts early.
const BATCH: usize = 256;

/// Files read at the same time.
const FILES_AT_ONCE: usize = 4;

/// The directory service.
#[derive(Debug)]
pub(crate) struct FileSync {
    directories: BTreeMap<String, PathBuf>,
    tasks: TaskTracker,
}

impl FileSync {
    pub(crate) fn new(directories: BTreeMap<String, PathBuf>) -> Self {
        Self {
            directories,
            tasks: TaskTracker::new(),
        }
    }
}

type Packets = Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;
/// Files to send, by index and path.
type Queued = mpsc::UnboundedReceiver<(u32, String)>;
type Outbox = mpsc::Sender<Result<Vec<Packet>, Status>>;

#[tonic::async_trait]
impl file_sync_server::FileSync for FileSync {
    type DiffCopyStream = Packets;
    type TarStreamStream = Packets;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Packets>, Status> {
        let metadata = request.metadata();
        let name = headers::value(metadata, "dir-name").unwrap_or_default();
        let root = self.directories.get(&name).cloned();
        let root =
            root.ok_or_else(|| Status::not_found(format!("no access allowed to dir {name:?}")))?;
        let wanted = Wanted {
            include: headers::values(metadata, "include-patterns"),
            exclude: headers::values(metadata, "exclude-patterns"),
            follow: headers::values(metadata, "followpaths"),
        };
        let (outbox, batches) = mpsc::channel(16);
        let sender = Arc::new(Sender {
            root,
            files: Mutex::default(),
            outbox,
        });
        let walker = Arc::clone(&sender);
        self.tasks.spawn_blocking(move || walker.list(wanted));
        self.tasks.spawn(sender.answer(request.into_inner()));
        let packets = ReceiverStream::new(batches).flat_map(|batch| {
            let packets = match batch {
                Ok(packets) => packets.into_iter().map(Ok).collect(),
                Err(status) => vec![Err(status)],
            };
            stream::iter(packets)
        });
        Ok(Response::new(Box::pin(packets)))
    }

    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        Err(Status::unimplemented("tarstream: no daemon uses it"))
    }
}

/// What the daemon wants of a directory.
struct Wanted {
    include: Vec<String>,
    exclude: Vec<String>,
    follow: Vec<String>,
}

/// One transfer.
struct Sender {
    root: PathBuf,
    /// By index in the list; none for what can't be asked for, or was already.
    files: Mutex<Vec<Option<String>>>,
    outbox: Outbox,
}

impl Sender {
    /// Sends the list of entries. Blocks.
    fn list(&self, wanted: Wanted) {
        let mut batches = Batches {
            sender: self,
            packets: Vec::with_capacity(BATCH),
        };
        let listed = Filter::new(&self.root, wanted.include, &wanted.exclude, &wanted.follow)
            .and_then(|filter| walk::walk(&self.root, &filter, &mut batches));
        match listed {
            Ok(()) => batches.end(),
            Err(error) => self.fail(&error),
        }
    }

    /// Says why the transfer ends, in a packet and as the call's status.
    fn fail(&self, error: &walk::WalkError) {
        let mut reason = error.to_string();
        if let Some(source) = std::error::Error::source(error) {
            reason = format!("{reason}: {source}");
        }
        let packet = Packet {
            r#type: PacketType::PacketErr.into(),
            data: Bytes::from(reason.clone()),
            ..Packet::default()
        };
        // Nobody to tell it to: the daemon is gone.
        let _gone = self.outbox.blocking_send(Ok(vec![packet]));
        let _gone = self.outbox.blocking_send(Err(Status::unknown(reason)));
    }

    /// Answers the daemon's requests for content until it says that it has all. Never stops reading: a request that waits
    /// in the connection costs more than one that waits here.
    async fn answer(self: Arc<Self>, mut requests: Streaming<Packet>) {
        let files = TaskTracker::new();
        let (queue, queued) = mpsc::unbounded_channel();
        let queued = Arc::new(tokio::sync::Mutex::new(queued));
        for _ in 0..FILES_AT_ONCE {
            files.spawn(Arc::clone(&self).send_files(Arc::clone(&queued)));
        }
        files.close();
        // The call may be over on the other side.
        while let Ok(Some(packet)) = requests.message().await {
            let refused = match packet.r#type() {
                PacketType::PacketReq => self.enqueue(packet.id, &queue),
                PacketType::PacketErr => {
                    let reason = String::from_utf8_lossy(&packet.data);
                    Err(format!("error from receiver: {reason}"))
                }
                PacketType::PacketFin => {
                    drop(queue);
                    files.wait().await;
                    let fin = Packet {
                        r#type: PacketType::PacketFin.into(),
                        ..Packet::default()
                    };
                    let _gone = self.outbox.send(Ok(vec![fin])).await;
                    return;
                }
                PacketType::PacketStat | PacketType::PacketData => Ok(()),
            };
            if let Err(reason) = refused {
                return self.refuse(reason).await;
            }
        }
    }

    fn enqueue(&self, id: u32, queue: &mpsc::UnboundedSender<(u32, String)>) -> Result<(), String> {
        let path = self
            .take(id)
            .ok_or_else(|| format!("invalid file id {id}"))?;
        queue
            .send((id, path))
            .map_err(|_| "the session is over".to_owned())
    }

    /// Sends files from the queue, one after the other.
    async fn send_files(self: Arc<Self>, queued: Arc<tokio::sync::Mutex<Queued>>) {
        loop {
            let next = queued.lock().await.recv().await;
            let Some((id, path)) = next else { return };
            let sender = Arc::clone(&self);
            let sent = tokio::task::spawn_blocking(move || sender.send_file(id, &path)).await;
            if sent.is_err() {
                return;
            }
        }
    }

    async fn refuse(&self, reason: String) {
        let _gone = self.outbox.send(Err(Status::unknown(reason))).await;
    }

    fn take(&self, id: u32) -> Option<String> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.get_mut(usize::try_from(id).ok()?)?.take()
    }

    /// Sends one file's content. A file that is gone by now arrives empty, as BuildKit's own client has it.
    fn send_file(&self, id: u32, path: &str) {
        let data = |data: Bytes| Packet {
            r#type: PacketType::PacketData.into(),
            id,
            data,
            stat: None,
        };
        let pieces = open(&self.root.join(path)).ok().map(|file| Pieces { file });
        for piece in pieces.into_iter().flatten() {
            // A piece that is not full is the last; its end goes with it.
            let ends = piece.as_ref().map_or(true, |piece| piece.len() < PIECE);
            let packets = match piece {
                Ok(piece) if ends => Ok(vec![data(piece), data(Bytes::new())]),
                Ok(piece) => Ok(vec![data(piece)]),
                Err(error) => Err(Status::unknown(format!("reading {path}: {error}"))),
            };
            if self.outbox.blocking_send(packets).is_err() || ends {
                return;
            }
        }
        let _gone = self.outbox.blocking_send(Ok(vec![data(Bytes::new())]));
    }
}

/// Opens a regular file; a link or pipe that took its place is not followed or waited for.
fn open(path: &Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    Ok(file)
}

struct Pieces {
    file: File,
}

impl Iterator for Pieces {
    type Item = std::io::Result<Bytes>;

    fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        let mut piece = vec![0; PIECE];
        let mut filled = 0;
        while filled < PIECE {
            match self.file.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(error)),
            }
        }
        piece.truncate(filled);
        (filled > 0).then(|| Ok(Bytes::from(piece)))
    }
}

/// Collects entries into batches and numbers them.
struct Batches<'a> {
    sender: &'a Sender,
    packets: Vec<Packet>,
}

impl Batches<'_> {
    fn flush(&mut self) -> bool {
        let packets = std::mem::replace(&mut self.packets, Vec::with_capacity(BATCH));
        {
            let mut files = self
                .sender
                .files
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let entries = packets.iter().filter_map(|packet| packet.stat.as_ref());
            files
                .extend(entries.map(|stat| walk::is_regular(stat.mode).then(|| stat.path.clone())));
        }
        packets.is_empty() || self.sender.outbox.blocking_send(Ok(packets)).is_ok()
    }

    fn end(mut self) {
        self.packets.push(Packet {
            r#type: PacketType::PacketStat.into(),
            ..Packet::default()
        });
        self.flush();
    }
}

impl Visit for Batches<'_> {
    fn entry(&mut self, stat: Stat) -> bool {
        let stat = Some(stat);
        self.packets.push(Packet {
            r#type: PacketType::PacketStat.into(),
            stat,
            ..Packet::default()
        });
        self.packets.len() < BATCH || self.flush()
    }
}
