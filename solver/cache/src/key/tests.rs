//! Keys against those that BuildKit's own types give (github.com/moby/buildkit/solver/pb through `encoding/json`).

use shipway_model::op::*;
use shipway_model::{Digest, Platform};

use super::*;

fn hex(digest: Digest) -> String {
    digest.hex()
}

fn mount(input: Option<usize>, dest: &str, kind: MountKind) -> Mount {
    Mount {
        input,
        selector: "/ignored".to_owned(),
        dest: dest.to_owned(),
        output: None,
        readonly: false,
        kind,
        content_cache: ContentCache::Default,
        result_id: String::new(),
    }
}

fn run(command: &str) -> ExecOp {
    let mut root = mount(Some(0), "/", MountKind::Bind);
    root.output = Some(0);
    ExecOp {
        meta: Meta {
            args: ["/bin/sh", "-c", command].map(str::to_owned).into(),
            env: vec!["PATH=/bin".to_owned()],
            cwd: "/".to_owned(),
            remove_mount_stubs_recursive: true,
            ..Meta::default()
        },
        mounts: vec![root],
        ..ExecOp::default()
    }
}

fn secret(id: &str, [uid, gid, mode]: [u32; 3], optional: bool) -> SecretMount {
    SecretMount {
        id: id.to_owned(),
        uid,
        gid,
        mode,
        optional,
    }
}

fn cache(id: &str, sharing: CacheSharing) -> MountKind {
    let id = id.to_owned();
    MountKind::Cache { id, sharing }
}

#[test]
fn a_plain_run_has_buildkits_key() {
    let linux = Platform::new("linux", "amd64", "");
    let key = "7b4a3197409eee58a5ca140683765f61b38371a7c4d2f2381f1af46dc0f89e6b";
    assert_eq!(hex(exec(&run("echo hi"), &linux)), key);
    let mut proxied = run("echo hi");
    proxied.meta.proxy_env = Some(ProxyEnv::default());
    assert_eq!(hex(exec(&proxied, &linux)), key);
    assert_ne!(hex(exec(&run("echo  hi"), &linux)), key);
}

fn everything() -> ExecOp {
    let mut op = run("a <b> & \"c\" \\ \u{8}\u{c}\n\r\t\u{1}\u{7f}\u{2028}é");
    op.meta.env = vec!["A=".to_owned(), "B=1".to_owned()];
    "/w".clone_into(&mut op.meta.cwd);
    "u:g".clone_into(&mut op.meta.user);
    op.meta.extra_hosts = vec![HostIp {
        host: "h".to_owned(),
        ip: "10.0.0.1".to_owned(),
    }];
    "x".clone_into(&mut op.meta.hostname);
    op.meta.ulimits = vec![Ulimit {
        name: "nofile".to_owned(),
        soft: -1,
        hard: 0,
    }];
    "cg".clone_into(&mut op.meta.cgroup_parent);
    op.meta.valid_exit_codes = vec![0, 3];
    let mut other = mount(Some(1), "/m", MountKind::Bind);
    other.readonly = true;
    other.content_cache = ContentCache::Off;
    op.mounts.extend([
        other,
        mount(None, "/t", MountKind::Tmpfs { size: 0 }),
        mount(None, "/t2", MountKind::Tmpfs { size: 5 }),
        mount(None, "/c", cache("/c", CacheSharing::Shared)),
        mount(None, "/c2", cache("/c2", CacheSharing::Locked)),
        mount(
            None,
            "/s",
            MountKind::Secret(secret("i", [1, 2, 256], true)),
        ),
        mount(
            None,
            "/a",
            MountKind::Ssh(secret("default", [0, 0, 384], false)),
        ),
    ]);
    op.network = NetMode::None;
    op.security = SecurityMode::Insecure;
    op.secret_env = vec![SecretEnv {
        id: "a".to_owned(),
        name: "b".to_owned(),
        optional: true,
    }];
    op.cdi_devices = vec![CdiDevice {
        name: "d".to_owned(),
        optional: false,
    }];
    op
}

#[test]
fn every_option_of_an_exec_is_written_as_go_does() {
    let mut platform = Platform::new("linux", "arm", "v7");
    platform.os_features = vec!["f".to_owned()];
    assert_eq!(
        hex(exec(&everything(), &platform)),
        "03856b582817e3cb4c692931cab929e69bdc28926beeb7efa916a65bd7a194ce"
    );
}

#[test]
fn id_and_sharing_of_a_cache_mount_count_only_by_default() {
    let linux = Platform::new("linux", "amd64", "");
    let key = |id: &str, sharing| {
        let mut op = run("x");
        op.mounts.push(mount(None, "/c", cache(id, sharing)));
        exec(&op, &linux)
    };
    let default = key("/c", CacheSharing::Shared);
    let other = key("foo", CacheSharing::Shared);
    assert_ne!(default, other);
    assert_ne!(default, key("ns//c", CacheSharing::Shared));
    for (id, sharing) in [("bar", CacheSharing::Shared), ("/c", CacheSharing::Locked)] {
        assert_eq!(key(id, sharing), other);
    }
}

fn copy(src: &str, dest: &str) -> FileCopy {
    FileCopy {
        src: src.to_owned(),
        dest: dest.to_owned(),
        owner: None,
        mode: -1,
        mode_str: String::new(),
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack: false,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        timestamp: -1,
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        always_replace: false,
        required_paths: Vec::new(),
    }
}

fn action(indexes: [Option<usize>; 3], kind: FileActionKind) -> FileAction {
    let [input, secondary_input, output] = indexes;
    FileAction {
        input,
        secondary_input,
        output,
        kind,
    }
}

fn named(input: Option<usize>) -> UserOpt {
    let name = "n".to_owned();
    UserOpt::ByName { name, input }
}

fn copied(src: &str) -> Digest {
    let kind = FileActionKind::Copy(copy(src, "/f"));
    let actions = vec![action([Some(0), Some(1), Some(0)], kind)];
    file(&FileOp { actions }, 2)
}

#[test]
fn only_the_last_component_of_a_copied_path_counts() {
    for (one, other, equal) in [
        ("/s/x", "/t/x", true),
        ("/s/1", "/s/renamed", false),
        ("/s", "/s2", false),
        ("/s/*", "/s2/*", true),
        ("/s/x/", "x", true),
        ("/", "//", true),
        ("", ".", true),
    ] {
        assert_eq!(copied(one) == copied(other), equal, "{one} {other}");
    }
}

#[test]
fn a_default_copy_has_buildkits_key() {
    let mut of = copy("/f", "/f");
    of.create_dest_path = true;
    of.allow_empty_wildcard = true;
    let kind = FileActionKind::Copy(of);
    let actions = vec![action([Some(0), Some(1), Some(0)], kind)];
    assert_eq!(
        hex(file(&FileOp { actions }, 2)),
        "3af0b59efb523ad618d0145d5e6154758f7a8ebfe7fdb82f934da7ab2ee30a5d"
    );
}

#[test]
fn every_file_action_is_written_as_go_does() {
    let mut everything = copy("s/x", "/d/");
    let group = Some(UserOpt::ById(0));
    let user = Some(named(Some(0)));
    everything.owner = Some(ChownOpt { user, group });
    everything.attempt_unpack = true;
    everything.include_patterns = vec!["i".to_owned()];
    everything.exclude_patterns = vec!["e".to_owned()];
    everything.always_replace = true;
    "u+x".clone_into(&mut everything.mode_str);
    everything.required_paths = vec!["r".to_owned()];
    let actions = vec![
        action([Some(0), Some(2), None], FileActionKind::Copy(everything)),
        action(
            [None, None, Some(1)],
            FileActionKind::MkFile {
                path: "/f".to_owned(),
                mode: 0o644,
                data: b"hi\xff".into(),
                owner: Some(ChownOpt {
                    user: Some(named(None)),
                    group: Some(UserOpt::ById(7)),
                }),
                timestamp: -1,
            },
        ),
        action(
            [Some(1), None, None],
            FileActionKind::MkDir {
                path: "/e".to_owned(),
                mode: 0o755,
                make_parents: true,
                owner: None,
                timestamp: 5,
            },
        ),
        action(
            [Some(6), None, None],
            FileActionKind::Rm {
                path: "/r".to_owned(),
                allow_not_found: true,
                allow_wildcard: true,
            },
        ),
        action(
            [Some(7), None, Some(0)],
            FileActionKind::Symlink {
                oldpath: "o".to_owned(),
                newpath: "/n".to_owned(),
                owner: None,
                timestamp: -1,
            },
        ),
    ];
    assert_eq!(
        hex(file(&FileOp { actions }, 3)),
        "78623e81642cfa210c879a992e47595e3083639e2dda3a766f44302571917719"
    );
}

#[test]
fn operations_that_arrange_inputs_have_buildkits_keys() {
    let build_op = BuildOp {
        builder: None,
        inputs: [("b".to_owned(), 1), ("a".to_owned(), 0)].into(),
        attrs: [("llbfilename".to_owned(), "<x>".to_owned())].into(),
    };
    let diff_op = DiffOp {
        lower: None,
        upper: Some(0),
    };
    let passthrough_op = PassthroughOp {
        id: "p".to_owned(),
        outputs: vec![Some(0), None],
    };
    for (key, expected) in [
        (
            merge(&MergeOp { inputs: vec![0, 1] }),
            "436287a2dc2ce494f564331be9ea3a9f27ebec398567877043da2f618f33d6c8",
        ),
        (
            diff(&diff_op),
            "f5284a0f1782a8c2cdb29841228c32706cbf04332ad37c3c7cb41659c6eeba0a",
        ),
        (
            build(&build_op),
            "86abd0af94c45bb3676c5c03790e3bed033b36b9345a0364ffe0f51bfa0aac24",
        ),
        (
            passthrough(&passthrough_op),
            "508c29f5c5662c2816e5bdd59bc636bbae61bdb07ea4aa7cf4a631abbad61c0d",
        ),
    ] {
        assert_eq!(hex(key), expected);
    }
}

#[test]
fn sources_are_keyed_by_what_they_are() {
    let digest = Digest::of("x");
    let of = Http {
        filename: "f",
        mode: 0,
        uid: 0,
        gid: 0,
        digest: &digest,
        last_modified: "",
        auth_secret: "",
        headers: &[],
    };
    let json = format!(r#"{{"Filename":"f","Perm":0,"UID":0,"GID":0,"Checksum":"{digest}"}}"#);
    assert_eq!(http(&of), source(&Digest::of(json).to_string()));
    let commit = Git {
        commit: "c0ffee",
        keep_git_dir: Some("refs/heads/x"),
        subdir: "sub",
        skip_submodules: true,
        mtime: "commit",
        bundle: true,
    };
    let key =
        "buildkit.source.v0:c0ffee.git#refs/heads/x:sub(skip-submodules)(mtime=commit)(bundle)";
    assert_eq!(git(&commit), Digest::of(key));
    let arm = Platform::new("linux", "arm64", "v8");
    let json =
        format!(r#"{{"Digest":"{digest}","OS":"linux","Arch":"arm64","Variant":"v8","Limit":3}}"#);
    let key = source(&Digest::of(json).to_string());
    assert_eq!(image(&digest, &arm, Some(3)), key);
    assert_ne!(image(&digest, &arm, None), key);
}

#[test]
fn parts_tell_two_execs_apart_without_telling_values() {
    let linux = Platform::new("linux", "amd64", "");
    let mut one = everything();
    let before = exec_parts(&one, &linux);
    one.meta.env[1] = "B=secret".to_owned();
    let after = exec_parts(&one, &linux);
    let changed: Vec<_> = before
        .0
        .iter()
        .zip(&after.0)
        .filter(|(a, b)| a != b)
        .collect();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].0.0, "env B");
    assert!(!format!("{after:?}").contains("secret\""));
}
