//! The step that failed, as the daemon's answer describes it: its process, its mounts, and the results behind them. Reads
//! the JSON form of protocol buffers, where numbers may be strings and enumerations names.

use prost::Message as _;
use serde_json::Value;
use shipway_proto::{pb, rpc};
use tonic::Status;

/// A failed process with what it ran in.
#[derive(Debug, PartialEq)]
pub(super) struct FailedStep {
    /// How it was started.
    pub(super) meta: pb::Meta,
    /// Its mounts; `result_id` names what each one held when the step ended.
    pub(super) mounts: Vec<pb::Mount>,
    /// Its network.
    pub(super) network: i32,
    /// Sandbox or not.
    pub(super) security: i32,
}

impl FailedStep {
    /// The step that a status is about; none where no process failed, or where the daemon kept nothing of it.
    pub(super) fn of(status: &Status) -> Option<Self> {
        let status = rpc::Status::decode(status.details()).ok()?;
        let solve = status.details.iter().find(|detail| {
            let name = detail.type_url.rsplit('/').next();
            name == Some("errdefs.Solve+json")
        })?;
        Self::read(&serde_json::from_slice(&solve.value).ok()?)
    }

    fn read(solve: &Value) -> Option<Self> {
        let exec = solve["op"].get("exec")?;
        let ids = solve["mountIDs"].as_array()?;
        let mounts = exec["mounts"].as_array()?;
        if ids.len() < mounts.len() {
            return None;
        }
        let mounts = mounts
            .iter()
            .zip(ids)
            .map(|(mount, id)| read_mount(mount, id));
        Some(Self {
            meta: read_meta(&exec["meta"]),
            mounts: mounts.collect(),
            network: enumeration(&exec["network"], &["UNSET", "HOST", "NONE"]),
            security: enumeration(&exec["security"], &["SANDBOX", "INSECURE"]),
        })
    }
}

fn read_meta(meta: &Value) -> pb::Meta {
    let hosts = meta["extraHosts"].as_array().into_iter().flatten();
    let host = |host: &Value| pb::HostIp {
        host: text(&host["Host"]),
        ip: text(&host["IP"]),
    };
    pb::Meta {
        args: texts(&meta["args"]),
        env: texts(&meta["env"]),
        cwd: text(&meta["cwd"]),
        user: text(&meta["user"]),
        hostname: text(&meta["hostname"]),
        extra_hosts: hosts.map(host).collect(),
        ..pb::Meta::default()
    }
}

fn read_mount(mount: &Value, id: &Value) -> pb::Mount {
    let part = |name: &str| mount.get(name).filter(|part| !part.is_null());
    let kinds = ["BIND", "SECRET", "SSH", "CACHE", "TMPFS"];
    let sharing = ["SHARED", "PRIVATE", "LOCKED"];
    let owner = |part: &Value| {
        let small = |name: &str| u32::try_from(number(&part[name])).unwrap_or(0);
        (small("uid"), small("gid"), small("mode"))
    };
    pb::Mount {
        input: -1,
        output: -1,
        selector: text(&mount["selector"]),
        dest: text(&mount["dest"]),
        readonly: mount["readonly"].as_bool().unwrap_or(false),
        mount_type: enumeration(&mount["mountType"], &kinds),
        result_id: text(id),
        tmpfs_opt: part("TmpfsOpt").map(|part| pb::TmpfsOpt {
            size: number(&part["size"]),
        }),
        cache_opt: part("cacheOpt").map(|part| pb::CacheOpt {
            id: text(&part["ID"]),
            sharing: enumeration(&part["sharing"], &sharing),
        }),
        secret_opt: part("secretOpt").map(|part| {
            let (uid, gid, mode) = owner(part);
            let optional = part["optional"].as_bool().unwrap_or(false);
            let id = text(&part["ID"]);
            pb::SecretOpt {
                id,
                uid,
                gid,
                mode,
                optional,
            }
        }),
        ssh_opt: part("SSHOpt").map(|part| {
            let (uid, gid, mode) = owner(part);
            let optional = part["optional"].as_bool().unwrap_or(false);
            let id = text(&part["ID"]);
            pb::SshOpt {
                id,
                uid,
                gid,
                mode,
                optional,
            }
        }),
        ..pb::Mount::default()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    let each = value.as_array().into_iter().flatten();
    each.map(text).collect()
}

fn number(value: &Value) -> i64 {
    let written = value.as_str().and_then(|text| text.parse().ok());
    value.as_i64().or(written).unwrap_or(0)
}

fn enumeration(value: &Value, names: &[&str]) -> i32 {
    let named = value
        .as_str()
        .and_then(|name| names.iter().position(|known| *known == name));
    let index = named.and_then(|index| i64::try_from(index).ok());
    i32::try_from(index.unwrap_or_else(|| number(value))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_failed_step_is_read_as_both_daemons_write_it() {
        let solve = |mounts: Value| json!({"mountIDs": ["a", "b"], "op": {"exec": {"meta": {"args": ["x"], "cwd": "/w"}, "mounts": mounts}}});
        let ours = json!([{"dest": "/", "mountType": 0}, {"dest": "/c", "mountType": 3, "input": "-1",
            "cacheOpt": {"ID": "i", "sharing": 2}, "TmpfsOpt": null}]);
        let theirs = json!([{"dest": "/"}, {"dest": "/c", "mountType": "CACHE", "input": "-1",
            "cacheOpt": {"ID": "i", "sharing": "LOCKED"}}]);
        let step = FailedStep::read(&solve(ours)).unwrap();
        assert_eq!(FailedStep::read(&solve(theirs)).unwrap(), step);
        assert_eq!(step.meta.cwd, "/w");
        assert_eq!(
            (step.mounts[1].mount_type, step.mounts[1].result_id.as_str()),
            (3, "b")
        );
        assert!(FailedStep::read(&json!({"op": {"file": {}}})).is_none());
        assert!(
            FailedStep::read(&json!({"mountIDs": [], "op": {"exec": {"mounts": [{}]}}})).is_none()
        );
    }
}
