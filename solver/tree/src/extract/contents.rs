//! Writes what unpacked files hold, on threads of its own: while they do, the next files are created. Each file is written
//! by one thread; which is finished first is left open. It creates nothing.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use super::member::Member;
use crate::error::{Context, Error, Result};
use crate::layer::Xattr;
use crate::transfer::{self, Attributes};

/// Most bytes that are written at once.
const BLOCK: usize = 128 << 10;
/// Threads that write: to fill new pages takes longer than to read them.
const THREADS: usize = 2;
/// Blocks that wait to be written by each.
const WAITING: usize = 16;

/// Writes files' contents.
#[derive(Default)]
pub(super) struct Contents {
    /// The threads; none before there was something to write.
    writers: Vec<Writer>,
    /// Files that were begun.
    files: usize,
}

struct Writer {
    work: SyncSender<Work>,
    /// Blocks that can be filled again.
    used: Receiver<Vec<u8>>,
    thread: JoinHandle<Result<()>>,
}

/// The next bytes of a file.
struct Work {
    file: Arc<File>,
    rel: Arc<Path>,
    block: Vec<u8>,
    /// What the file gets when these were its last.
    last: Option<(Attributes, Vec<Xattr>)>,
}

impl Contents {
    /// Has a new file filled with `from`. An error of writing may show at a later file or at the end.
    pub(super) fn fill(
        &mut self,
        file: File,
        rel: &Path,
        member: &Member,
        attributes: Attributes,
        from: &mut impl Read,
    ) -> Result<()> {
        let (file, rel) = (Arc::new(file), Arc::from(rel));
        let at = self.files % THREADS;
        self.files += 1;
        if self.writers.is_empty() {
            let writers = (0..THREADS).map(|_| Writer::start());
            self.writers = writers.collect::<Result<_>>()?;
        }
        let mut size = 0;
        loop {
            let mut block = self.writers[at].block(member.size - size);
            let filled = read_full(from, &mut block)?;
            size += filled as u64;
            let more = filled == block.len() && size < member.size;
            block.truncate(filled);
            if !more && size != member.size {
                return Err(
                    member.error(format!("{size} bytes where {} were announced", member.size))
                );
            }
            let sent = self.writers[at].work.send(Work {
                file: Arc::clone(&file),
                rel: Arc::clone(&rel),
                block,
                last: (!more).then(|| (attributes, member.xattrs.clone())),
            });
            if sent.is_err() {
                // The thread has ended because it failed.
                return self.end();
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Waits until everything is written.
    pub(super) fn end(&mut self) -> Result<()> {
        let ended = self.writers.drain(..).map(Writer::end);
        ended.fold(Ok(()), Result::and)
    }
}

impl Writer {
    fn start() -> Result<Self> {
        let (work, waiting) = sync_channel(WAITING);
        let (give_back, used) = channel();
        let thread = thread::Builder::new()
            .name("unpack".to_owned())
            .spawn(move || run(&waiting, &give_back));
        Ok(Self {
            work,
            used,
            thread: thread.map_err(Error::Archive)?,
        })
    }

    /// An empty block for up to `left` bytes.
    fn block(&self, left: u64) -> Vec<u8> {
        let mut block = self.used.try_recv().unwrap_or_default();
        let wanted = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        block.resize(wanted, 0);
        block
    }

    fn end(self) -> Result<()> {
        drop(self.work);
        self.thread.join().expect("writing does not panic")
    }
}

impl Drop for Contents {
    /// Nothing is written any more once an unpacking has failed.
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::debug!(%error, "a file of an archive that is given up");
        }
    }
}

fn run(waiting: &Receiver<Work>, give_back: &Sender<Vec<u8>>) -> Result<()> {
    for work in waiting {
        (&*work.file)
            .write_all(&work.block)
            .on("write", &work.rel)?;
        if let Some((attributes, xattrs)) = work.last {
            transfer::set_file_attributes(&work.file, &work.rel, &attributes, &xattrs)?;
        }
        // An unpacking that has ended needs no more blocks.
        drop(give_back.send(work.block));
    }
    Ok(())
}

/// Fills a block as far as there is something.
fn read_full(from: &mut impl Read, block: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match from.read(&mut block[filled..]).map_err(Error::Archive)? {
            0 => break,
            got => filled += got,
        }
    }
    Ok(filled)
}
