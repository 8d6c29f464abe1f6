//! The OCI distribution client: resolves references, fetches and pushes blobs and manifests, answers challenges.
//!
//! [`RegistryClient`] implements [`Registry`](shipway_backend::Registry). This crate decides which host is asked, how often, and
//! with which token; that what arrives is what was asked for; and what a registry's refusals are called. It decides nothing
//! about images.

mod challenge;
mod client;
mod credentials;
mod endpoint;
mod error;
mod exchange;
mod fetch;
mod hosts_dir;
mod http_client;
mod push;
mod resolve;
mod settings;
mod tokens;
mod web;

pub use client::RegistryClient;
pub use settings::Settings;
pub use web::WebClient;
