//! What a build is made from, through real clients: repositories and archives on web servers, Dockerfiles from standard
//! input or under other names, named contexts of every kind, and the options that shape its steps.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use shipway_integration::{
    Error, Result,
    clients::Buildctl,
    command::{Done, fail, spell, succeed},
    http::{Reply, Request, Server},
    stand::{Stand, write},
};

use crate::support::{ensure, kind, on_stand};

/// Serves the files below `dir`.
fn serve(dir: PathBuf) -> Result<Server> {
    Server::start("127.0.0.1:0", move |request: &Request| {
        let path = request.target.split('?').next().unwrap_or_default();
        match fs::read(dir.join(path.trim_start_matches('/'))) {
            Ok(body) => Reply::Answer {
                status: 200,
                headers: vec!["ETag: \"fixed\"".to_owned()],
                body,
            },
            Err(_) => Reply::status(404),
        }
    })
}

fn git(dir: &Path, words: &[&str]) -> Result<String> {
    let mut git = Command::new("git");
    git.arg("-C")
        .arg(dir)
        .args(["-c", "user.name=T", "-c", "user.email=t@example.org"]);
    git.env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", dir)
        .args(words);
    Ok(succeed(&mut git)?.stdout.trim().to_owned())
}

/// A repository for a web server: `v1` has `sub/Dockerfile` that says `first`, `main` one that says `second`. Returns the
/// directory to serve and the commit of `v1`.
fn repository(stand: &Stand) -> Result<(PathBuf, String)> {
    let web = stand.dir.join("web");
    let work = stand.dir.join("work");
    fs::create_dir_all(&work)
        .map_err(|e| Error::Unexpected(format!("creating {}: {e}", work.display())))?;
    git(&work, &["init", "-q", "-b", "main"])?;
    for (word, last) in [("first", false), ("second", true)] {
        let dockerfile = format!("FROM scratch\nCOPY word /{word}\n");
        write(&work.join("sub/Dockerfile"), &dockerfile)?;
        write(&work.join("Dockerfile"), "FROM scratch\nCOPY sub /top\n")?;
        write(&work.join("sub/word"), word)?;
        git(&work, &["add", "."])?;
        git(&work, &["commit", "-q", "-m", word])?;
        if !last {
            git(&work, &["tag", "v1"])?;
        }
    }
    let bare = web.join("repo.git");
    git(
        &work,
        &["clone", "-q", "--bare", ".", &bare.display().to_string()],
    )?;
    git(&bare, &["update-server-info"])?;
    let commit = git(&work, &["rev-parse", "v1"])?;
    Ok((web, commit))
}

/// A client's build without directories of its own; its result goes to `out`.
fn bare_build(stand: &Stand, out: &Path) -> Result<Command> {
    let mut buildctl = stand
        .clients
        .buildctl(Buildctl::from(kind()), &stand.builder.address())?;
    buildctl.args(["build", "--progress=plain", "--frontend", "dockerfile.v0"]);
    buildctl
        .arg("--output")
        .arg(format!("type=local,dest={}", out.display()));
    Ok(buildctl)
}

/// The file `path` of a result, which must hold `text`.
fn holds(out: &Path, path: &str, text: &str) -> Result<()> {
    let found = fs::read_to_string(out.join(path)).unwrap_or_else(|e| e.to_string());
    ensure(found == text, || {
        format!("{path}: {found:?} instead of {text:?}")
    })
}

#[test]
fn a_repository_is_a_context() {
    on_stand(|stand| {
        let (web, commit) = repository(stand)?;
        let server = serve(web)?;
        let url = format!("http://{}/repo.git", server.host());
        for (number, (rest, path, text)) in [
            ("#v1:sub".to_owned(), "first", "first"),
            ("#main:sub".to_owned(), "second", "second"),
            (String::new(), "top/word", "second"),
            (format!("#{commit}:sub"), "first", "first"),
            ("?tag=v1&subdir=sub".to_owned(), "first", "first"),
            (
                format!("?tag=v1&checksum={commit}&subdir=sub"),
                "first",
                "first",
            ),
            ("?branch=main&subdir=sub".to_owned(), "second", "second"),
        ]
        .into_iter()
        .enumerate()
        {
            let out = stand.dir.join(format!("git-{number}"));
            let mut buildctl = bare_build(stand, &out)?;
            succeed(buildctl.args(["--opt", &format!("context={url}{rest}")]))?;
            holds(&out, path, text)?;
            let out = stand.dir.join(format!("git-x-{number}"));
            let mut buildx = stand.buildx()?;
            buildx
                .args(["build", "--progress=plain", "-o"])
                .arg(&out)
                .arg(format!("{url}{rest}"));
            succeed(&mut buildx)?;
            holds(&out, path, text)?;
        }
        let out = stand.dir.join("refused");
        let wrong = "0".repeat(40);
        let mut buildctl = bare_build(stand, &out)?;
        let said =
            fail(buildctl.args(["--opt", &format!("context={url}?tag=v1&checksum={wrong}")]))?;
        ensure(said.contains("expected checksum to match"), || said.clone())
    });
}

#[test]
fn added_repositories_and_downloads_are_checked() {
    on_stand(|stand| {
        let (web, commit) = repository(stand)?;
        write(&web.join("file.txt"), "from the web\n")?;
        let sum = succeed(Command::new("sha256sum").arg(web.join("file.txt")))?.stdout;
        let sum = sum.split(' ').next().unwrap_or_default().to_owned();
        let server = serve(web)?;
        let host = server.host();
        let text = format!(
            "FROM scratch\nADD --checksum={commit} http://{host}/repo.git#v1:sub /git\n\
             ADD --keep-git-dir http://{host}/repo.git?branch=main /whole\n\
             ADD --checksum=sha256:{sum} --chmod=640 http://{host}/file.txt /web/\n"
        );
        let out = stand.dir.join("added");
        let build = |text: &str| -> Result<Command> {
            let context = stand.context("added", &[("Dockerfile", text)])?;
            let mut buildctl = stand.buildctl_build(Buildctl::from(kind()), &context)?;
            buildctl
                .arg("--output")
                .arg(format!("type=local,dest={}", out.display()));
            Ok(buildctl)
        };
        succeed(&mut build(&text)?)?;
        holds(&out, "git/word", "first")?;
        holds(
            &out,
            "whole/.git/HEAD",
            &fs::read_to_string(out.join("whole/.git/HEAD")).unwrap_or_default(),
        )?;
        holds(&out, "web/file.txt", "from the web\n")?;
        let said = fail(&mut build(&text.replace(&commit, &"1".repeat(40)))?)?;
        ensure(said.contains("expected checksum to match"), || said.clone())?;
        let said = fail(&mut build(&text.replace(&sum, &"1".repeat(64)))?)?;
        ensure(said.contains("digest mismatch"), || said.clone())
    });
}

#[test]
fn a_download_is_a_context_or_a_dockerfile() {
    on_stand(|stand| {
        let web = stand.dir.join("web");
        write(
            &web.join("dir/sub/Dockerfile"),
            "FROM scratch\nCOPY word /word\n",
        )?;
        write(&web.join("dir/sub/word"), "packed")?;
        write(
            &web.join("alone"),
            "FROM scratch\nCOPY <<EOF /word\nalone\nEOF\n",
        )?;
        let mut tar = Command::new("tar");
        tar.arg("-C")
            .arg(web.join("dir"))
            .arg("-czf")
            .arg(web.join("context.tgz"));
        succeed(tar.arg("sub"))?;
        let server = serve(web)?;
        let host = server.host();
        let out = stand.dir.join("packed");
        let mut buildctl = bare_build(stand, &out)?;
        buildctl.args(["--opt", &format!("context=http://{host}/context.tgz")]);
        succeed(buildctl.args([
            "--opt",
            "contextsubdir=sub",
            "--opt",
            "filename=sub/Dockerfile",
        ]))?;
        holds(&out, "word", "packed")?;
        let out = stand.dir.join("alone");
        let mut buildctl = bare_build(stand, &out)?;
        succeed(buildctl.args(["--opt", &format!("context=http://{host}/alone")]))?;
        holds(&out, "word", "alone\n")?;
        let out = stand.dir.join("alone-x");
        let mut buildx = stand.buildx()?;
        buildx.args(["build", "--progress=plain", "-o"]).arg(&out);
        succeed(buildx.arg(format!("http://{host}/alone")))?;
        holds(&out, "word", "alone\n")
    });
}

/// Runs `command` with the file at `path` as its standard input.
fn fed(command: &mut Command, path: &Path) -> Result<()> {
    let start = |source| Error::Start {
        command: spell(command),
        source,
    };
    let input = File::open(path).map_err(start)?;
    let output = command.stdin(Stdio::from(input)).output();
    let output = output.map_err(|source| Error::Start {
        command: spell(command),
        source,
    })?;
    ensure(output.status.success(), || {
        String::from_utf8_lossy(&output.stderr).into_owned()
    })
}

#[test]
fn dockerfiles_come_from_standard_input_and_under_other_names() {
    on_stand(|stand| {
        let context = stand.context(
            "named",
            &[
                ("word", "here"),
                ("build/Other.dockerfile", "FROM scratch\nCOPY word /other\n"),
            ],
        )?;
        let text = stand.dir.join("piped");
        write(&text, "FROM scratch\nCOPY word /piped\n")?;
        let out = stand.dir.join("named-out");
        let mut buildx = stand.buildx()?;
        buildx
            .args(["build", "--progress=plain", "-f", "-", "-o"])
            .arg(&out)
            .arg(&context);
        fed(&mut buildx, &text)?;
        holds(&out, "piped", "here")?;
        let mut nerdctl = stand.nerdctl(Buildctl::from(kind()))?;
        let local = format!(
            "type=local,dest={}",
            stand.dir.join("nerdctl-out").display()
        );
        nerdctl
            .args(["build", "--progress=plain", "-f", "-", "-o", &local])
            .arg(&context);
        fed(&mut nerdctl, &text)?;
        holds(&stand.dir.join("nerdctl-out"), "piped", "here")?;
        let out = stand.dir.join("other-out");
        let mut buildx = stand.buildx()?;
        buildx
            .args(["build", "--progress=plain", "-o"])
            .arg(&out)
            .arg("-f")
            .arg(context.join("build/Other.dockerfile"));
        succeed(buildx.arg(&context))?;
        holds(&out, "other", "here")
    });
}

#[test]
fn named_contexts_are_of_every_kind() {
    on_stand(|stand| {
        let (web, _) = repository(stand)?;
        write(&web.join("file.txt"), "from the web\n")?;
        let server = serve(web)?;
        let layout = stand.dir.join("layout");
        let source = stand.context(
            "layout-source",
            &[(
                "Dockerfile",
                "FROM scratch\nCOPY <<EOF /inner\nfrom a layout\nEOF\n",
            )],
        )?;
        let mut buildctl = stand.buildctl_build(Buildctl::from(kind()), &source)?;
        buildctl.arg("--output").arg(format!(
            "type=oci,tar=false,name=x:tag,dest={}",
            layout.display()
        ));
        succeed(&mut buildctl)?;
        let local = stand.context(
            "local-source",
            &[
                ("word", "from a directory"),
                ("skipped", "x"),
                (".dockerignore", "skipped\n"),
            ],
        )?;
        let text = "FROM base AS result\nCOPY --from=dir / /dir/\nCOPY --from=layout /inner /inner\n\
            COPY --from=repo /word /word\nCOPY --from=web /context /web\nCOPY --from=image /bin/busybox /bb\n";
        let context = stand.context("uses-names", &[("Dockerfile", text)])?;
        let out = stand.dir.join("named");
        let mut buildx = stand.buildx()?;
        buildx.args(["build", "--progress=plain", "-o"]).arg(&out);
        for (name, what) in [
            ("base", "docker-image://busybox:local".to_owned()),
            (
                "image",
                "docker-image://docker.io/library/busybox:local".to_owned(),
            ),
            ("dir", local.display().to_string()),
            ("layout", format!("oci-layout://{}:tag", layout.display())),
            ("repo", format!("http://{}/repo.git#v1:sub", server.host())),
            ("web", format!("http://{}/file.txt", server.host())),
        ] {
            buildx.arg(format!("--build-context={name}={what}"));
        }
        succeed(buildx.arg(&context))?;
        holds(&out, "dir/word", "from a directory")?;
        ensure(!out.join("dir/skipped").exists(), || {
            "an ignored file was sent".to_owned()
        })?;
        holds(&out, "inner", "from a layout\n")?;
        holds(&out, "word", "first")?;
        holds(&out, "web", "from the web\n")?;
        ensure(
            out.join("bb").exists() && out.join("bin/sh").exists(),
            || "no files of the images".to_owned(),
        )
    });
}

#[test]
fn a_target_of_one_build_is_the_context_of_another() {
    on_stand(|stand| {
        let bake = "target \"a\" {\n  context = \"a\"\n}\ntarget \"b\" {\n  context = \"b\"\n  contexts = { made = \"target:a\" }\n\
            output = [\"type=local,dest=out\"]\n}\n";
        let dir = stand.context(
            "bake",
            &[
                ("docker-bake.hcl", bake),
                (
                    "a/Dockerfile",
                    "FROM busybox:local\nENV FROM_A=yes\nRUN echo made >/made\n",
                ),
                (
                    "b/Dockerfile",
                    "FROM made\nRUN cat /made >/result; echo $FROM_A >>/result\n",
                ),
            ],
        )?;
        let mut buildx = stand.buildx()?;
        buildx
            .args(["bake", "--progress=plain", "--allow=fs=*", "b"])
            .current_dir(&dir);
        succeed(&mut buildx)?;
        holds(&dir.join("out"), "result", "made\nyes\n")
    });
}

const OPTIONS: &str = "FROM busybox:local AS first\nRUN date +%s%N >/first\nFROM first AS last\nRUN cat /etc/hosts >/hosts; hostname >/hostname; \
    df -k /dev/shm | tail -n1 | awk '{ print $2 }' >/shm; ulimit -n >/files; cat /proc/self/cgroup >/cgroup; ls /sys/class/net >/net\n\
    RUN date +%s%N >/second\n";

fn with_options(stand: &Stand, out: &str, words: &[&str]) -> Result<PathBuf> {
    let context = stand.context("options", &[("Dockerfile", OPTIONS)])?;
    let out = stand.dir.join(out);
    let mut buildx = stand.buildx()?;
    buildx
        .args(["build", "--progress=plain", "-o"])
        .arg(&out)
        .args(words)
        .arg(&context);
    succeed(&mut buildx)?;
    Ok(out)
}

#[test]
fn options_shape_the_steps() {
    on_stand(|stand| {
        let words = [
            "--add-host=box.example:10.9.8.7",
            "--shm-size=32m",
            "--ulimit=nofile=321:654",
            "--network=none",
            "--build-arg=BUILDKIT_SANDBOX_HOSTNAME=builder-x",
        ];
        let out = with_options(stand, "shaped", &words)?;
        let text = |name: &str| fs::read_to_string(out.join(name)).unwrap_or_default();
        ensure(text("hosts").contains("10.9.8.7\tbox.example"), || {
            text("hosts")
        })?;
        holds(&out, "shm", "32768\n")?;
        holds(&out, "files", "321\n")?;
        holds(&out, "hostname", "builder-x\n")?;
        ensure(text("net").trim() == "lo", || text("net"))
    });
}

#[test]
fn a_parent_cgroup_is_obeyed() {
    on_stand(|stand| {
        let out = with_options(stand, "grouped", &["--cgroup-parent=shipway-e2e-parent"])?;
        let text = fs::read_to_string(out.join("cgroup")).unwrap_or_default();
        ensure(text.contains("shipway-e2e-parent"), || text.clone())
    });
}

#[test]
fn caches_are_left_out_for_all_stages_or_for_some() {
    on_stand(|stand| {
        let stamp = |out: &Path, name: &str| fs::read_to_string(out.join(name)).unwrap_or_default();
        let before = with_options(stand, "cached-1", &[])?;
        let again = with_options(stand, "cached-2", &[])?;
        ensure(stamp(&before, "second") == stamp(&again, "second"), || {
            "the cache was not used".to_owned()
        })?;
        let some = with_options(stand, "cached-3", &["--no-cache-filter=last"])?;
        ensure(stamp(&before, "first") == stamp(&some, "first"), || {
            "the first stage ran".to_owned()
        })?;
        let all = with_options(stand, "cached-4", &["--no-cache"])?;
        ensure(stamp(&before, "first") != stamp(&all, "first"), || {
            "the first stage didn't run".to_owned()
        })
    });
}

fn refused(stand: &Stand, option: &str, value: &str) -> Result<Done> {
    let context = stand.context("options", &[("Dockerfile", OPTIONS)])?;
    let mut buildctl = stand.buildctl_build(Buildctl::from(kind()), &context)?;
    let said = fail(buildctl.args(["--opt", &format!("{option}={value}")]))?;
    Ok(Done {
        stdout: String::new(),
        stderr: said,
        success: false,
        took: std::time::Duration::ZERO,
    })
}

#[test]
fn options_that_mean_nothing_are_refused() {
    on_stand(|stand| {
        for (option, value, word) in [
            ("add-hosts", "box=not-an-address", "not-an-address"),
            ("shm-size", "much", "shm"),
            ("ulimit", "nofile=x", "ulimit"),
            ("force-network-mode", "wormhole", "wormhole"),
            ("image-resolve-mode", "hope", "hope"),
            ("platform", "a/b/c/d", "platform"),
            ("multi-platform", "perhaps", "perhaps"),
            ("target", "nowhere", "nowhere"),
        ] {
            let said = refused(stand, option, value)?.stderr;
            ensure(said.contains(word), || format!("{option}={value}: {said}"))?;
        }
        Ok(())
    });
}
