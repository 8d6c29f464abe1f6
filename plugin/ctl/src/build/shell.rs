//! A shell in the filesystem of a failed step: its mounts and environment, on the user's terminal where there is one.
//! The build goes on failing when the shell ends.

use std::io::{IsTerminal as _, Write as _};

use bytes::Bytes;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use shipway_proto::gateway::exec_message::Input;
use shipway_proto::gateway::llb_bridge_client::LlbBridgeClient;
use shipway_proto::{gateway as wire, pb};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::conversation::{Build, named};
use super::failed::FailedStep;
use crate::error::Error;

/// What is run.
const SHELL: &str = "/bin/sh";

/// The terminal's settings as they were; put back when dropped.
struct Raw(Termios);

impl Raw {
    fn set() -> Result<Self, Error> {
        let failed = |e: rustix::io::Errno| Error::Stream {
            doing: "setting up the terminal",
            source: e.into(),
        };
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Without its terminal nobody sees the difference.
        let _unseen = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Opens the shell and returns when it has ended.
pub(super) async fn open(build: &Build<'_>, step: FailedStep) -> Result<(), Error> {
    let mut bridge = build.daemon.bridge();
    let id = uuid::Uuid::new_v4().simple().to_string();
    let request = wire::NewContainerRequest {
        container_id: id.clone(),
        mounts: step.mounts,
        network: step.network,
        extra_hosts: step.meta.extra_hosts.clone(),
        hostname: step.meta.hostname.clone(),
        ..wire::NewContainerRequest::default()
    };
    let made = bridge.new_container(named(build, request)).await;
    made.map_err(Error::call("making a container of the failed step"))?;
    let ended = attach(build, &mut bridge, &id, step.meta, step.security).await;
    let request = wire::ReleaseContainerRequest { container_id: id };
    // The answer to a release tells how the shell ended. The user knows, and the build's end releases what is left.
    let _known = bridge.release_container(named(build, request)).await;
    ended
}

async fn attach(
    build: &Build<'_>,
    bridge: &mut LlbBridgeClient<Channel>,
    container: &str,
    meta: pb::Meta,
    security: i32,
) -> Result<(), Error> {
    let tty = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let init = wire::InitMessage {
        container_id: container.to_owned(),
        meta: Some(pb::Meta {
            args: vec![SHELL.to_owned()],
            ..meta
        }),
        fds: vec![0, 1, 2],
        tty,
        security,
        ..wire::InitMessage::default()
    };
    let (to, messages) = mpsc::channel(16);
    say(&to, Input::Init(init)).await;
    let request = named(build, ReceiverStream::new(messages));
    let answers = bridge.exec_process(request).await;
    let answers = answers
        .map_err(Error::call("starting a shell"))?
        .into_inner();
    let _raw = tty.then(Raw::set).transpose()?;
    if tty {
        resize(&to).await;
    }
    tokio::select! {
        ended = show(answers) => ended,
        () = type_in(&to, tty) => Ok(()),
        () = build.interrupted.cancelled(), if !tty => Err(Error::Canceled),
    }
}

/// One process on this stream: its name means nothing.
async fn say(to: &mpsc::Sender<wire::ExecMessage>, input: Input) {
    let message = wire::ExecMessage {
        process_id: "shell".to_owned(),
        input: Some(input),
    };
    // Once the call is over nobody listens, and its answers say why.
    drop(to.send(message).await);
}

async fn resize(to: &mpsc::Sender<wire::ExecMessage>) {
    if let Ok(size) = tcgetwinsize(std::io::stdout()) {
        let (rows, cols) = (size.ws_row.into(), size.ws_col.into());
        say(to, Input::Resize(wire::ResizeMessage { rows, cols })).await;
    }
}

/// Hands on what is typed, and changes of the terminal's size. Never returns.
async fn type_in(to: &mpsc::Sender<wire::ExecMessage>, tty: bool) {
    let mut stdin = tokio::io::stdin();
    let mut piece = vec![0; 4096];
    let mut resized = signal(SignalKind::window_change()).ok();
    let mut open = true;
    loop {
        let changed = async {
            match &mut resized {
                Some(signals) if tty => signals.recv().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            read = stdin.read(&mut piece), if open => {
                let length = read.unwrap_or(0);
                open = length > 0;
                let data = Bytes::copy_from_slice(&piece[..length]);
                say(to, Input::File(wire::FdMessage { fd: 0, eof: !open, data })).await;
            }
            _ = changed => resize(to).await,
        }
    }
}

/// Shows what the shell writes, until it has ended.
async fn show(mut answers: Streaming<wire::ExecMessage>) -> Result<(), Error> {
    let failed = |source| Error::Stream {
        doing: "writing what the shell says",
        source,
    };
    while let Some(answer) = answers
        .message()
        .await
        .map_err(Error::call("running a shell"))?
    {
        match answer.input {
            Some(Input::File(file)) if file.fd == 2 => {
                let mut stderr = std::io::stderr();
                stderr
                    .write_all(&file.data)
                    .and_then(|()| stderr.flush())
                    .map_err(failed)?;
            }
            Some(Input::File(file)) => {
                let mut stdout = std::io::stdout();
                stdout
                    .write_all(&file.data)
                    .and_then(|()| stdout.flush())
                    .map_err(failed)?;
            }
            Some(Input::Exit(exit)) => {
                // A shell's own exit code says nothing about the build; that it could not start does.
                let unknown = exit.error.filter(|_| exit.code == 255);
                return match unknown {
                    Some(error) => Err(Error::Answer(format!("{SHELL}: {}", error.message))),
                    None => Ok(()),
                };
            }
            _ => {}
        }
    }
    Ok(())
}
