//! A build's daemon is served on a socket of its own, by the same service as containerd: what containerd would only pass on
//! saves its way. Who may connect is decided by the directory that the socket is in.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;

use containerd_shim::protos::shim_async::{Task, create_task};
use ttrpc::r#async::Server;

use super::Service;

/// Serves at `socket`, whose directory exists, as long as the server lives.
pub(super) async fn serve(service: Service, socket: &Path) -> io::Result<Server> {
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // A socket's path is short: the directory's descriptor stands for where it is.
    let dir = File::open(dir)?;
    let address = format!(
        "unix:///proc/self/fd/{}/{}",
        dir.as_raw_fd(),
        name.to_string_lossy()
    );
    let service: Arc<dyn Task + Send + Sync> = Arc::new(service);
    let mut server = Server::new()
        .bind(&address)
        .map_err(io::Error::other)?
        .register_service(create_task(service));
    server.start().await.map_err(io::Error::other)?;
    Ok(server)
}
