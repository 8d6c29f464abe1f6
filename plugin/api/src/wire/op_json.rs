//! Ops in the JSON form of protocol buffers, spelled as BuildKit spells its fields: what debuggers read out of a failure.
//! Exec and source ops are written whole; of others only what every op has, since nothing can be run in them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use shipway_proto::pb;

/// An op.
pub(super) fn op(op: &pb::Op) -> Value {
    let inputs = op
        .inputs
        .iter()
        .map(|input| json!({"digest": input.digest, "index": input.index.to_string()}));
    let mut written = json!({"inputs": inputs.collect::<Vec<_>>()});
    if let Some(platform) = &op.platform {
        written["platform"] = json!({
            "Architecture": platform.architecture,
            "OS": platform.os,
            "Variant": platform.variant,
            "OSVersion": platform.os_version,
            "OSFeatures": platform.os_features,
        });
    }
    if let Some(constraints) = &op.constraints {
        written["constraints"] = json!({"filter": constraints.filter});
    }
    match &op.op {
        Some(pb::op::Op::Exec(op)) => written["exec"] = exec(op),
        Some(pb::op::Op::Source(source)) => {
            written["source"] = json!({"identifier": source.identifier, "attrs": source.attrs});
        }
        Some(pb::op::Op::File(file)) => {
            let actions = file.actions.iter().map(action).collect::<Vec<_>>();
            written["file"] = json!({"actions": actions});
        }
        Some(
            pb::op::Op::Build(_)
            | pb::op::Op::Merge(_)
            | pb::op::Op::Diff(_)
            | pb::op::Op::Passthrough(_),
        )
        | None => {}
    }
    written
}

fn exec(op: &pb::ExecOp) -> Value {
    let secrets = op
        .secretenv
        .iter()
        .map(|s| json!({"ID": s.id, "name": s.name, "optional": s.optional}));
    let devices = op
        .cdi_devices
        .iter()
        .map(|d| json!({"name": d.name, "optional": d.optional}));
    json!({
        "meta": op.meta.as_ref().map(meta),
        "mounts": op.mounts.iter().map(mount).collect::<Vec<_>>(),
        "network": op.network,
        "security": op.security,
        "secretenv": secrets.collect::<Vec<_>>(),
        "cdiDevices": devices.collect::<Vec<_>>(),
    })
}

fn meta(meta: &pb::Meta) -> Value {
    let hosts = meta
        .extra_hosts
        .iter()
        .map(|host| json!({"Host": host.host, "IP": host.ip}));
    let limits = meta.ulimit.iter().map(|limit| {
        json!({
            "Name": limit.name,
            "Soft": limit.soft.to_string(),
            "Hard": limit.hard.to_string(),
        })
    });
    let mut written = json!({
        "args": meta.args,
        "env": meta.env,
        "cwd": meta.cwd,
        "user": meta.user,
        "extraHosts": hosts.collect::<Vec<_>>(),
        "hostname": meta.hostname,
        "ulimit": limits.collect::<Vec<_>>(),
        "cgroupParent": meta.cgroup_parent,
        "removeMountStubsRecursive": meta.remove_mount_stubs_recursive,
        "validExitCodes": meta.valid_exit_codes,
    });
    if let Some(proxy) = &meta.proxy_env {
        written["proxyEnv"] = json!({
            "httpProxy": proxy.http_proxy,
            "httpsProxy": proxy.https_proxy,
            "ftpProxy": proxy.ftp_proxy,
            "noProxy": proxy.no_proxy,
            "allProxy": proxy.all_proxy,
        });
    }
    written
}

fn mount(mount: &pb::Mount) -> Value {
    let mut written = json!({
        "input": mount.input.to_string(),
        "selector": mount.selector,
        "dest": mount.dest,
        "output": mount.output.to_string(),
        "readonly": mount.readonly,
        "mountType": mount.mount_type,
        "resultID": mount.result_id,
        "contentCache": mount.content_cache,
    });
    if let Some(tmpfs) = &mount.tmpfs_opt {
        written["TmpfsOpt"] = json!({"size": tmpfs.size.to_string()});
    }
    if let Some(cache) = &mount.cache_opt {
        written["cacheOpt"] = json!({"ID": cache.id, "sharing": cache.sharing});
    }
    let owned = |id: &str, numbers: [u32; 3], optional: bool| {
        let [uid, gid, mode] = numbers;
        json!({"ID": id, "uid": uid, "gid": gid, "mode": mode, "optional": optional})
    };
    if let Some(o) = &mount.secret_opt {
        written["secretOpt"] = owned(&o.id, [o.uid, o.gid, o.mode], o.optional);
    }
    if let Some(o) = &mount.ssh_opt {
        written["SSHOpt"] = owned(&o.id, [o.uid, o.gid, o.mode], o.optional);
    }
    written
}

/// What a file action does, without owners and filters.
fn action(action: &pb::FileAction) -> Value {
    use pb::file_action::Action;
    let mut written = Map::new();
    let mut set = |key: &str, value: Value| drop(written.insert(key.to_owned(), value));
    set("input", action.input.to_string().into());
    set("secondaryInput", action.secondary_input.to_string().into());
    set("output", action.output.to_string().into());
    match &action.action {
        Some(Action::Copy(copy)) => {
            set(
                "copy",
                json!({"src": copy.src, "dest": copy.dest, "mode": copy.mode}),
            );
        }
        Some(Action::Mkfile(file)) => {
            let data = STANDARD.encode(&file.data);
            set(
                "mkfile",
                json!({"path": file.path, "mode": file.mode, "data": data}),
            );
        }
        Some(Action::Mkdir(dir)) => {
            let made = json!({"path": dir.path, "mode": dir.mode, "makeParents": dir.make_parents});
            set("mkdir", made);
        }
        Some(Action::Rm(rm)) => set("rm", json!({"path": rm.path})),
        Some(Action::Symlink(link)) => {
            set(
                "symlink",
                json!({"oldpath": link.oldpath, "newpath": link.newpath}),
            );
        }
        None => {}
    }
    written.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_op_is_spelled_as_buildkit_reads_it() {
        let wire = pb::Op {
            op: Some(pb::op::Op::Exec(pb::ExecOp {
                meta: Some(pb::Meta {
                    args: vec!["sh".into()],
                    ..pb::Meta::default()
                }),
                mounts: vec![pb::Mount {
                    input: -1,
                    dest: "/c".into(),
                    mount_type: 3,
                    cache_opt: Some(pb::CacheOpt {
                        id: "x".into(),
                        sharing: 2,
                    }),
                    ..pb::Mount::default()
                }],
                ..pb::ExecOp::default()
            })),
            ..pb::Op::default()
        };
        let written = op(&wire);
        assert_eq!(written["exec"]["meta"]["args"][0], "sh");
        let mount = &written["exec"]["mounts"][0];
        assert_eq!(
            (&mount["input"], &mount["mountType"]),
            (&json!("-1"), &json!(3))
        );
        assert_eq!(mount["cacheOpt"], json!({"ID": "x", "sharing": 2}));
    }
}
