//! Dockerfiles: from bytes to typed instructions ([`syntax`]), to LLB with an image configuration ([`lower`]), and to what
//! tools ask about them ([`lint`], [`subrequest`]). Pure: images and named contexts are had through
//! [`resolve::MetaResolver`], which the caller implements; nothing here reads a file, a clock or a socket.
#![forbid(unsafe_code)]

pub mod error;
pub mod image;
pub mod lint;
pub mod lower;
pub mod options;
pub mod platform;
pub mod resolve;
pub mod shell;
mod span;
mod suggest;
pub mod syntax;

pub use error::{Error, ErrorKind};
pub use lower::{Lowered, MainContext, Outcome, Request, lower};
pub use options::BuildOptions;
pub use resolve::MetaResolver;
pub use span::Lines;
