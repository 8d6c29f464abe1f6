//! Removes a bridge, by one message to the kernel's routing socket. It touches no other kind of interface.

use std::fs;
use std::io;
use std::path::Path;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

use crate::error::NetworkError;

/// Kind of the message: remove an interface.
const DELETE_LINK: u16 = 17;
/// It is a request, and is to be answered.
const REQUEST_AND_ANSWER: u16 = 1 | 4;
/// Length of the message: its header and the interface's.
const LENGTH: usize = 32;
/// Where the answer has its error number.
const ERROR: std::ops::Range<usize> = 16..20;

/// True where there is an interface of this name.
pub(crate) fn exists(name: &str) -> bool {
    sysfs(name).exists()
}

/// Removes the bridge of this name. Fine where there is no such interface, or it is no bridge.
pub(crate) fn remove_bridge(name: &str) -> Result<(), NetworkError> {
    if !sysfs(name).join("bridge").is_dir() {
        return Ok(());
    }
    let remove = || -> io::Result<()> {
        let index = fs::read_to_string(sysfs(name).join("ifindex"))?;
        let index = index.trim().parse().map_err(io::Error::other)?;
        ask(&message(index))
    };
    remove().map_err(|source| NetworkError::Interface {
        name: name.to_owned(),
        source,
    })
}

fn sysfs(name: &str) -> std::path::PathBuf {
    Path::new("/sys/class/net").join(name)
}

fn message(index: i32) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[0..4].copy_from_slice(&u32::try_from(LENGTH).unwrap_or(0).to_ne_bytes());
    bytes[4..6].copy_from_slice(&DELETE_LINK.to_ne_bytes());
    bytes[6..8].copy_from_slice(&REQUEST_AND_ANSWER.to_ne_bytes());
    // Sequence number and sender stay zero; so do the interface's family and type.
    bytes[20..24].copy_from_slice(&index.to_ne_bytes());
    bytes
}

fn ask(message: &[u8]) -> io::Result<()> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    // Routing is the family's protocol 0.
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    sendto(
        &socket,
        message,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    let mut answer = [0; 4096];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let code = answer[..length]
        .get(ERROR)
        .and_then(|bytes| bytes.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
