//! The same Dockerfiles built by BuildKit and by Shipway: the same tree (paths, kinds, modes, owners, links, content) and the
//! same image configuration. Only times of making may differ.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use shipway_integration::{
    Error, Result,
    builder::{Builder, Kind, Options},
    clients::Buildctl,
    command::succeed,
    stand::Stand,
};

use crate::support::{ensure, on_stand, only_shipway};

const DOCKERFILES: [(&str, &str); 16] = [
    (
        "tree",
        "FROM busybox:local\nRUN mkdir -p /d/e && echo a >/d/a && ln -s a /d/soft && ln /d/a /d/hard && chmod 4755 /d/a \
         && mkfifo /d/pipe && chmod 1777 /d/e && chown 12:34 /d/e && touch '/d/with space' /d/é\n",
    ),
    (
        "removed",
        "FROM busybox:local\nRUN mkdir -p /x/y && echo 1 >/x/y/z && echo 2 >/x/k\nRUN rm -r /x/y /etc/passwd && mkdir /x/y && echo 3 >/x/y/new\n\
         RUN rm /x/k && mkdir /x/k && echo 4 >/x/k/f\nRUN rm -rf /x/k && ln -s /nowhere /x/k\n",
    ),
    (
        "copies",
        "FROM busybox:local\nWORKDIR /w\nCOPY a.txt b.txt ./\nCOPY dir /w/dir\nCOPY --chown=5:6 --chmod=640 a.txt /owned/x\n\
         COPY --chmod=u=rwX,go=rX dir modes/\nCOPY d*r/*.txt flat/\nCOPY --exclude=**/*.log dir kept/\nCOPY . /all/\n",
    ),
    (
        "parents",
        "FROM busybox:local\nCOPY --parents dir/./sub/*.txt dir/one.txt /p/\nCOPY --link a.txt /l/\nCOPY --link --chmod=700 --chown=7 dir /l/dir/\n\
         RUN ls -lR /l >/dev/null\n",
    ),
    (
        "heredocs",
        "FROM busybox:local\nENV NAME=value\nRUN <<EOF\necho one >/one\necho $NAME >>/one\nEOF\nRUN <<-\"X\" cat >/two\n\t$NAME kept\n\tX\n\
         COPY <<A <<'B' /files/\nis $NAME\nA\nis $NAME\nB\nCOPY --chmod=755 <<EOF /bin/tool\n#!/bin/sh\necho tool\nEOF\nRUN /bin/tool >/said\n",
    ),
    (
        "archives",
        "FROM busybox:local\nADD packed.tar /packed/\nADD packed.tar.gz /zipped/\nADD --unpack=false packed.tar /asis/\nADD dir /added\n",
    ),
    (
        "stages",
        "FROM busybox:local AS one\nRUN mkdir /out && echo 1 >/out/f && chmod 600 /out/f && ln -s f /out/l\n\
         FROM scratch AS two\nCOPY --from=one /out /\nFROM busybox:local\nCOPY --from=one /out/ /a/\nCOPY --from=two / /b/\nCOPY --from=two /l /c\n\
         COPY --from=busybox:local /bin/busybox /copied\n",
    ),
    (
        "directories",
        "FROM busybox:local\nRUN echo 'me:x:1234:1234::/home/me:/bin/sh' >>/etc/passwd && mkdir -p /home/me && chown 1234:1234 /home/me\nUSER me\nWORKDIR /home/me/made/by/workdir\nRUN id -u >who && echo $HOME >home\n\
         USER 55:66\nWORKDIR rel\nRUN id >/tmp/ids\nUSER root\nWORKDIR /\n",
    ),
    (
        "arguments",
        "ARG A=global\nFROM busybox:local\nARG A\nARG B=${A}/b.tar.gz\nENV C=${B%.*} D=${B##*/} E=${NOPE:-default} F=\"q $A\"\n\
         RUN env | grep -E '^(A|B|C|D|E|F|TARGET|PATH)' | sort >/env\nLABEL c=$C d=\"$D\" e='$E'\nWORKDIR /$D\n",
    ),
    (
        "onbuild",
        "FROM busybox:local AS base\nONBUILD RUN echo $V >/triggered\nONBUILD ENV W=1\nONBUILD COPY a.txt /from-trigger\nENV V=2\nFROM base\nRUN echo $W >/own\n",
    ),
    (
        "mounts",
        "FROM busybox:local AS other\nRUN mkdir /src && echo s >/src/f\nFROM busybox:local\n\
         RUN --mount=type=cache,target=/cache/deep --mount=type=tmpfs,target=/tmpfs --mount=from=other,source=/src,target=/bound/here \
         --mount=type=bind,target=/ctx,rw sh -c 'touch /cache/deep/x /tmpfs/y /ctx/z; cat /bound/here/f >/read; ls /ctx >>/read'\n\
         RUN --network=none echo ok >/second\n",
    ),
    (
        "secrets",
        "FROM busybox:local\nRUN --mount=type=secret,id=s --mount=type=secret,id=s,target=/etc/own,mode=0440,uid=7,gid=8 \
         --mount=type=secret,id=s,env=S sh -c 'stat -c \"%a %u %g\" /run/secrets/s /etc/own >/seen; test \"$S\" = hush'\n",
    ),
    (
        "settings",
        "FROM busybox:local\nMAINTAINER me\nEXPOSE 80 443/udp 7000-7002\nVOLUME /data [\"/more\"]\nUSER 1:2\nSTOPSIGNAL SIGINT\n\
         HEALTHCHECK --interval=5s --retries=2 CMD true\nSHELL [\"/bin/sh\", \"-ec\"]\nENTRYPOINT [\"/bin/sh\"]\nCMD -c true\nLABEL a=b\nONBUILD RUN x\n",
    ),
    (
        "over",
        "FROM busybox:local\nRUN mkdir /real /real/d && ln -s real /link && echo old >/real/f\nCOPY a.txt /link/f\nCOPY dir /link/d\nCOPY a.txt /new/dir/.\n\
         COPY dir/ /real\nRUN echo more >>/real/one.txt && chmod 700 /real/sub\n",
    ),
    (
        "from-scratch",
        "FROM scratch\nCOPY a.txt /\nCOPY dir /dir\nADD a.txt /deep/er/b\nWORKDIR /made\nENV A=1\nCMD [\"/a.txt\"]\n",
    ),
    (
        "linked-chain",
        "FROM busybox:local AS x\nRUN echo x >/x\nFROM busybox:local\nCOPY --link --from=x /x /one/\nCOPY --link a.txt /one/\nCOPY --link dir /one/\nRUN cat /one/x >/one/y\n",
    ),
];

const FILES: [(&str, &str); 8] = [
    ("a.txt", "a\n"),
    ("b.txt", "b\n"),
    ("dir/one.txt", "one\n"),
    ("dir/two.log", "two\n"),
    ("dir/sub/three.txt", "three\n"),
    ("dir/sub/deep/four.log", "four\n"),
    ("ignored/x", "x\n"),
    (".dockerignore", "ignored\n*.md\n"),
];

/// One path of a tree.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Entry {
    kind: String,
    mode: u32,
    owner: (u64, u64),
    link: String,
    content: String,
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |e| Error::Unexpected(format!("reading {}: {e}", path.display()))
}

/// The tree in an archive. Which of several names of a file is the file and which are links to it says nothing.
fn tree(path: &Path) -> Result<BTreeMap<String, Entry>> {
    let failed = unreadable(path);
    let mut archive = tar::Archive::new(File::open(path).map_err(&failed)?);
    let mut all: BTreeMap<String, Entry> = BTreeMap::new();
    let mut links = Vec::new();
    for entry in archive.entries().map_err(&failed)? {
        let mut entry = entry.map_err(&failed)?;
        let name = entry.path().map_err(&failed)?.display().to_string();
        let name = name
            .trim_start_matches("./")
            .trim_end_matches('/')
            .to_owned();
        let link = entry.link_name().map_err(&failed)?;
        let link = link
            .map(|link| link.display().to_string())
            .unwrap_or_default();
        let header = entry.header().clone();
        if header.entry_type() == tar::EntryType::Link {
            links.push((name, link));
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(&failed)?;
        let number = |value: std::io::Result<u64>| value.map_err(&failed);
        let found = Entry {
            kind: format!("{:?}", header.entry_type()),
            mode: header.mode().map_err(&failed)? & 0o7777,
            owner: (number(header.uid())?, number(header.gid())?),
            link,
            content: format!("{} bytes, {:x?}", bytes.len(), &Sha256::digest(&bytes)[..8]),
        };
        all.insert(name, found);
    }
    for (name, target) in links {
        let target = target.trim_start_matches("./").trim_start_matches('/');
        if let Some(found) = all.get(target).cloned() {
            all.insert(name, found);
        }
    }
    Ok(all)
}

/// An image's configuration out of an archive of the OCI layout, without the times and digests of this build.
fn config(path: &Path) -> Result<Value> {
    let failed = unreadable(path);
    let mut archive = tar::Archive::new(File::open(path).map_err(&failed)?);
    let mut found = None;
    for entry in archive.entries().map_err(&failed)? {
        let mut entry = entry.map_err(&failed)?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(&failed)?;
        let json: Option<Value> = serde_json::from_slice(&bytes).ok();
        found = found.or(json.filter(|json| json.get("rootfs").is_some()));
    }
    let mut config = found
        .ok_or_else(|| Error::Unexpected(format!("{} has no configuration", path.display())))?;
    let layers = config["rootfs"]["diff_ids"].as_array().map_or(0, Vec::len);
    config["rootfs"]["diff_ids"] = layers.into();
    config["created"] = Value::Null;
    for step in config["history"].as_array_mut().into_iter().flatten() {
        step["created"] = Value::Null;
    }
    Ok(config)
}

fn build(stand: &Stand, address: &str, context: &Path, kind: &str, to: &Path) -> Result<()> {
    let mut buildctl = stand.clients.buildctl(Buildctl::Go, address)?;
    buildctl.args(["build", "--progress=plain", "--frontend=dockerfile.v0"]);
    for name in ["context", "dockerfile"] {
        buildctl
            .arg("--local")
            .arg(format!("{name}={}", context.display()));
    }
    buildctl
        .arg("--secret")
        .arg(format!("id=s,src={}", stand.dir.join("secret").display()));
    buildctl
        .arg("--output")
        .arg(format!("type={kind},dest={}", to.display()));
    succeed(&mut buildctl).map(drop)
}

fn prepared(stand: &Stand, name: &str, dockerfile: &str) -> Result<PathBuf> {
    let files = [&[("Dockerfile", dockerfile)], &FILES[..]].concat();
    let context = stand.context(name, &files)?;
    for (flag, archive) in [("-cf", "packed.tar"), ("-czf", "packed.tar.gz")] {
        let mut tar = Command::new("tar");
        tar.arg("-C")
            .arg(&context)
            .args(["--owner=3", "--group=4", flag]);
        succeed(tar.arg(context.join(archive)).arg("dir"))?;
    }
    Ok(context)
}

/// How one of them differs.
fn difference(stand: &Stand, theirs: &str, name: &str, dockerfile: &str) -> Result<String> {
    let context = prepared(stand, name, dockerfile)?;
    let at = |whose: &str, kind: &str| stand.dir.join(format!("{name}-{whose}.{kind}"));
    let mut differs = Vec::new();
    for (whose, address) in [("theirs", theirs), ("ours", &stand.builder.address())] {
        for kind in ["tar", "oci"] {
            build(stand, address, &context, kind, &at(whose, kind))?;
        }
    }
    let (want, got) = (tree(&at("theirs", "tar"))?, tree(&at("ours", "tar"))?);
    let paths: std::collections::BTreeSet<_> = want.keys().chain(got.keys()).collect();
    for path in paths {
        let (want, got) = (want.get(path), got.get(path));
        // BuildKit on containerd 1.6 keeps the places that it mounted these at, where the image has none.
        let mount_point = got.is_none() && ["dev", "proc", "sys"].contains(&path.as_str());
        if want != got && !mount_point {
            differs.push(format!("{name}: {path}\n  - {want:?}\n  + {got:?}\n"));
        }
    }
    let (want, got) = (config(&at("theirs", "oci"))?, config(&at("ours", "oci"))?);
    if want != got {
        differs.push(format!("{name}: configuration\n  - {want}\n  + {got}\n"));
    }
    Ok(differs.concat())
}

#[test]
fn trees_and_configurations_are_those_that_buildkit_makes() {
    if !only_shipway() {
        // BuildKit makes what it makes.
        return;
    }
    on_stand(|stand| {
        shipway_integration::stand::write(&stand.dir.join("secret"), "hush")?;
        let mut options = Options::new(Kind::Buildkit);
        "buildkit".clone_into(&mut options.namespace);
        stand.import_busybox("buildkit")?;
        let mut theirs = Builder::start(
            &stand.machine,
            &stand.dir,
            &stand.containerd.address,
            options,
        )?;
        let mut wrong = String::new();
        for (name, dockerfile) in DOCKERFILES {
            wrong += &difference(stand, &theirs.address(), name, dockerfile)?;
        }
        theirs.stop()?;
        ensure(wrong.is_empty(), || wrong.clone())
    });
}
