//! Connects a process's standard streams to what containerd named: FIFOs, files, logging programs. Output FIFOs are handed
//! to the process itself, so nothing is copied but input and terminals.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::logger;

/// Where a process's streams go, as containerd said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stdio {
    pub(crate) terminal: bool,
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Streams opened for a process.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// For the process: input, output, error.
    pub(crate) streams: [Option<OwnedFd>; 3],
    /// Feeds the process's input until the client closes it.
    pub(crate) input: Option<Input>,
}

/// One place that output goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Nothing,
    Fifo(PathBuf),
    File(PathBuf),
    Logger(logger::Program),
}

impl Target {
    fn parse(text: &str) -> io::Result<Self> {
        match text.split_once("://") {
            None if text.is_empty() => Ok(Self::Nothing),
            None => Ok(Self::Fifo(text.into())),
            Some(("fifo", path)) => Ok(Self::Fifo(path.into())),
            Some(("file", path)) => Ok(Self::File(path.into())),
            Some(("binary", rest)) => Ok(Self::Logger(logger::Program::parse(rest))),
            Some((scheme, _)) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("unknown scheme {scheme} for a standard stream"),
            )),
        }
    }
}

impl Stdio {
    /// Opens the streams of a process without terminal.
    pub(crate) fn open(&self, container: &logger::Subject) -> io::Result<Opened> {
        let (mut opened, output) = (Opened::default(), Target::parse(&self.stdout)?);
        if let Target::Fifo(path) = Target::parse(&self.stdin)? {
            let (for_process, input) = Input::open(&path)?;
            opened.streams[0] = Some(for_process);
            opened.input = Some(input);
        }
        if let Target::Logger(program) = &output {
            let [out, error] = program.start(container)?;
            opened.streams[1] = Some(out);
            opened.streams[2] = Some(error);
            return Ok(opened);
        }
        let error = Target::parse(&self.stderr)?;
        opened.streams[1] = open_output(&output)?;
        opened.streams[2] = if error == output && opened.streams[1].is_some() {
            opened.streams[1]
                .as_ref()
                .map(OwnedFd::try_clone)
                .transpose()?
        } else {
            open_output(&error)?
        };
        Ok(opened)
    }

    /// Copies between a terminal's master and the streams, until the terminal is closed.
    pub(crate) async fn serve_terminal(
        self,
        master: Arc<OwnedFd>,
        container: logger::Subject,
    ) -> io::Result<()> {
        let master = Arc::new(crate::sys::watch(master)?);
        let input = match Target::parse(&self.stdin)? {
            Target::Fifo(path) => {
                let fifo = pipe::OpenOptions::new()
                    .read_write(true)
                    .open_receiver(path)?;
                Some(tokio::spawn(feed(fifo, Arc::clone(&master))))
            }
            _ => None,
        };
        let drained = match Target::parse(&self.stdout)? {
            Target::Fifo(path) => {
                drain(
                    &master,
                    pipe::OpenOptions::new()
                        .read_write(true)
                        .open_sender(path)?,
                )
                .await
            }
            Target::File(path) => {
                drain(&master, tokio::fs::File::from_std(append_to(&path)?)).await
            }
            Target::Logger(program) => {
                let [out, _error] = program.start(&container)?;
                drain(&master, pipe::Sender::from_owned_fd(out)?).await
            }
            Target::Nothing => drain(&master, tokio::io::sink()).await,
        };
        if let Some(input) = input {
            input.abort();
        }
        drained
    }
}

/// Puts the master into non-blocking mode, as copying needs it.
pub(crate) fn make_nonblocking(descriptor: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(descriptor)?;
    Ok(rustix::fs::fcntl_setfl(
        descriptor,
        flags | rustix::fs::OFlags::NONBLOCK,
    )?)
}

/// A closed terminal reads as EIO.
async fn drain(
    master: &AsyncFd<Arc<OwnedFd>>,
    mut output: impl tokio::io::AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut bytes = vec![0; 32 * 1024];
    loop {
        let read = master
            .async_io(Interest::READABLE, |fd| {
                Ok(rustix::io::read(fd, &mut bytes)?)
            })
            .await;
        match read {
            Ok(0) => return output.flush().await,
            Ok(count) => output.write_all(&bytes[..count]).await?,
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                return output.flush().await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn feed(mut input: pipe::Receiver, master: Arc<AsyncFd<Arc<OwnedFd>>>) -> io::Result<()> {
    let mut bytes = vec![0; 4096];
    loop {
        let count = input.read(&mut bytes).await?;
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            let wrote = master
                .async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, rest)?))
                .await?;
            rest = &rest[wrote..];
        }
    }
}

/// Input on its way from a client to a process. Dropping it closes the process's input at once.
#[derive(Debug)]
pub(crate) struct Input {
    copying: JoinHandle<()>,
    closing: Arc<Notify>,
}

impl Drop for Input {
    fn drop(&mut self) {
        self.copying.abort();
    }
}

impl Input {
    /// Copies what comes through a FIFO into a pipe, and gives the pipe's end for the process. A FIFO that nobody has
    /// opened yet reads as ended, so a process can't have it itself; waiting for readiness tells the two apart.
    fn open(path: &Path) -> io::Result<(OwnedFd, Self)> {
        let mut source = pipe::OpenOptions::new().open_receiver(path)?;
        let (for_process, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        make_nonblocking(&ours)?;
        let mut sink = pipe::Sender::from_owned_fd(ours)?;
        let closing = Arc::new(Notify::new());
        let closed = Arc::clone(&closing);
        let copying = tokio::spawn(async move {
            tokio::select! {
                _readable = source.readable() => {}
                () = closed.notified() => {}
            }
            // A process that has closed its input needs no more of it.
            drop(tokio::io::copy(&mut source, &mut sink).await);
        });
        Ok((for_process, Self { copying, closing }))
    }

    /// No more will be sent: ends the process's input after what is on its way.
    pub(crate) fn close(&self) {
        self.closing.notify_one();
    }
}

/// A FIFO is opened for both directions: so opening never waits, and a reader that goes away is no SIGPIPE.
fn open_output(target: &Target) -> io::Result<Option<OwnedFd>> {
    match target {
        Target::Nothing | Target::Logger(_) => Ok(None),
        Target::Fifo(path) => Ok(Some(
            File::options().read(true).write(true).open(path)?.into(),
        )),
        Target::File(path) => Ok(Some(append_to(path)?.into())),
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// The FIFO's writer, the process's end, and what copies between them.
    fn input(dir: &Path) -> (File, File, Input) {
        let path = dir.join("stdin");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (for_process, input) = Input::open(&path).unwrap();
        let writer = File::options().write(true).open(&path).unwrap();
        (writer, for_process.into(), input)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn closing_loses_nothing_that_was_sent() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, mut process, input) = input(dir.path());
        let sent = 60_000;
        writer.write_all(&vec![b'x'; sent]).unwrap();
        drop(writer);
        input.close();
        let read = move || {
            let mut got = Vec::new();
            process.read_to_end(&mut got).map(|_| got.len())
        };
        let got = tokio::task::spawn_blocking(read).await.unwrap().unwrap();
        assert_eq!(got, sent);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn closing_ends_an_input_that_nobody_ever_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, mut process, input) = input(dir.path());
        drop(writer);
        input.close();
        let read = move || process.read(&mut [0; 1]);
        assert_eq!(tokio::task::spawn_blocking(read).await.unwrap().unwrap(), 0);
    }

    #[test]
    fn a_stream_is_a_fifo_a_file_or_a_program() {
        assert_eq!(Target::parse("").unwrap(), Target::Nothing);
        assert_eq!(
            Target::parse("/run/x").unwrap(),
            Target::Fifo("/run/x".into())
        );
        assert_eq!(
            Target::parse("file:///var/log/x").unwrap(),
            Target::File("/var/log/x".into())
        );
        assert!(matches!(
            Target::parse("binary:///usr/bin/l?a=b").unwrap(),
            Target::Logger(_)
        ));
        assert!(Target::parse("http://x").is_err());
    }
}
