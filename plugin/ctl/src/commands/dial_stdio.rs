//! `dial-stdio`: joins standard input and output to the daemon's socket, for tunnels such as ssh. Reads nothing of it.

use tokio::io::{AsyncWriteExt as _, copy};
use tokio::net::UnixStream;

use crate::args::Global;
use crate::connect::Address;
use crate::error::Error;

/// Ends when the daemon's side does.
pub(crate) async fn run(global: &Global) -> Result<(), Error> {
    let Address::Unix(path) = Address::parse(&global.addr)? else {
        return Err(Error::flag("--addr", "dial-stdio needs a unix:// address"));
    };
    let dialled = UnixStream::connect(&path).await;
    let socket = dialled.map_err(Error::file("connecting to", &path))?;
    let (mut from_daemon, mut to_daemon) = socket.into_split();
    let upward = async {
        let copied = copy(&mut tokio::io::stdin(), &mut to_daemon).await;
        to_daemon.shutdown().await.and(copied)
    };
    let downward = async {
        let mut stdout = tokio::io::stdout();
        let copied = copy(&mut from_daemon, &mut stdout).await;
        stdout.flush().await.and(copied)
    };
    tokio::pin!(upward, downward);
    let failed = |doing| move |source| Error::Stream { doing, source };
    tokio::select! {
        // Standard input may never end; the daemon's end is the end.
        done = &mut downward => done.map_err(failed("copying to stdout")).map(drop),
        sent = &mut upward => {
            sent.map_err(failed("copying from stdin"))?;
            downward.await.map_err(failed("copying to stdout")).map(drop)
        }
    }
}
