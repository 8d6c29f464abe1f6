//! Requests for containers and their processes to the domain's terms.

use shipway_build::{NewContainer, Place, ProcessRequest};
use shipway_llb::decode::{decode_mount, decode_net_mode, decode_process, decode_security_mode};
use shipway_model::failure::FailureKind;
use shipway_model::op::{HostIp, SecretEnv};
use shipway_model::{Failure, Platform};
use shipway_proto::{gateway as wire, pb};
use tonic::Status;

fn invalid(message: impl Into<String>) -> Failure {
    Failure::of_kind(FailureKind::InvalidArgument, message.into())
}

/// The container that a caller asks for.
pub(crate) fn new_container(wire: wire::NewContainerRequest) -> Result<NewContainer, Failure> {
    if wire.container_id.is_empty() {
        return Err(invalid("a container needs an id"));
    }
    if !wire.mounts.iter().any(|mount| mount.dest == "/") {
        return Err(invalid("root mount is required"));
    }
    let mount = |mount: pb::Mount| {
        // Inputs and outputs mean nothing here, and callers leave them at 0.
        let mount = pb::Mount {
            input: -1,
            output: -1,
            ..mount
        };
        decode_mount(mount, 0).map_err(|e| Failure::from_error(&e))
    };
    let mounts = wire.mounts.into_iter().map(mount);
    let host = |host: pb::HostIp| HostIp {
        host: host.host,
        ip: host.ip,
    };
    Ok(NewContainer {
        id: wire.container_id,
        mounts: mounts.collect::<Result<_, _>>()?,
        network: decode_net_mode(wire.network).map_err(|e| Failure::from_error(&e))?,
        hostname: wire.hostname,
        extra_hosts: wire.extra_hosts.into_iter().map(host).collect(),
        platform: wire.platform.map(platform),
    })
}

/// A platform as the domain has it.
pub(crate) fn platform(wire: pb::Platform) -> Platform {
    Platform {
        architecture: wire.architecture,
        os: wire.os,
        os_version: wire.os_version,
        os_features: wire.os_features,
        variant: wire.variant,
    }
}

/// The process that a caller asks for.
pub(crate) fn process(wire: wire::InitMessage) -> Result<ProcessRequest, Failure> {
    let meta = wire
        .meta
        .ok_or_else(|| invalid("process meta is required"))?;
    let meta = decode_process(meta);
    if meta.args.is_empty() {
        return Err(invalid("a process needs a program"));
    }
    let secret = |secret: pb::SecretEnv| SecretEnv {
        id: secret.id,
        name: secret.name,
        optional: secret.optional,
    };
    Ok(ProcessRequest {
        args: meta.args,
        env: meta.env,
        secret_env: wire.secretenv.into_iter().map(secret).collect(),
        cwd: meta.cwd,
        user: meta.user,
        tty: wire.tty,
        security: decode_security_mode(wire.security)
            .map_err(|e| Failure::from_error(&e).context("invalid security mode"))?,
        remove_mount_stubs_recursive: meta.remove_mount_stubs_recursive,
    })
}

/// A path in one of a container's mounts.
pub(crate) fn place<'a>(
    container: &'a str,
    mount: i32,
    path: &'a str,
) -> Result<Place<'a>, Status> {
    let mount = usize::try_from(mount)
        .map_err(|_| Status::invalid_argument(format!("mount index {mount} is out of bounds")))?;
    Ok(Place {
        container,
        mount,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(dest: &str) -> wire::NewContainerRequest {
        wire::NewContainerRequest {
            container_id: "c".into(),
            mounts: vec![pb::Mount {
                dest: dest.into(),
                result_id: "r".into(),
                ..pb::Mount::default()
            }],
            ..wire::NewContainerRequest::default()
        }
    }

    #[test]
    fn a_container_needs_a_root_and_its_mounts_take_no_inputs() {
        let made = new_container(request("/")).unwrap();
        assert_eq!((made.mounts[0].input, made.mounts[0].output), (None, None));
        assert_eq!(made.mounts[0].result_id, "r");
        let refused = new_container(request("/x")).unwrap_err();
        assert_eq!(&*refused.message, "root mount is required");
    }

    #[test]
    fn a_process_needs_a_program() {
        let refused = process(wire::InitMessage::default()).unwrap_err();
        assert_eq!(refused.kind, FailureKind::InvalidArgument);
    }
}
