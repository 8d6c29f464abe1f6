//! The command line against a real buildkitd, found in PATH (0.33 or newer, with runc). Needs root. Base images come from
//! a static busybox, so that no network is needed.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that can't be set up fails its test"
)]

use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use shipway_proto::pb;

/// A daemon of its own, a project directory, and the client under the name `buildctl`.
struct Fixture {
    dir: tempfile::TempDir,
    daemon: Child,
}

const DOCKERFILE: &str = "\
FROM scratch
COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]
COPY src /src
RUN cat /src/a.txt
";

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path().join("project");
        std::fs::create_dir_all(project.join("src")).unwrap();
        std::fs::copy("/bin/busybox", project.join("busybox"))
            .expect("package busybox-static gives /bin/busybox");
        std::fs::write(project.join("src/a.txt"), "first\n").unwrap();
        std::fs::write(project.join("Dockerfile"), DOCKERFILE).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_shipway"), dir.path().join("buildctl"))
            .unwrap();
        let log = std::fs::File::create(dir.path().join("buildkitd.log")).unwrap();
        let daemon = Command::new("buildkitd")
            .args(["--oci-worker=true", "--containerd-worker=false"])
            .arg(format!("--root={}", dir.path().join("root").display()))
            .arg(format!(
                "--addr=unix://{}",
                dir.path().join("sock").display()
            ))
            // Two that start at once would both want the one that is usual.
            .arg(format!(
                "--otel-socket-path={}",
                dir.path().join("otel").display()
            ))
            .stderr(log)
            .spawn()
            .expect("buildkitd is in PATH");
        let fixture = Self { dir, daemon };
        assert_success(&fixture.ctl(&["--wait", "--timeout=60", "debug", "info"]));
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn address(&self) -> String {
        format!("unix://{}", self.path("sock").display())
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.dir.path())
            .env("BUILDKIT_HOST", self.address());
        command.env("DOCKER_CONFIG", self.path("docker"));
        command
    }

    fn ctl(&self, args: &[&str]) -> Output {
        self.command(&self.path("buildctl"))
            .args(args)
            .output()
            .unwrap()
    }

    fn build_args<'a>(more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["build", "--progress=plain", "--frontend=dockerfile.v0"];
        args.extend(["--local=context=project", "--local=dockerfile=project"]);
        args.extend(more);
        args
    }

    fn build(&self, more: &[&str]) -> Output {
        self.ctl(&Self::build_args(more))
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let pid = i32::try_from(self.daemon.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ended = self.daemon.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_success(output: &Output) {
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[test]
fn an_image_is_built_and_then_cached() {
    let fixture = Fixture::new();
    let args = [
        "--output=type=image,name=example.com/a:1",
        "--metadata-file=meta.json",
    ];
    let built = fixture.build(&args);
    assert_success(&built);
    let log = text(&built.stderr);
    assert!(
        log.contains("#1 [internal] load build definition from Dockerfile\n"),
        "{log}"
    );
    assert!(log.contains(" first\n"), "{log}");
    let meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture.path("meta.json")).unwrap()).unwrap();
    assert_eq!(meta["image.name"], "example.com/a:1");
    assert_eq!(
        meta["containerimage.descriptor"]["digest"],
        meta["containerimage.digest"]
    );

    let again = text(&fixture.build(&args).stderr);
    assert_eq!(again.matches(" CACHED\n").count(), 4, "{again}");
    fixture.write("project/src/a.txt", "second\n");
    let changed = text(&fixture.build(&args).stderr);
    assert!(changed.contains(" second\n"), "{changed}");
    assert_eq!(changed.matches(" CACHED\n").count(), 2, "{changed}");
}

#[test]
fn results_arrive_as_directories_and_archives() {
    let fixture = Fixture::new();
    assert_success(&fixture.build(&["--output=type=local,dest=out"]));
    assert_eq!(
        std::fs::read(fixture.path("out/src/a.txt")).unwrap(),
        b"first\n"
    );
    assert_eq!(
        std::fs::read(fixture.path("out/bin/busybox")).unwrap(),
        std::fs::read("/bin/busybox").unwrap()
    );
    assert!(std::fs::read_link(fixture.path("out/bin/sh")).is_ok());

    assert_success(&fixture.build(&["--output=type=tar,dest=out.tar"]));
    let listed = Command::new("tar")
        .arg("tf")
        .arg(fixture.path("out.tar"))
        .output()
        .unwrap();
    assert!(text(&listed.stdout).lines().any(|line| line == "src/a.txt"));

    let streamed = fixture.build(&["--output=type=oci,name=x:1"]);
    assert_success(&streamed);
    assert!(streamed.stdout.len() > 1000);

    assert_success(&fixture.build(&["--output=type=oci,tar=false,dest=layout,name=x:1"]));
    let index = std::fs::read_to_string(fixture.path("layout/index.json")).unwrap();
    assert!(index.contains("docker.io/library/x:1"), "{index}");
    fixture.write("Dockerfile.layout", "FROM base\nRUN cat /src/a.txt\n");
    let digest = index
        .split("\"digest\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let used = fixture.build(&[
        "--local=dockerfile=.",
        "--opt=filename=Dockerfile.layout",
        "--oci-layout=base=layout",
        &format!("--opt=context:base=oci-layout://base@{digest}"),
    ]);
    assert_success(&used);
    assert!(text(&used.stderr).contains(" first\n"));
}

#[test]
fn thousands_of_small_files_cross_and_then_only_the_changed_one() {
    let fixture = Fixture::new();
    for n in 0..6000 {
        let dir = fixture.path(&format!("project/src/{:02}", n / 100));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{n}.txt")), n.to_string()).unwrap();
    }
    let steps = "RUN find /src -type f | wc -l && cat /src/59/5999.txt\n";
    fixture.write("project/Dockerfile", &format!("{DOCKERFILE}{steps}"));
    let log = text(&fixture.build(&[]).stderr);
    assert!(log.contains(" 6001\n") && log.contains(" 5999\n"), "{log}");
    fixture.write("project/src/59/5999.txt", "changed");
    let log = text(&fixture.build(&[]).stderr);
    assert!(log.contains(" changed\n"), "{log}");
}

#[test]
fn secrets_come_from_files_and_variables() {
    let fixture = Fixture::new();
    let steps = "RUN --mount=type=secret,id=f cat /run/secrets/f\n\
        RUN --mount=type=secret,id=v cat /run/secrets/v\n";
    fixture.write("project/Dockerfile", &format!("{DOCKERFILE}{steps}"));
    fixture.write("secret", "from-file");
    let args = Fixture::build_args(&["--secret=id=f,src=secret", "--secret=id=v,env=SECRET"]);
    let mut command = fixture.command(&fixture.path("buildctl"));
    let built = command
        .env("SECRET", "from-env")
        .args(args)
        .output()
        .unwrap();
    assert_success(&built);
    let log = text(&built.stderr);
    assert!(
        log.contains("from-file") && log.contains("from-env"),
        "{log}"
    );
}

#[test]
fn failures_show_the_line() {
    let fixture = Fixture::new();
    fixture.write("project/Dockerfile", &format!("{DOCKERFILE}RUN exit 7\n"));
    let failed = fixture.build(&[]);
    assert_eq!(failed.status.code(), Some(1));
    let log = text(&failed.stderr);
    assert!(log.contains("   6 | >>> RUN exit 7\n"), "{log}");
    let error = "error: failed to solve: process \"/bin/sh -c exit 7\" did not complete successfully: \
        exit code: 7\n";
    assert!(log.ends_with(error), "{log}");

    fixture.write("project/Dockerfile", "FROM scratch\nFETCH x\n");
    let log = text(&fixture.build(&[]).stderr);
    assert!(log.contains("   2 | >>> FETCH x\n"), "{log}");
    assert!(
        log.contains("error: failed to solve: dockerfile parse error on line 2"),
        "{log}"
    );

    let missing = text(&fixture.build(&["--opt=filename=None"]).stderr);
    assert!(missing.contains("failed to read dockerfile"), "{missing}");
}

#[test]
fn an_interrupt_ends_the_build() {
    let fixture = Fixture::new();
    fixture.write(
        "project/Dockerfile",
        &format!("{DOCKERFILE}RUN echo waiting && sleep 100\n"),
    );
    let mut command = fixture.command(&fixture.path("buildctl"));
    command
        .args(Fixture::build_args(&[]))
        .stderr(Stdio::piped())
        .process_group(0);
    let mut build = command.spawn().unwrap();
    let mut log = std::io::BufReader::new(build.stderr.take().unwrap());
    let mut line = String::new();
    while !line.ends_with(" waiting\n") {
        line.clear();
        assert_ne!(
            std::io::BufRead::read_line(&mut log, &mut line).unwrap(),
            0,
            "ended early"
        );
    }
    let asked = std::time::Instant::now();
    let pid = rustix::process::Pid::from_raw(build.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut log, &mut rest).unwrap();
    assert_eq!(build.wait().unwrap().code(), Some(1));
    assert!(
        asked.elapsed() < std::time::Duration::from_secs(4),
        "{:?}",
        asked.elapsed()
    );
    assert!(rest.contains(" CANCELED\n"), "{rest}");
}

#[test]
fn llb_is_taken_from_standard_input() {
    let fixture = Fixture::new();
    let source = pb::SourceOp {
        identifier: "local://data".into(),
        ..pb::SourceOp::default()
    };
    let source = pb::Op {
        op: Some(pb::op::Op::Source(source)),
        ..pb::Op::default()
    }
    .encode_to_vec();
    let mut digest = String::from("sha256:");
    for byte in Sha256::digest(&source) {
        write!(digest, "{byte:02x}").unwrap();
    }
    let input = pb::Input { digest, index: 0 };
    let end = pb::Op {
        inputs: vec![input],
        ..pb::Op::default()
    }
    .encode_to_vec();
    let definition = pb::Definition {
        def: vec![source.into(), end.into()],
        ..pb::Definition::default()
    };
    std::fs::write(fixture.path("llb"), definition.encode_to_vec()).unwrap();

    let dumped = fixture.ctl(&["debug", "dump-llb", "llb"]);
    assert!(text(&dumped.stdout).contains(r#"{"source":{"identifier":"local://data"}}"#));
    let mut command = fixture.command(&fixture.path("buildctl"));
    command.args([
        "build",
        "--no-cache",
        "--local=data=project/src",
        "--output=type=local,dest=out",
    ]);
    let built = command
        .stdin(std::fs::File::open(fixture.path("llb")).unwrap())
        .output()
        .unwrap();
    assert_success(&built);
    assert_eq!(
        std::fs::read(fixture.path("out/a.txt")).unwrap(),
        b"first\n"
    );
}

#[test]
fn caches_are_kept_in_directories() {
    let fixture = Fixture::new();
    assert_success(&fixture.build(&["--export-cache=type=local,dest=cache,mode=max"]));
    assert_success(&fixture.ctl(&["prune", "--all"]));
    let log = text(
        &fixture
            .build(&["--import-cache=type=local,src=cache"])
            .stderr,
    );
    assert_eq!(log.matches(" CACHED\n").count(), 4, "{log}");
    let log = text(
        &fixture
            .build(&["--import-cache=type=local,src=nothing"])
            .stderr,
    );
    assert!(
        log.contains("warning: local cache import at nothing skipped"),
        "{log}"
    );
}

#[test]
fn the_friendly_form_builds_the_same() {
    let fixture = Fixture::new();
    let shipway = Path::new(env!("CARGO_BIN_EXE_shipway"));
    let mut command = fixture.command(shipway);
    command.args([
        "build",
        "-o",
        "out",
        "--target",
        "last",
        "--build-arg",
        "WORD=hi",
    ]);
    let last = "FROM scratch AS first\nFROM first AS last\nARG WORD\nCOPY src /${WORD}\nFROM nonexistent\n";
    fixture.write("project/Dockerfile", last);
    assert_success(
        &command
            .args(["--progress", "plain", "project"])
            .output()
            .unwrap(),
    );
    assert_eq!(
        std::fs::read(fixture.path("out/hi/a.txt")).unwrap(),
        b"first\n"
    );
}

#[test]
fn listings_equal_those_of_the_go_client() {
    let fixture = Fixture::new();
    assert_success(&fixture.build(&[]));
    let reference = |args: &[&str]| {
        let go = Command::new("buildctl")
            .arg("--addr")
            .arg(fixture.address())
            .args(args)
            .output();
        text(&go.expect("the Go buildctl is in PATH").stdout)
    };
    for args in [
        &["debug", "workers"][..],
        &["debug", "workers", "--verbose"],
        &["debug", "workers", "--format", "{{json .}}"],
        &[
            "debug",
            "workers",
            "--format",
            "{{range .}}{{.ID}} {{(index .Platforms 0).OS}}{{end}}",
        ],
        &["debug", "info"],
        &["debug", "info", "--format", "json"],
        &["du"],
        &["du", "--format", "json"],
    ] {
        assert_eq!(text(&fixture.ctl(args).stdout), reference(args), "{args:?}");
    }
}
