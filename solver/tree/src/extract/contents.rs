//! Writes what unpacked files hold, on a thread of its own: while it does, the next files are created. Files are finished in
//! the order in which they were begun. It creates nothing.

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
/// Blocks that wait to be written.
const WAITING: usize = 16;

/// Writes files' contents.
#[derive(Default)]
pub(super) struct Contents {
    /// The thread, once there was something to write.
    writer: Option<Writer>,
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
        let mut size = 0;
        loop {
            let mut block = self.block(member.size - size)?;
            let filled = read_full(from, &mut block)?;
            size += filled as u64;
            let more = filled == block.len() && size < member.size;
            block.truncate(filled);
            if !more && size != member.size {
                return Err(
                    member.error(format!("{size} bytes where {} were announced", member.size))
                );
            }
            self.write(Work {
                file: Arc::clone(&file),
                rel: Arc::clone(&rel),
                block,
                last: (!more).then(|| (attributes, member.xattrs.clone())),
            })?;
            if !more {
                return Ok(());
            }
        }
    }

    /// An empty block for up to `left` bytes.
    fn block(&mut self, left: u64) -> Result<Vec<u8>> {
        let used = self.writer()?.used.try_recv();
        let mut block = used.unwrap_or_default();
        let wanted = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        block.resize(wanted, 0);
        Ok(block)
    }

    fn writer(&mut self) -> Result<&mut Writer> {
        if self.writer.is_none() {
            let (work, waiting) = sync_channel(WAITING);
            let (give_back, used) = channel();
            let thread = thread::Builder::new()
                .name("unpack".to_owned())
                .spawn(move || run(&waiting, &give_back));
            self.writer = Some(Writer {
                work,
                used,
                thread: thread.map_err(Error::Archive)?,
            });
        }
        Ok(self.writer.as_mut().expect("it was just made"))
    }

    fn write(&mut self, work: Work) -> Result<()> {
        if self.writer()?.work.send(work).is_ok() {
            return Ok(());
        }
        // The thread has ended because it failed.
        self.end()
    }

    /// Waits until everything is written.
    pub(super) fn end(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        drop(writer.work);
        writer.thread.join().expect("writing does not panic")
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
