//! Standard input and output as one connection, and standard error for complaints.

use std::error::Error as _;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use hyper_util::rt::TokioIo;
use tokio::fs::File;
use tonic::transport::{Channel, Endpoint};

use crate::Error;

/// A channel to the daemon that started this process.
pub(crate) async fn connect() -> Result<Channel, Error> {
    let connector = tower::service_fn(|_| async {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        let file = |end: OwnedFd| File::from_std(end.into());
        Ok::<_, io::Error>(TokioIo::new(tokio::io::join(file(stdin), file(stdout))))
    });
    // The name means nothing: there is one daemon at the other end.
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(Error::Connect)
}

/// Tells the user why the frontend failed, where the daemon could not be told.
pub(crate) fn complain(error: &Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    // With nobody to hear it there is nothing left to do.
    drop(writeln!(io::stderr(), "{text}"));
}
