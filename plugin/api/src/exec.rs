//! ExecProcess: processes of containers over one stream of messages in each direction. Multiplexes their streams, signals
//! and ends; starting them is the domain's business.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt as _, StreamExt as _};
use shipway_backend::{Process, StepIo};
use shipway_build::Container;
use shipway_model::{Failure, FailureDetail};
use shipway_proto::gateway as wire;
use shipway_proto::gateway::exec_message::Input;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::bridge::Calling;
use crate::containers;
use crate::wire::failure::{to_status, to_wire};

/// Exit code of a process whose own is not known.
const UNKNOWN_EXIT: u32 = 255;

type Answers = mpsc::Sender<wire::ExecMessage>;
type Life = BoxFuture<'static, Result<(), Status>>;

/// What is said about the processes that `asked` asks for. Dropping it kills them.
pub(crate) fn answers(
    calling: Calling,
    asked: Streaming<wire::ExecMessage>,
) -> BoxStream<'static, Result<wire::ExecMessage, Status>> {
    let (said, messages) = mpsc::channel(16);
    let driven = drive(calling, asked, said);
    let failure = futures::stream::once(driven).filter_map(|ended| async { ended.err().map(Err) });
    futures::stream::select(ReceiverStream::new(messages).map(Ok), failure).boxed()
}

async fn drive(
    calling: Calling,
    asked: Streaming<wire::ExecMessage>,
    said: Answers,
) -> Result<(), Status> {
    let (begin, begun) = mpsc::unbounded_channel();
    let listener = Listener {
        calling,
        said,
        begin,
        processes: HashMap::new(),
    };
    tokio::try_join!(listener.listen(asked), live_all(begun)).map(drop)
}

/// Lets processes live until there are no more, and none can come.
async fn live_all(mut begun: mpsc::UnboundedReceiver<Life>) -> Result<(), Status> {
    let mut lives = FuturesUnordered::new();
    loop {
        tokio::select! {
            life = begun.recv() => match life {
                Some(life) => lives.push(life),
                None => break,
            },
            Some(ended) = lives.next() => ended?,
        }
    }
    while let Some(ended) = lives.next().await {
        ended?;
    }
    Ok(())
}

/// What a process can be told.
struct Ears {
    process: Arc<dyn Process>,
    stdin: Option<mpsc::Sender<Bytes>>,
}

/// Takes what the caller says.
struct Listener {
    calling: Calling,
    said: Answers,
    begin: mpsc::UnboundedSender<Life>,
    processes: HashMap<String, Ears>,
}

impl Listener {
    async fn listen(mut self, mut asked: Streaming<wire::ExecMessage>) -> Result<(), Status> {
        while let Some(message) = asked.message().await? {
            let id = message.process_id;
            if id.is_empty() {
                return Err(Status::invalid_argument("ProcessID required"));
            }
            match message.input {
                Some(Input::Init(init)) => self.start(id, init).await?,
                Some(Input::File(file)) => self.feed(&id, file).await?,
                Some(Input::Resize(size)) => self.resize(&id, size).await?,
                Some(Input::Signal(signal)) => self.signal(&id, &signal.name).await?,
                // These only the other side says.
                Some(Input::Started(_) | Input::Exit(_) | Input::Done(_)) | None => {}
            }
        }
        Ok(())
    }

    fn process(&mut self, id: &str) -> Result<&mut Ears, Status> {
        let missing = || Status::not_found(format!("IO for process {id:?} not found"));
        self.processes.get_mut(id).ok_or_else(missing)
    }

    async fn start(&mut self, id: String, init: wire::InitMessage) -> Result<(), Status> {
        if self.processes.contains_key(&id) {
            return Err(Status::already_exists(format!(
                "Process {id} already exists"
            )));
        }
        let conversation = &self.calling.caller.conversation;
        let container = conversation.container(&init.container_id);
        let container = container.map_err(|e| to_status(&e))?;
        let (io, stdin, outputs) = streams(&init.fds, init.tty)?;
        // A process that can't be started is told of as one that has failed: clients wait for that.
        let started = match containers::process(init) {
            Ok(request) => container.start(request, io).await,
            Err(failure) => Err(failure),
        };
        let ears = |process: &Arc<dyn Process>| Ears {
            process: Arc::clone(process),
            stdin,
        };
        if let Ok(process) = &started {
            self.processes.insert(id.clone(), ears(process));
        }
        container.process_begins();
        let mouth = Mouth {
            id,
            container,
            said: self.said.clone(),
        };
        // Without anybody to let it live, the call is over.
        drop(self.begin.send(mouth.live(started, outputs).boxed()));
        Ok(())
    }

    async fn feed(&mut self, id: &str, file: wire::FdMessage) -> Result<(), Status> {
        let process = self.process(id)?;
        let Some(stdin) = process.stdin.as_ref().filter(|_| file.fd == 0) else {
            let fd = file.fd;
            return Err(Status::out_of_range(format!(
                "fd {fd} unavailable to write"
            )));
        };
        if !file.data.is_empty() {
            // A process that has ended reads nothing more.
            drop(stdin.send(file.data).await);
        }
        if file.eof {
            process.stdin = None;
        }
        Ok(())
    }

    async fn resize(&mut self, id: &str, size: wire::ResizeMessage) -> Result<(), Status> {
        let clamp = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let (rows, columns) = (clamp(size.rows), clamp(size.cols));
        let process = &self.process(id)?.process;
        if let Err(error) = process.resize(rows, columns).await {
            tracing::debug!(%error, "resizing a terminal");
        }
        Ok(())
    }

    async fn signal(&mut self, id: &str, name: &str) -> Result<(), Status> {
        let process = &self.process(id)?.process;
        let number = signal_number(name)
            .ok_or_else(|| Status::invalid_argument(format!("Unknown signal {name}")))?;
        if let Err(error) = process.signal(number).await {
            tracing::debug!(%error, name, "signalling a process");
        }
        Ok(())
    }
}

/// Outputs of a process, by file descriptor.
type Outputs = Vec<(u32, mpsc::Receiver<Bytes>)>;

/// The streams of a process with these open file descriptors.
fn streams(
    fds: &[u32],
    tty: bool,
) -> Result<(StepIo, Option<mpsc::Sender<Bytes>>, Outputs), Status> {
    if let Some(other) = fds.iter().find(|fd| **fd > 2) {
        let message = format!("file descriptor {other} of a process is not supported");
        return Err(Status::unimplemented(message));
    }
    let mut io = StepIo::default();
    let mut outputs = Vec::new();
    let mut input = None;
    if fds.contains(&0) {
        let (to, from) = mpsc::channel(16);
        io.stdin = Some(from);
        input = Some(to);
    }
    for fd in [1, 2] {
        if !fds.contains(&fd) {
            continue;
        }
        let (to, from) = mpsc::channel(16);
        outputs.push((fd, from));
        match fd {
            1 => io.stdout = Some(to),
            // A terminal has one stream: the second one only ends.
            _ if tty => drop(to),
            _ => io.stderr = Some(to),
        }
    }
    Ok((io, input, outputs))
}

/// Tells the caller about one process.
struct Mouth {
    id: String,
    container: Arc<Container>,
    said: Answers,
}

impl Mouth {
    async fn live(
        self,
        started: Result<Arc<dyn Process>, Failure>,
        outputs: Outputs,
    ) -> Result<(), Status> {
        self.say(Input::Started(wire::StartedMessage {})).await?;
        let ended = match started {
            Err(failure) => Err(failure),
            Ok(process) => {
                let all = outputs.into_iter().map(|(fd, from)| self.carry(fd, from));
                futures::future::try_join_all(all).await?;
                process.wait().await.map_err(Failure::from)
            }
        };
        let (code, failure) = match ended {
            Ok(exit) => (exit.code, self.failure(exit.code)),
            Err(failure) => (UNKNOWN_EXIT, Some(failure)),
        };
        self.container.process_ends(failure.as_ref());
        let error = failure.as_ref().map(to_wire);
        self.say(Input::Exit(wire::ExitMessage { code, error }))
            .await?;
        self.say(Input::Done(wire::DoneMessage {})).await
    }

    /// The failure that an exit code is.
    fn failure(&self, code: u32) -> Option<Failure> {
        if code == 0 {
            return None;
        }
        let mut failure = Failure::new(format!("exit code: {code}"));
        if self.container.is_released() {
            failure = Failure::cancelled().context(failure);
        }
        Some(failure.with(FailureDetail::Exit(code)))
    }

    /// Hands an output on until its end.
    async fn carry(&self, fd: u32, mut from: mpsc::Receiver<Bytes>) -> Result<(), Status> {
        while let Some(data) = from.recv().await {
            let eof = false;
            self.say(Input::File(wire::FdMessage { fd, eof, data }))
                .await?;
        }
        let end = wire::FdMessage {
            fd,
            eof: true,
            data: Bytes::new(),
        };
        self.say(Input::File(end)).await
    }

    async fn say(&self, input: Input) -> Result<(), Status> {
        let message = wire::ExecMessage {
            process_id: self.id.clone(),
            input: Some(input),
        };
        let said = self.said.send(message).await;
        said.map_err(|_| Status::cancelled("the caller has gone"))
    }
}

/// A signal's number on Linux, by its name without `SIG`.
fn signal_number(name: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    const FIRST_REAL_TIME: i32 = 34;
    const LAST_REAL_TIME: i32 = 64;
    let name = name.strip_prefix("SIG").unwrap_or(name);
    let alias = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        "UNUSED" => "SYS",
        name => name,
    };
    if let Some(at) = NAMES.iter().position(|known| *known == alias) {
        return i32::try_from(at + 1).ok();
    }
    let real_time = |from: i32, rest: &str, sign: i32| match rest {
        "" => Some(from),
        rest => Some(from + sign * rest[1..].parse::<i32>().ok()?),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) if rest.is_empty() || rest.starts_with('+') => {
            real_time(FIRST_REAL_TIME, rest, 1)
        }
        (_, Some(rest)) if rest.is_empty() || rest.starts_with('-') => {
            real_time(LAST_REAL_TIME, rest, -1)
        }
        _ => None,
    };
    number.filter(|number| (FIRST_REAL_TIME..=LAST_REAL_TIME).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name() {
        for (name, number) in [
            ("KILL", Some(9)),
            ("SIGTERM", Some(15)),
            ("WINCH", Some(28)),
            ("SYS", Some(31)),
            ("CLD", Some(17)),
            ("RTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMAX-99", None),
            ("RTMINx", None),
            ("NOPE", None),
        ] {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }

    #[test]
    fn only_standard_streams_are_carried() {
        assert!(streams(&[0, 1, 2, 3], false).is_err());
        let (io, input, outputs) = streams(&[1, 2], true).unwrap();
        assert!(input.is_none() && io.stdout.is_some() && io.stderr.is_none());
        assert_eq!(outputs.len(), 2);
    }
}
