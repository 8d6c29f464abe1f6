//! Ops as JSON, in the shape that BuildKit gives them in `dump-llb` and in provenance, and that scripts pick apart: fields
//! in the order of the wire format, empty ones left out.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use serde_json::{Map, Value, json};
use shipway_proto::pb;

/// A JSON object that leaves out what is empty.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn done(self) -> Value {
        Value::Object(self.0)
    }

    /// A field that is there if it is set, even to something empty.
    fn message(&mut self, name: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), value);
        }
    }

    fn text(&mut self, name: &str, text: &str) {
        self.message(name, (!text.is_empty()).then(|| json!(text)));
    }

    fn number(&mut self, name: &str, number: impl Into<i64>) {
        let number = number.into();
        self.message(name, (number != 0).then(|| json!(number)));
    }

    fn flag(&mut self, name: &str, flag: bool) {
        self.message(name, flag.then(|| json!(true)));
    }

    fn list<T>(&mut self, name: &str, list: &[T], each: impl Fn(&T) -> Value) {
        let values = || Value::Array(list.iter().map(each).collect());
        self.message(name, (!list.is_empty()).then(values));
    }

    fn texts(&mut self, name: &str, texts: &[String]) {
        self.list(name, texts, |text| json!(text));
    }

    fn map<T>(&mut self, name: &str, map: &BTreeMap<String, T>, each: impl Fn(&T) -> Value) {
        let values = || {
            map.iter()
                .map(|(key, value)| (key.clone(), each(value)))
                .collect()
        };
        self.message(name, (!map.is_empty()).then(|| Value::Object(values())));
    }
}

/// A step of a provenance's build: an encoded op without its inputs, and without what a source has of its client's session.
pub fn step(encoded: &[u8]) -> Result<Value, prost::DecodeError> {
    let mut op = pb::Op::decode(encoded)?;
    op.inputs.clear();
    if let Some(pb::op::Op::Source(source)) = &mut op.op {
        source.attrs.remove("local.session");
        source.attrs.remove("local.unique");
    }
    Ok(self::op(&op))
}

/// An op.
#[must_use]
pub fn op(op: &pb::Op) -> Value {
    use pb::op::Op;
    let mut kind = Object::default();
    match &op.op {
        Some(Op::Exec(exec)) => kind.message("exec", Some(exec_op(exec))),
        Some(Op::Source(source)) => kind.message("source", Some(source_op(source))),
        Some(Op::File(file)) => kind.message("file", Some(file_op(file))),
        Some(Op::Build(build)) => kind.message("build", Some(build_op(build))),
        Some(Op::Merge(merge)) => {
            let mut object = Object::default();
            object.list("inputs", &merge.inputs, |input| input_index(input.input));
            kind.message("merge", Some(object.done()));
        }
        Some(Op::Diff(diff)) => {
            let mut object = Object::default();
            object.message(
                "lower",
                diff.lower.as_ref().map(|lower| input_index(lower.input)),
            );
            object.message(
                "upper",
                diff.upper.as_ref().map(|upper| input_index(upper.input)),
            );
            kind.message("diff", Some(object.done()));
        }
        Some(Op::Passthrough(pass)) => {
            let mut object = Object::default();
            object.text("id", &pass.id);
            object.list("outputs", &pass.outputs, |output| json!(output));
            kind.message("passthrough", Some(object.done()));
        }
        None => {}
    }
    let mut object = Object::default();
    object.list("inputs", &op.inputs, |input| {
        let mut object = Object::default();
        object.text("digest", &input.digest);
        object.number("index", input.index);
        object.done()
    });
    object.message("Op", Some(kind.done()));
    object.message("platform", op.platform.as_ref().map(platform));
    object.message(
        "constraints",
        op.constraints.as_ref().map(|constraints| {
            let mut object = Object::default();
            object.texts("filter", &constraints.filter);
            object.done()
        }),
    );
    object.done()
}

fn input_index(input: i64) -> Value {
    let mut object = Object::default();
    object.number("input", input);
    object.done()
}

fn platform(platform: &pb::Platform) -> Value {
    let mut object = Object::default();
    object.text("Architecture", &platform.architecture);
    object.text("OS", &platform.os);
    object.text("Variant", &platform.variant);
    object.text("OSVersion", &platform.os_version);
    object.texts("OSFeatures", &platform.os_features);
    object.done()
}

fn source_op(source: &pb::SourceOp) -> Value {
    let mut object = Object::default();
    object.text("identifier", &source.identifier);
    object.map("attrs", &source.attrs, |value| json!(value));
    object.done()
}

fn build_op(build: &pb::BuildOp) -> Value {
    let mut object = Object::default();
    object.number("builder", build.builder);
    object.map("inputs", &build.inputs, |input| input_index(input.input));
    object.message("def", build.def.as_ref().map(definition));
    object.map("attrs", &build.attrs, |value| json!(value));
    object.done()
}

fn definition(definition: &pb::Definition) -> Value {
    let mut object = Object::default();
    object.list("def", &definition.def, |encoded| {
        json!(STANDARD.encode(encoded))
    });
    object.map("metadata", &definition.metadata, op_metadata);
    object.done()
}

fn exec_op(exec: &pb::ExecOp) -> Value {
    let mut object = Object::default();
    object.message("meta", exec.meta.as_ref().map(meta));
    object.list("mounts", &exec.mounts, mount);
    object.number("network", exec.network);
    object.number("security", exec.security);
    object.list("secretenv", &exec.secretenv, |secret| {
        let mut object = Object::default();
        object.text("ID", &secret.id);
        object.text("name", &secret.name);
        object.flag("optional", secret.optional);
        object.done()
    });
    object.list("cdiDevices", &exec.cdi_devices, |device| {
        let mut object = Object::default();
        object.text("name", &device.name);
        object.flag("optional", device.optional);
        object.done()
    });
    object.done()
}

fn meta(meta: &pb::Meta) -> Value {
    let mut object = Object::default();
    object.texts("args", &meta.args);
    object.texts("env", &meta.env);
    object.text("cwd", &meta.cwd);
    object.text("user", &meta.user);
    object.message(
        "proxy_env",
        meta.proxy_env.as_ref().map(|proxy| {
            let mut object = Object::default();
            object.text("http_proxy", &proxy.http_proxy);
            object.text("https_proxy", &proxy.https_proxy);
            object.text("ftp_proxy", &proxy.ftp_proxy);
            object.text("no_proxy", &proxy.no_proxy);
            object.text("all_proxy", &proxy.all_proxy);
            object.done()
        }),
    );
    object.list("extraHosts", &meta.extra_hosts, |host| {
        let mut object = Object::default();
        object.text("Host", &host.host);
        object.text("IP", &host.ip);
        object.done()
    });
    object.text("hostname", &meta.hostname);
    object.list("ulimit", &meta.ulimit, |limit| {
        let mut object = Object::default();
        object.text("Name", &limit.name);
        object.number("Soft", limit.soft);
        object.number("Hard", limit.hard);
        object.done()
    });
    object.text("cgroupParent", &meta.cgroup_parent);
    object.flag(
        "removeMountStubsRecursive",
        meta.remove_mount_stubs_recursive,
    );
    object.list("validExitCodes", &meta.valid_exit_codes, |code| json!(code));
    object.done()
}

fn mount(mount: &pb::Mount) -> Value {
    let mut object = Object::default();
    object.number("input", mount.input);
    object.text("selector", &mount.selector);
    object.text("dest", &mount.dest);
    object.number("output", mount.output);
    object.flag("readonly", mount.readonly);
    object.number("mountType", mount.mount_type);
    object.message(
        "TmpfsOpt",
        mount.tmpfs_opt.as_ref().map(|tmpfs| {
            let mut object = Object::default();
            object.number("size", tmpfs.size);
            object.done()
        }),
    );
    object.message(
        "cacheOpt",
        mount.cache_opt.as_ref().map(|cache| {
            let mut object = Object::default();
            object.text("ID", &cache.id);
            object.number("sharing", cache.sharing);
            object.done()
        }),
    );
    let secret = mount.secret_opt.as_ref();
    let secret = secret.map(|s| owned(&s.id, [s.uid, s.gid, s.mode], s.optional));
    object.message("secretOpt", secret);
    let ssh = mount.ssh_opt.as_ref();
    object.message(
        "SSHOpt",
        ssh.map(|s| owned(&s.id, [s.uid, s.gid, s.mode], s.optional)),
    );
    object.text("resultID", &mount.result_id);
    object.number("contentCache", mount.content_cache);
    object.done()
}

/// Settings of a secret or agent mount.
fn owned(id: &str, [uid, gid, mode]: [u32; 3], optional: bool) -> Value {
    let mut object = Object::default();
    object.text("ID", id);
    object.number("uid", uid);
    object.number("gid", gid);
    object.number("mode", mode);
    object.flag("optional", optional);
    object.done()
}

fn file_op(file: &pb::FileOp) -> Value {
    let mut object = Object::default();
    object.list("actions", &file.actions, |action| {
        json!({
            "input": action.input,
            "secondaryInput": action.secondary_input,
            "output": action.output,
            "Action": file_action(action),
        })
    });
    object.done()
}

fn file_action(action: &pb::FileAction) -> Value {
    use pb::file_action::Action;
    let mut object = Object::default();
    match &action.action {
        Some(Action::Copy(copy)) => object.message("copy", Some(copy_action(copy))),
        Some(Action::Mkfile(file)) => {
            let mut made = Object::default();
            made.text("path", &file.path);
            made.number("mode", file.mode);
            made.text("data", &STANDARD.encode(&file.data));
            made.message("owner", file.owner.as_ref().map(owner));
            made.number("timestamp", file.timestamp);
            object.message("mkfile", Some(made.done()));
        }
        Some(Action::Mkdir(dir)) => {
            let mut made = Object::default();
            made.text("path", &dir.path);
            made.number("mode", dir.mode);
            made.flag("makeParents", dir.make_parents);
            made.message("owner", dir.owner.as_ref().map(owner));
            made.number("timestamp", dir.timestamp);
            object.message("mkdir", Some(made.done()));
        }
        Some(Action::Rm(rm)) => {
            let mut removed = Object::default();
            removed.text("path", &rm.path);
            removed.flag("allowNotFound", rm.allow_not_found);
            removed.flag("allowWildcard", rm.allow_wildcard);
            object.message("rm", Some(removed.done()));
        }
        Some(Action::Symlink(link)) => {
            let mut made = Object::default();
            made.text("oldpath", &link.oldpath);
            made.text("newpath", &link.newpath);
            made.message("owner", link.owner.as_ref().map(owner));
            made.number("timestamp", link.timestamp);
            object.message("symlink", Some(made.done()));
        }
        None => {}
    }
    object.done()
}

fn copy_action(copy: &pb::FileActionCopy) -> Value {
    let mut object = Object::default();
    object.text("src", &copy.src);
    object.text("dest", &copy.dest);
    object.message("owner", copy.owner.as_ref().map(owner));
    object.number("mode", copy.mode);
    object.flag("followSymlink", copy.follow_symlink);
    object.flag("dirCopyContents", copy.dir_copy_contents);
    object.flag(
        "attemptUnpackDockerCompatibility",
        copy.attempt_unpack_docker_compatibility,
    );
    object.flag("createDestPath", copy.create_dest_path);
    object.flag("allowWildcard", copy.allow_wildcard);
    object.flag("allowEmptyWildcard", copy.allow_empty_wildcard);
    object.number("timestamp", copy.timestamp);
    object.texts("include_patterns", &copy.include_patterns);
    object.texts("exclude_patterns", &copy.exclude_patterns);
    object.flag(
        "alwaysReplaceExistingDestPaths",
        copy.always_replace_existing_dest_paths,
    );
    object.text("modeStr", &copy.mode_str);
    object.texts("required_paths", &copy.required_paths);
    object.done()
}

fn owner(owner: &pb::ChownOpt) -> Value {
    let mut object = Object::default();
    object.message("user", owner.user.as_ref().map(user));
    object.message("group", owner.group.as_ref().map(user));
    object.done()
}

fn user(user: &pb::UserOpt) -> Value {
    use pb::user_opt::User;
    let mut who = Object::default();
    match &user.user {
        Some(User::ByName(named)) => {
            let mut object = Object::default();
            object.text("name", &named.name);
            object.number("input", named.input);
            who.message("byName", Some(object.done()));
        }
        Some(User::ById(id)) => who.number("byId", *id),
        None => {}
    }
    json!({ "User": who.done() })
}

/// What is said of an op beside itself.
#[must_use]
pub fn op_metadata(metadata: &pb::OpMetadata) -> Value {
    let mut object = Object::default();
    object.flag("ignore_cache", metadata.ignore_cache);
    object.map("description", &metadata.description, |value| json!(value));
    object.message(
        "export_cache",
        metadata.export_cache.as_ref().map(|cache| {
            let mut object = Object::default();
            object.flag("Value", cache.value);
            object.done()
        }),
    );
    object.map("caps", &metadata.caps, |cap| json!(cap));
    object.message(
        "progress_group",
        metadata.progress_group.as_ref().map(|group| {
            let mut object = Object::default();
            object.text("id", &group.id);
            object.text("name", &group.name);
            object.flag("weak", group.weak);
            object.done()
        }),
    );
    object.message(
        "linux_resources",
        metadata.linux_resources.as_ref().map(linux_resources),
    );
    object.done()
}

fn linux_resources(limits: &pb::LinuxResources) -> Value {
    let mut object = Object::default();
    object.number("memory", limits.memory);
    object.number("memorySwap", limits.memory_swap);
    object.number("cpuShares", limits.cpu_shares.cast_signed());
    object.number("cpuPeriod", limits.cpu_period.cast_signed());
    object.number("cpuQuota", limits.cpu_quota);
    object.text("cpusetCpus", &limits.cpuset_cpus);
    object.text("cpusetMems", &limits.cpuset_mems);
    object.done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_tells_neither_inputs_nor_sessions() {
        let source = pb::SourceOp {
            identifier: "local://context".into(),
            attrs: [("local.session", "s"), ("local.followpaths", "[]")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        };
        let op = pb::Op {
            inputs: vec![pb::Input::default()],
            op: Some(pb::op::Op::Source(source)),
            ..pb::Op::default()
        };
        assert_eq!(
            step(&op.encode_to_vec()).unwrap().to_string(),
            r#"{"Op":{"source":{"identifier":"local://context","attrs":{"local.followpaths":"[]"}}}}"#
        );
        assert_eq!(step(&[]).unwrap().to_string(), r#"{"Op":{}}"#);
    }
}
