//! The pipes between the daemon and a step, by way of the shim. Nobody blocks on opening one: each end is held open here
//! until the shim has its own.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use shipway_backend::StepIo;
use shipway_step::StepOutcome;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tokio::sync::mpsc;

/// Bytes read at once; what a pipe holds.
const PIECE: usize = 64 << 10;

/// A step's pipes. Paths are empty for streams that nobody uses.
pub(crate) struct Pipes {
    pub(crate) stdin: Option<PathBuf>,
    pub(crate) stdout: Option<PathBuf>,
    pub(crate) stderr: Option<PathBuf>,
    input: Option<(Sender, mpsc::Receiver<Bytes>)>,
    outputs: Vec<(Receiver, mpsc::Sender<Bytes>)>,
    /// The shim's ends, until it has opened its own: otherwise a reader sees the end before the beginning.
    held: Held,
}

/// The shim's ends of a step's pipes.
#[derive(Default)]
pub(crate) struct Held {
    readers: Vec<Receiver>,
    writers: Vec<Sender>,
}

/// The daemon's ends of a started step.
pub(crate) struct Ends {
    pub(crate) input: Option<(Sender, mpsc::Receiver<Bytes>)>,
    pub(crate) outputs: Vec<(Receiver, mpsc::Sender<Bytes>)>,
}

impl Pipes {
    /// Makes the pipes in a directory, which is made too and must not exist.
    pub(crate) fn create(dir: &Path, io: StepIo) -> io::Result<Self> {
        let parent = dir.parent().unwrap_or(dir);
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(parent)?;
        DirBuilder::new().mode(0o700).create(dir)?;
        let mut pipes = Self {
            stdin: None,
            stdout: None,
            stderr: None,
            input: None,
            outputs: Vec::new(),
            held: Held::default(),
        };
        if let Some(data) = io.stdin {
            let path = make(dir, "stdin")?;
            pipes
                .held
                .readers
                .push(OpenOptions::new().open_receiver(&path)?);
            pipes.input = Some((OpenOptions::new().open_sender(&path)?, data));
            pipes.stdin = Some(path);
        }
        if let Some(to) = io.stdout {
            pipes.stdout = Some(pipes.output(dir, "stdout", to)?);
        }
        if let Some(to) = io.stderr {
            pipes.stderr = Some(pipes.output(dir, "stderr", to)?);
        }
        Ok(pipes)
    }

    fn output(&mut self, dir: &Path, name: &str, to: mpsc::Sender<Bytes>) -> io::Result<PathBuf> {
        let path = make(dir, name)?;
        self.outputs
            .push((OpenOptions::new().open_receiver(&path)?, to));
        self.held
            .writers
            .push(OpenOptions::new().open_sender(&path)?);
        Ok(path)
    }

    /// Lets go of the shim's ends, which it holds itself now.
    pub(crate) fn started(self) -> Ends {
        let (ends, held) = self.split();
        let Held { readers, writers } = held;
        drop((readers, writers));
        ends
    }

    /// The daemon's ends, and the shim's to be let go of later.
    pub(crate) fn split(self) -> (Ends, Held) {
        let ends = Ends {
            input: self.input,
            outputs: self.outputs,
        };
        (ends, self.held)
    }
}

/// The pipe over which the launcher says how a step ended: one line.
pub(crate) struct Word {
    pipe: Option<Receiver>,
    text: BytesMut,
}

/// Bytes that an outcome may have.
const LONGEST_WORD: usize = 1 << 20;

impl Word {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // Held open for writing as well, so that there is no end before the launcher has opened it.
        let pipe = OpenOptions::new().read_write(true).open_receiver(path)?;
        Ok(Self {
            pipe: Some(pipe),
            text: BytesMut::new(),
        })
    }

    /// Whether there is anything to wait for.
    pub(crate) fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// Waits for the outcome; may be dropped and called again. After an error there is none.
    pub(crate) async fn read(&mut self) -> io::Result<StepOutcome> {
        let read = self.line().await;
        if read.is_err() {
            self.pipe = None;
        }
        read
    }

    async fn line(&mut self) -> io::Result<StepOutcome> {
        let pipe = self.pipe.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        while !self.text.ends_with(b"\n") {
            if self.text.len() > LONGEST_WORD {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            self.text.reserve(1 << 10);
            pipe.read_buf(&mut self.text).await?;
        }
        Ok(serde_json::from_slice(&self.text)?)
    }

    /// The outcome, if it has been written by now.
    pub(crate) fn last(&mut self) -> Option<StepOutcome> {
        let pipe = self.pipe.as_ref()?;
        while self.text.len() <= LONGEST_WORD && pipe.try_read_buf(&mut self.text).is_ok() {}
        serde_json::from_slice(&self.text).ok()
    }
}

fn make(dir: &Path, name: &str) -> io::Result<PathBuf> {
    let path = dir.join(name);
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok(path)
}

/// Hands output on until the end. A consumer that left does not stop the step: the rest is read and dropped.
pub(crate) async fn pump_out(mut from: Receiver, to: mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let _unheard = to.send(buffer.split().freeze()).await;
    }
}

/// Hands input on until its end, or until nobody reads it any more.
pub(crate) async fn pump_in(mut to: Sender, mut from: mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(data) = from.recv().await {
        to.write_all(&data).await?;
    }
    Ok(())
}

/// Removes the directory of a process that has ended.
pub(crate) fn remove_process(dir: &Path) {
    for build in entries(dir) {
        remove_build(&build);
    }
    told(dir, fs::remove_dir(dir));
}

/// Removes a build's directory with those of its steps; it is no error where it is gone. Only what this crate puts there
/// goes: a step's root may still be mounted, and nothing in it is ever deleted.
pub(crate) fn remove_build(dir: &Path) {
    for entry in entries(dir) {
        if fs::symlink_metadata(&entry).is_ok_and(|data| data.is_dir()) {
            remove_step(&entry);
        } else {
            told(&entry, fs::remove_file(&entry));
        }
    }
    told(dir, fs::remove_dir(dir));
}

/// Removes a step's directory; it is no error where it is gone.
pub(crate) fn remove_step(dir: &Path) {
    for entry in entries(dir) {
        let is_dir = fs::symlink_metadata(&entry).is_ok_and(|data| data.is_dir());
        let removed = if is_dir {
            fs::remove_dir(&entry)
        } else {
            fs::remove_file(&entry)
        };
        told(&entry, removed);
    }
    told(dir, fs::remove_dir(dir));
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn told(path: &Path, removed: io::Result<()>) {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a step leaves something behind");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_that_was_written_before_the_end_is_all_handed_over() {
        let root = tempfile::tempdir().unwrap();
        let (sender, mut received) = mpsc::channel(16);
        let io = StepIo {
            stdout: Some(sender),
            ..Default::default()
        };
        let pipes = Pipes::create(&root.path().join("b/s"), io).unwrap();
        let path = pipes.stdout.clone().unwrap();
        let mut shim = fs::File::options().write(true).open(path).unwrap();
        let mut ends = pipes.started();
        io::Write::write_all(&mut shim, b"hello").unwrap();
        drop(shim);
        let (from, to) = ends.outputs.pop().unwrap();
        pump_out(from, to).await.unwrap();
        assert_eq!(received.recv().await.unwrap(), "hello");
        assert_eq!(received.recv().await, None);
    }

    #[tokio::test]
    async fn input_ends_when_its_sender_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let (sender, data) = mpsc::channel(1);
        let io = StepIo {
            stdin: Some(data),
            ..Default::default()
        };
        let pipes = Pipes::create(&root.path().join("s"), io).unwrap();
        let mut shim = fs::File::open(pipes.stdin.clone().unwrap()).unwrap();
        let (to, from) = pipes.started().input.unwrap();
        sender.send("hi".into()).await.unwrap();
        drop(sender);
        pump_in(to, from).await.unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut shim, &mut text).unwrap();
        assert_eq!(text, "hi");
    }
}
