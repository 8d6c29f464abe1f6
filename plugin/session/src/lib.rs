//! The client session: an HTTP/2 connection inside the bytes of `Control.Session`, on which the daemon is the client.
//!
//! [`SessionHub::attach`] takes such a stream; the hub then hands the session out by its id. This crate decides how the
//! client's services are called and what of their answers is refused. It decides neither what is asked for, nor who may
//! open a session.

mod auth;
mod channel;
mod client;
mod content;
mod error;
mod files;
mod gofs;
mod health;
mod hub;
mod lists;
mod metadata;
mod policy;
mod receive;
mod secrets;
mod send;
mod trees;
mod tunnel;
mod upload;
mod validate;
mod walk;

pub use hub::{AttachError, Outbound, SessionHub};
pub use policy::source_meta;
