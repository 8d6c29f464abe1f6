//! What made-up Dockerfiles are made of. Decides nothing.

pub(crate) const NAMES: [&str; 6] = ["A", "B", "HOME", "TARGETARCH", "x_1", "PATH"];
pub(crate) const ARGS: [&str; 7] = [
    "A",
    "B",
    "TARGETARCH",
    "SECRET_KEY",
    "x_1",
    "IMG",
    "TARGETPLATFORM",
];
pub(crate) const PLAIN: [&str; 24] = [
    "a", "b.txt", "/abs", "./rel", "dir/", "*.go", "..", ".", "/", "a//b", "-d", "é", "k:v", "1",
    "0", "80", "file[0]", "/a/../b", "q?.x", "x/./y", "%41", "@x", "a=b", "x y",
];
pub(crate) const BARE: [&str; 4] = ["$$", "$", "${}", "${A"];
pub(crate) const EXPANSIONS: [&str; 18] = [
    "$V",
    "${V}",
    "${V:-d}",
    "${V-d e}",
    "${V:+y}",
    "${V#*/}",
    "${V%%.*}",
    "${V/a/b}",
    "${V//b/c}",
    "${V:?m}",
    "${V+${B}}",
    "\\$V",
    "'$V'",
    "\"$V z\"",
    "${V##?}",
    "${V%/*}",
    "${V//\\//_}",
    "${V:-${V:-x}}",
];
pub(crate) const ESCAPED: [&str; 9] = [
    "\\ ", "\\a", "a\\ b", "\\\\", "#h", "`", "`b", "a`b", "\\\\x",
];
pub(crate) const JSON: [&str; 7] = [
    "[\"a\", \"b c\"]",
    "[]",
    "[\"a\",1]",
    "[\"a\"] x",
    "[ \"x\" ]",
    "['a']",
    "[\"$A\"]",
];
pub(crate) const REMOTE: [&str; 9] = [
    "https://h.io/f%20x.tar",
    "https://h.io/r.git#v1:d",
    "git@h.io:a/b.git?tag=x",
    "http://h.io/",
    "ssh://git@h.io:22/a.git",
    "https://u:p@h.io/x.git",
    "https://h.io/r.git?branch=m&subdir=a/b&submodules=false",
    "https://h.io/r.git?ref=refs/pull/1/head#x",
    "git@h.io:a/b.git",
];
pub(crate) const KEYWORDS: [&str; 21] = [
    "RUN",
    "COPY",
    "ADD",
    "ENV",
    "ARG",
    "LABEL",
    "WORKDIR",
    "USER",
    "CMD",
    "ENTRYPOINT",
    "EXPOSE",
    "VOLUME",
    "HEALTHCHECK",
    "SHELL",
    "STOPSIGNAL",
    "MAINTAINER",
    "ONBUILD",
    "COPY",
    "RUN",
    "ENV",
    "#",
];

/// What EXPOSE takes.
pub(crate) const PORTS: [&str; 9] = [
    "80",
    "80/tcp",
    "81/UDP",
    "1-3",
    "1.2.3.4:5:6",
    "5/sctp",
    "[::1]:1:2",
    "\"80 81\"",
    "7:8",
];
/// What it refuses.
pub(crate) const BAD_PORTS: [&str; 6] = ["3-1", "x", "$A", "70000", "80/x", ""];

/// Instructions with a rest that is written as it stands: what is right behind them, and what is wrong.
pub(crate) const RESTS: [(&str, &[&str], &[&str]); 5] = [
    (
        "HEALTHCHECK",
        &[
            "NONE",
            "CMD x",
            "--interval=5s CMD x",
            "--retries=3 --timeout=1m CMD [\"a\"]",
            "--start-period=1h1m1.5s cmd a b",
        ],
        &[
            "NONE x",
            "",
            "X y",
            "CMD",
            "--bad=1 CMD x",
            "--interval=1 CMD x",
            "--interval=1ns CMD x",
            "--retries=-1 CMD x",
        ],
    ),
    (
        "ONBUILD",
        &[
            "RUN x",
            "COPY a b",
            "ENV A=$B",
            "EXPOSE 1",
            "WORKDIR /ob",
            "COPY --from=debian x y",
        ],
        &[
            "ONBUILD RUN",
            "FROM x",
            "",
            "MAINTAINER z",
            "bogus x",
            "RUN --bad x",
            "CMD [",
        ],
    ),
    (
        "STOPSIGNAL",
        &["9", "SIGINT", "RTMIN+3"],
        &["x", "", "0", "$A", "SIGRTMAX-99"],
    ),
    (
        "SHELL",
        &["[\"/bin/bash\", \"-c\"]"],
        &["x", "[]", "[1]", ""],
    ),
    (
        "VOLUME",
        &["/a b/$A/x", "[\"/x y\"]", "/data"],
        &["", "[]", "\"\""],
    ),
];
