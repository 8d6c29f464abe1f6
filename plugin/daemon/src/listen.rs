//! Listening sockets: made with the owner and mode that were asked for, or inherited from systemd.

use std::error::Error;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use listenfd::ListenFd;
use shipway_config::{Address, Listen};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};

/// Connections of one listening socket.
pub(crate) enum Incoming {
    /// Unix sockets.
    Unix(BoxStream<'static, io::Result<UnixStream>>),
    /// TCP.
    Tcp(BoxStream<'static, io::Result<TcpStream>>),
}

/// Sockets that systemd handed over, by position.
pub(crate) struct Inherited {
    fds: ListenFd,
    names: Vec<String>,
}

impl Inherited {
    /// Takes what the environment offers.
    pub(crate) fn take() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        Self {
            fds: ListenFd::from_env(),
            names: names.split(':').map(str::to_owned).collect(),
        }
    }

    /// The unix socket of a name; the first one where no name is given.
    pub(crate) fn unix(&mut self, name: Option<&str>) -> io::Result<Option<UnixListener>> {
        let place = match name {
            None => 0,
            Some(name) => match self.names.iter().position(|n| n == name) {
                Some(place) => place,
                None => return Ok(None),
            },
        };
        let Some(listener) = self.fds.take_unix_listener(place)? else {
            return Ok(None);
        };
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Some)
    }
}

/// Listens at an address.
pub(crate) async fn open(
    address: &Address,
    owner: &Listen,
    inherited: &mut Inherited,
) -> Result<Incoming, Box<dyn Error + Send + Sync>> {
    match address {
        Address::Unix(path) => {
            let listener = unix(path, owner.uid, owner.gid)?;
            Ok(Incoming::Unix(UnixListenerStream::new(listener).boxed()))
        }
        Address::Tcp(at) => {
            let listener = TcpListener::bind(at)
                .await
                .map_err(|e| format!("listening at {at}: {e}"))?;
            Ok(Incoming::Tcp(TcpListenerStream::new(listener).boxed()))
        }
        Address::Inherited(name) => {
            let listener = inherited.unix(name.as_deref())?;
            let listener =
                listener.ok_or_else(|| format!("systemd handed over no socket for {address}"))?;
            Ok(Incoming::Unix(UnixListenerStream::new(listener).boxed()))
        }
    }
}

/// A unix socket in the place of one that a daemon before left behind; one that is alive is not taken over.
pub(crate) fn unix(
    path: &Path,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<UnixListener, Box<dyn Error + Send + Sync>> {
    let failed = |e: io::Error| format!("listening at {}: {e}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(format!("listening at {}: another process does", path.display()).into());
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e).into()),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    if uid.is_some() || gid.is_some() {
        std::os::unix::fs::chown(path, uid, gid).map_err(failed)?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}
