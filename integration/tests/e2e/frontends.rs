//! Frontends that travel as images: BuildKit's own, one of our own in Rust, and broken ones.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use shipway_integration::{
    Error, Result, base_image,
    builder::{Kind, Options},
    clients::Buildctl,
    command::{fail, succeed},
    process::wait_until,
    stand::Stand,
};

use crate::support::{
    IMAGE, build_image, ensure, kind, on_stand, on_stand_with, only_shipway, run_as, run_in_image,
};

const FRONTEND: &str = "docker.io/library/frontend:local";

/// Imports BuildKit's Dockerfile frontend.
fn import_dockerfile_frontend(stand: &Stand) -> Result<()> {
    let program = stand.machine.tool("dockerfile-frontend")?;
    let image = base_image::frontend_image(FRONTEND, &program, &stand.dir)?;
    stand.import(&stand.builder.options.namespace, &image)
}

/// Imports the frontend of the example `stepfile`.
fn import_stepfile(stand: &Stand) -> Result<()> {
    let program = stand.machine.own("examples/stepfile")?;
    let name = "docker.io/example/stepfile:1";
    let image = base_image::frontend_image(name, &program, &stand.dir)?;
    stand.import(&stand.builder.options.namespace, &image)
}

/// Imports a frontend that is a shell line.
fn import_shell_frontend(stand: &Stand, line: &str) -> Result<()> {
    let program = stand.machine.system("busybox")?;
    let image = base_image::busybox_running(FRONTEND, line, &program, &stand.dir)?;
    stand.import(&stand.builder.options.namespace, &image)
}

#[test]
fn the_syntax_directive_chooses_the_frontend() {
    on_stand(|stand| {
        import_dockerfile_frontend(stand)?;
        let dockerfile = format!(
            "# syntax={FRONTEND}\nFROM busybox:local\nARG WHO=nobody\nCOPY greeting /g\n\
             RUN --mount=type=tmpfs,target=/t echo \"$(cat /g) $WHO\" >/said\n"
        );
        let files = [("Dockerfile", dockerfile.as_str()), ("greeting", "hello")];
        let context = stand.context("syntax", &files)?;
        let mut buildctl = build_image(stand, &context)?;
        let done = succeed(buildctl.args(["--opt", "build-arg:WHO=world"]))?;
        let shown = format!("resolve image config for docker-image://{FRONTEND}");
        ensure(done.stderr.contains(&shown), || done.stderr.clone())?;
        let said = run_in_image(stand, "cat /said")?;
        ensure(said == "hello world\n", || format!("{said:?}"))
    });
}

#[test]
fn errors_of_an_image_s_frontend_name_the_user_s_lines() {
    on_stand(|stand| {
        import_dockerfile_frontend(stand)?;
        let dockerfile = format!("# syntax={FRONTEND}\nFROM busybox:local\nRUNN true\n");
        let context = stand.context("misspelt", &[("Dockerfile", &dockerfile)])?;
        let said = fail(&mut build_image(stand, &context)?)?;
        let parts = ["unknown instruction: RUNN", "Dockerfile:3"];
        ensure(parts.iter().all(|part| said.contains(part)), || {
            said.clone()
        })?;
        let dockerfile = format!("# syntax={FRONTEND}\nFROM busybox:local\nRUN exit 42\n");
        let context = stand.context("failing", &[("Dockerfile", &dockerfile)])?;
        let said = fail(&mut build_image(stand, &context)?)?;
        let parts = ["exit code: 42", "Dockerfile:3"];
        ensure(parts.iter().all(|part| said.contains(part)), || {
            said.clone()
        })
    });
}

#[test]
fn a_client_may_name_the_frontend_s_image_itself() {
    on_stand(|stand| {
        import_dockerfile_frontend(stand)?;
        let files = [("Dockerfile", "FROM busybox:local\nRUN echo hi >/said\n")];
        let context = stand.context("source", &files)?;
        let mut buildctl = stand
            .clients
            .buildctl(Buildctl::from(kind()), &stand.builder.address())?;
        buildctl.args(["build", "--progress=plain", "--frontend=gateway.v0"]);
        buildctl.args(["--opt", &format!("source={FRONTEND}")]);
        for name in ["context", "dockerfile"] {
            buildctl
                .arg("--local")
                .arg(format!("{name}={}", context.display()));
        }
        succeed(buildctl.args(["--output", &format!("type=image,name={IMAGE},unpack=true")]))?;
        let said = run_in_image(stand, "cat /said")?;
        ensure(said == "hi\n", || format!("{said:?}"))?;
        let mut chosen = build_image(stand, &context)?;
        let chosen = chosen.args(["--opt", &format!("build-arg:BUILDKIT_SYNTAX={FRONTEND}")]);
        succeed(chosen)?;
        Ok(())
    });
}

#[test]
fn a_missing_frontend_is_shown_with_the_directive_s_line() {
    on_stand(|stand| {
        let dockerfile = "# escape=\\\n# syntax=localhost:1/no/such:frontend\nFROM busybox:local\n";
        let context = stand.context("missing", &[("Dockerfile", dockerfile)])?;
        let said = fail(&mut build_image(stand, &context)?)?;
        let parts = ["localhost:1/no/such:frontend", "Dockerfile:2"];
        ensure(parts.iter().all(|part| said.contains(part)), || {
            said.clone()
        })
    });
}

#[test]
fn a_frontend_that_crashes_hangs_up_or_says_nothing_ends_the_build_clearly() {
    on_stand(|stand| {
        let cases = [
            (
                "echo a broken frontend >&2; exit 3",
                "exit code: 3",
                "a broken frontend",
            ),
            ("exit 0", "no result for incomplete build", ""),
            ("exec <&- >&-; sleep 1000", "closed unexpectedly", ""),
            ("echo this is no HTTP/2; sleep 1000", "frontend", ""),
        ];
        for (line, wanted, shown) in cases {
            import_shell_frontend(stand, line)?;
            let dockerfile = format!("# syntax={FRONTEND}\nFROM busybox:local\n");
            let context = stand.context("broken", &[("Dockerfile", &dockerfile)])?;
            let began = Instant::now();
            let said = fail(&mut build_image(stand, &context)?)?;
            // BuildKit shows what a frontend complains about to its operator only.
            let shown = if only_shipway() { shown } else { "" };
            ensure(said.contains(wanted) && said.contains(shown), || {
                format!("{line}: {said}")
            })?;
            let took = began.elapsed();
            ensure(took < Duration::from_secs(60), || {
                format!("{line}: took {took:?}")
            })?;
        }
        Ok(())
    });
}

#[test]
fn only_allowed_images_are_frontends() {
    if !only_shipway() {
        return;
    }
    let mut options = Options::new(Kind::Shipway);
    options.more_config =
        "[frontend.\"gateway.v0\"]\nallowedRepositories = [\"docker.io/docker/dockerfile\"]\n"
            .into();
    on_stand_with(options, |stand| {
        let dockerfile = format!("# syntax={FRONTEND}\nFROM busybox:local\n");
        let context = stand.context("forbidden", &[("Dockerfile", &dockerfile)])?;
        let said = fail(&mut build_image(stand, &context)?)?;
        ensure(said.contains("is not an allowed gateway source"), || {
            said.clone()
        })
    });
}

const STEPFILE: &str = "# syntax=example/stepfile:1\nfrom busybox:local\nset GREETING hello\n\
    copy who /etc/who\nrun echo \"$GREETING $(cat /etc/who)\" | tr a-z A-Z >/loud; chmod 600 /loud\n\
    start cat /loud\n";

/// Builds the Stepfile and returns the result's tree and the interesting part of its configuration.
fn stepfile_result(stand: &Stand) -> Result<(BTreeMap<String, String>, serde_json::Value)> {
    import_stepfile(stand)?;
    let files = [("Stepfile", STEPFILE), ("who", "world\n")];
    let context = stand.context("stepfile", &files)?;
    let archive = stand.dir.join("result.tar");
    let mut buildctl = stand.buildctl_build(Buildctl::Go, &context)?;
    buildctl.args(["--opt", "filename=Stepfile"]);
    let output = format!(
        "type=oci,compression=uncompressed,dest={}",
        archive.display()
    );
    succeed(buildctl.args(["--output", &output]))?;
    Ok(read_result(&archive))
}

/// Files of an image's last two layers with owner, mode and content, and its configuration without dates and digests.
fn read_result(archive: &Path) -> (BTreeMap<String, String>, serde_json::Value) {
    let blobs = blobs(archive);
    let json = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&blobs[name]).expect("a layout's JSON is readable")
    };
    let digest = |value: &serde_json::Value| {
        let text = value["digest"].as_str().unwrap_or_default();
        format!("blobs/{}", text.replace(':', "/"))
    };
    let mut manifest = json(&digest(&json("index.json")["manifests"][0]));
    if manifest["manifests"].is_array() {
        manifest = json(&digest(&manifest["manifests"][0]));
    }
    let mut tree = BTreeMap::new();
    for layer in manifest["layers"].as_array().into_iter().flatten().skip(1) {
        let mut layer = tar::Archive::new(blobs[&digest(layer)].as_slice());
        for entry in layer.entries().expect("a layer is a tar").flatten() {
            let mut entry = entry;
            let mut content = String::new();
            let path = entry
                .path()
                .expect("paths are readable")
                .display()
                .to_string();
            let header = entry.header();
            let facts = (header.uid().ok(), header.mode().ok(), header.entry_type());
            let read = entry.read_to_string(&mut content);
            let path = path.trim_end_matches('/').to_owned();
            // BuildKit on containerd 1.6 keeps the places that it mounted these at; they are no frontend's doing.
            if ["dev", "proc", "sys"].contains(&path.as_str()) {
                continue;
            }
            tree.insert(path, format!("{facts:?} {content:?} {}", read.is_ok()));
        }
    }
    let config = json(&digest(&manifest["config"]));
    (tree, config["config"].clone())
}

fn blobs(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = fs::File::open(archive).expect("the archive was just written");
    let mut archive = tar::Archive::new(file);
    let entries = archive.entries().expect("the archive is a tar").flatten();
    let read = |mut entry: tar::Entry<'_, fs::File>| {
        let path = entry.path().ok()?.display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).ok()?;
        Some((path, bytes))
    };
    entries.filter_map(read).collect()
}

#[test]
fn a_frontend_in_rust_builds_the_same_on_shipway_and_on_buildkit() {
    let results = Mutex::new(Vec::new());
    for kind in [Kind::Shipway, Kind::Buildkit] {
        on_stand_with(Options::new(kind), |stand| {
            let result = stepfile_result(stand)?;
            results.lock().expect("nobody panicked").push(result);
            Ok(())
        });
    }
    let results = results.into_inner().expect("nobody panicked");
    assert_eq!(results[0], results[1]);
    let (tree, config) = &results[0];
    assert!(tree["loud"].contains("HELLO WORLD"), "{tree:?}");
    assert_eq!(config["Cmd"][2], "cat /loud");
}

#[test]
fn a_frontend_in_rust_shows_the_line_that_is_wrong() {
    on_stand(|stand| {
        import_stepfile(stand)?;
        let text = "# syntax=example/stepfile:1\nfrom busybox:local\nfly away\n";
        let context = stand.context("stepfile-wrong", &[("Stepfile", text)])?;
        let mut buildctl = build_image(stand, &context)?;
        let said = fail(buildctl.args(["--opt", "filename=Stepfile"]))?;
        let parts = ["unknown word `fly`", "Stepfile:3"];
        ensure(parts.iter().all(|part| said.contains(part)), || {
            said.clone()
        })
    });
}

/// The command on a terminal of its own, its streams piped.
fn scripted(command: &Command) -> Command {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''")));
    let line = quoted.collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    script
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    script
}

/// Runs a command on a terminal; whenever it has shown the next of `exchange`, types what belongs to it. Returns all
/// that was shown.
pub(crate) fn on_terminal(command: &Command, exchange: &[(&str, &str)]) -> Result<String> {
    let mut child = scripted(command)
        .spawn()
        .expect("script is a command of the base system");
    let mut keyboard = child.stdin.take().expect("it is piped");
    let mut screen = child.stdout.take().expect("it is piped");
    let shown = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&shown);
    let watching = std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = screen.read(&mut piece) {
            let mut seen = seen.lock().expect("nobody panics with it");
            seen.extend_from_slice(&piece[..length]);
        }
    });
    let text =
        || String::from_utf8_lossy(&shown.lock().expect("nobody panics with it")).into_owned();
    let (from, child) = (Cell::new(0), RefCell::new(child));
    for (expected, typed) in exchange {
        let waited = wait_until(expected, Duration::from_secs(60), || {
            let text = text();
            let rest = text.get(from.get()..).unwrap_or_default();
            let found = rest.find(expected);
            from.set(from.get() + found.map_or(0, |at| at + expected.len()));
            Ok(found.is_some())
        });
        if let Err(error) = waited {
            drop(child.borrow_mut().kill());
            return Err(Error::Unexpected(format!(
                "{error}; shown was:\n{}",
                text()
            )));
        }
        keyboard
            .write_all(typed.as_bytes())
            .expect("the terminal takes input");
    }
    let ended = wait_until("the command's end", Duration::from_secs(60), || {
        Ok(child
            .borrow_mut()
            .try_wait()
            .is_ok_and(|status| status.is_some()))
    });
    if ended.is_err() {
        drop(child.borrow_mut().kill());
    }
    drop(keyboard);
    drop(watching.join());
    ended.map(|()| text())
}

#[test]
fn buildx_opens_a_shell_in_the_failed_step() {
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local\nENV HINT=found\nWORKDIR /work\n\
            RUN --mount=type=tmpfs,target=/scratch touch left-behind && false\n";
        let context = stand.context("debugged", &[("Dockerfile", dockerfile)])?;
        let mut buildx = stand.buildx()?;
        buildx.env("BUILDX_EXPERIMENTAL", "1");
        buildx.args(["debug", "--on=error", "--invoke=args=/bin/sh", "build"]);
        buildx
            .args(["--progress=plain", "--provenance=false"])
            .arg(&context);
        let exchange = [
            (
                "/work # ",
                "echo \"$HINT:$(pwd):$(ls):$(ls -d /scratch)\"; exit\n",
            ),
            ("(buildx)", "exit\n"),
        ];
        let shown = on_terminal(&buildx, &exchange)?;
        ensure(shown.contains("found:/work:left-behind:/scratch"), || {
            shown.clone()
        })
    });
}

const FAILING: &str = "FROM busybox:local\nENV HINT=found\nWORKDIR /work\n\
    RUN --mount=type=tmpfs,target=/scratch touch left-behind && false\n";

/// `shipway build` of a context.
fn shipway_build(stand: &Stand, context: &Path) -> Result<Command> {
    let mut shipway = Command::new(stand.machine.own("shipway")?);
    shipway
        .args(["--addr", &stand.builder.address(), "build"])
        .arg(context);
    Ok(shipway)
}

#[test]
fn our_client_opens_a_shell_in_the_failed_step() {
    on_stand(|stand| {
        let context = stand.context("shell", &[("Dockerfile", FAILING)])?;
        let mut shipway = shipway_build(stand, &context)?;
        shipway.arg("--on-error=shell");
        // How the shell ends is nobody's failure.
        let line = "stty size; echo \"$HINT:$(pwd):$(ls):$(ls -d /scratch)\"; exit 3\n";
        let shown = on_terminal(&shipway, &[("/work # ", line)])?;
        let parts = ["found:/work:left-behind:/scratch", "exit code: 1"];
        let right =
            parts.iter().all(|part| shown.contains(part)) && !shown.contains("exit code: 3");
        ensure(right, || shown.clone())
    });
}

#[test]
fn a_failed_step_is_kept_as_an_image_that_starts() {
    if !only_shipway() {
        return;
    }
    on_stand(|stand| {
        let context = stand.context("keep", &[("Dockerfile", FAILING)])?;
        let said =
            fail(shipway_build(stand, &context)?.args(["--on-error=keep", "--progress=plain"]))?;
        let image = said
            .split_whitespace()
            .find_map(|word| word.strip_suffix(';'));
        let image = image.filter(|word| word.starts_with("shipway.local/failed:"));
        let image = image
            .ok_or_else(|| Error::Unexpected(said.clone()))?
            .to_owned();
        let seen = run_as(
            stand,
            "default",
            &image,
            &["sh", "-c", "echo $HINT; pwd; ls"],
        )?;
        ensure(seen == "found\n/work\nleft-behind\n", || {
            format!("{seen:?}")
        })?;
        stand
            .containerd
            .run_ctr("default", &["images", "rm", "--sync", &image])?;
        let context = stand.context(
            "no-process",
            &[("Dockerfile", "FROM busybox:local\nCOPY no /\n")],
        )?;
        let said = fail(shipway_build(stand, &context)?.arg("--on-error=keep"))?;
        ensure(said.contains("nothing is kept"), || said.clone())
    });
}
