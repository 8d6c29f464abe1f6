//! Compiles `wire/` to Rust. Never calls a system `protoc`, and never makes services unless feature `grpc` asks for them.

use std::path::Path;

/// Every file with messages of its own, relative to `wire/`.
const FILES: &[&str] = &[
    "buildkit/apicaps.proto",
    "buildkit/control.proto",
    "buildkit/errdefs.proto",
    "buildkit/exporter.proto",
    "buildkit/filesync.proto",
    "buildkit/gateway.proto",
    "buildkit/ops.proto",
    "buildkit/policysession.proto",
    "buildkit/secrets.proto",
    "buildkit/sourcepolicy.proto",
    "buildkit/sshforward.proto",
    "buildkit/stack.proto",
    "buildkit/types.proto",
    "buildkit/upload.proto",
    "containerd/content.proto",
    "fsutil/types.proto",
    "google/rpc/status.proto",
    "grpc/health.proto",
    "opentelemetry/trace.proto",
    "shipway/upkeep.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=wire");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("wire");
    let descriptors = protox::compile(FILES, [&root])?;
    let services = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    // Sorted maps make encodings reproducible, which digests of LLB need; `Bytes` spares copies of file data.
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .btree_map(".")
        .bytes(".")
        .include_file("wire.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
