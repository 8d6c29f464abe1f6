//! Dockerfiles: from bytes to typed instructions ([`syntax`]), to LLB with an image configuration
//! ([`lower()`](lower::lower)), and to what tools ask about them ([`lint`], [`subrequest`]). Pure: images and named contexts
//! are had through [`resolve::MetaResolver`], which the caller implements; nothing here reads a file, a clock or a socket.
//!
//! A frontend does this:
//! 1. [`options::BuildOptions::parse`] the client's options.
//! 2. Is there a [`lower::remote_context`]? Solve it: git and archives ([`lower::unpacked`]) are the context and hold the
//!    Dockerfile; [`lower::subdirectory`] narrows it. Else solve [`entry::dockerfile_source`] and [`entry::ignore_source`].
//! 3. Read the Dockerfile ([`entry::dockerfile_names`]) and the ignore file ([`entry::own_ignore_name`] first).
//! 4. [`syntax::detect_syntax`] may name another frontend; [`subrequest`] may ask for something else than a build.
//! 5. [`lower::lower`] with a [`lower::Request`]; show the warnings, solve each definition. [`Error::to_failure`] makes
//!    errors that point into the Dockerfile.
#![forbid(unsafe_code)]

pub mod entry;
pub mod error;
pub mod image;
pub mod lint;
pub mod lower;
pub mod options;
pub mod platform;
pub mod resolve;
pub mod shell;
mod span;
pub mod subrequest;
mod suggest;
pub mod syntax;

pub use error::{Error, ErrorKind};
pub use lower::{Lowered, MainContext, Outcome, Request, lower};
pub use options::BuildOptions;
pub use resolve::MetaResolver;
pub use span::Lines;
