//! The messages that BuildKit, fsutil and containerd's content store put on the wire, and with feature `grpc` the
//! clients and servers of their services. Decides nothing: checks and conversions belong to whoever reads a message.
//!
//! Maps are sorted and `bytes` are [`bytes::Bytes`](prost::bytes::Bytes) throughout, so equal messages encode equally
//! and file data is not copied. Field and message names follow `wire/*.proto`.

/// What `build.rs` generates, in modules named after the packages.
#[expect(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::excessive_nesting,
    clippy::large_enum_variant,
    clippy::struct_excessive_bools,
    reason = "generated: the .proto files document what needs it"
)]
#[cfg_attr(
    feature = "grpc",
    expect(
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated services allow what they need"
    )
)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

/// The well-known type that these messages carry times in.
pub use prost_types::Timestamp;
pub use wire::containerd::services::content::v1 as content;
pub use wire::errdefs;
pub use wire::fsutil::types as fsutil;
pub use wire::google::rpc;
pub use wire::grpc::health::v1 as health;
pub use wire::moby::buildkit::secrets::v1 as secrets;
pub use wire::moby::buildkit::v1 as control;
pub use wire::moby::buildkit::v1::{apicaps, frontend as gateway, sourcepolicy, types};
pub use wire::moby::exporter::v1 as exporter;
/// `FileSync`, `FileSend` and `Auth` share one package.
pub use wire::moby::filesync::v1 as filesync;
pub use wire::moby::sshforward::v1 as sshforward;
pub use wire::moby::upload::v1 as upload;
pub use wire::opentelemetry::proto::collector::trace::v1 as trace;
pub use wire::pb;
pub use wire::shipway::upkeep::v1 as upkeep;
pub use wire::stack;

/// Largest message either side accepts, in bytes; gRPC's own default of 4 MiB is too small for image configs and LLB.
pub const MESSAGE_LIMIT: usize = 16 << 20;

#[cfg(test)]
mod tests;
