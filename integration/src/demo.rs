//! The demonstration: a real multi-stage Dockerfile from an empty machine to a running container, built twice, with
//! the commands that it runs and the times that they take.

use std::{path::Path, process::Command};

use crate::{
    Result,
    builder::{Kind, Options},
    clients::Buildctl,
    command::{Done, spell, succeed},
    machine::Wanted,
    report::{readable, say},
    stand::{Stand, write},
};

const IMAGE: &str = "docker.io/library/shipway-demo:latest";

const DOCKERFILE: &str = r#"FROM busybox:local AS words
WORKDIR /src
COPY text/ .
RUN --mount=type=cache,target=/cache \
    cat *.txt | tr 'A-Z' 'a-z' | tr -cs 'a-z' '\n' | sort > /cache/all && sort -u /cache/all > /words

FROM busybox:local AS count
COPY --from=words /words /words
RUN wc -l < /words | tr -d ' ' > /count

FROM busybox:local
COPY --from=words /words /srv/words
COPY --from=count /count /srv/count
COPY --chmod=755 greet.sh /usr/bin/greet
ENV GREETING=Hello
LABEL org.opencontainers.image.title="Shipway demo"
ENTRYPOINT ["/usr/bin/greet"]
"#;

const GREET: &str = "#!/bin/sh\necho \"$GREETING from an image of $(cat /srv/count) words, built inside containerd\"\n";

/// Runs the demonstration below `dir` with the `wanted` containerd.
pub fn demo(dir: &Path, wanted: Wanted, kind: Kind) -> Result<()> {
    let stand = Stand::start_in(dir, wanted, Options::new(kind))?;
    let version = &stand.containerd.binary.version;
    say(format_args!(
        "containerd {version} with its own root and sockets below {}",
        dir.display()
    ));
    let context = context(&stand)?;
    stand.import_busybox("default")?;
    say("The base image is the distribution's static busybox, imported as busybox:local.\n");

    let first = build(&stand, &context)?;
    show(&mut *stand.containerd.ctr("default").args(["images", "ls", "-q"]))?;
    run(&stand, "demo-1")?;
    write(&context.join("text/three.txt"), "A changed file\n")?;
    say("\nA file is changed, and it is built again:");
    let second = build(&stand, &context)?;
    run(&stand, "demo-2")?;
    say("\nNothing is changed:");
    let third = build(&stand, &context)?;
    say(format_args!(
        "\nfirst build {}, one file changed {}, nothing changed {}",
        readable(first.took),
        readable(second.took),
        readable(third.took),
    ));
    stand.end()
}

/// Starts the daemons below `dir` and leaves them running.
pub fn up(dir: &Path, wanted: Wanted, options: Options) -> Result<()> {
    let stand = Stand::start_in(dir, wanted, options)?;
    stand.import_busybox("default")?;
    say(format_args!(
        "containerd {} and the build daemon run below {}",
        stand.containerd.binary.version,
        dir.display()
    ));
    say("busybox:local is there to build from. Point clients at them:");
    let (address, containerd) = (stand.builder.address(), stand.containerd.address.display());
    let snapshotter = &stand.builder.options.snapshotter;
    say(format_args!(
        "  nerdctl:  export CONTAINERD_ADDRESS={containerd} CONTAINERD_SNAPSHOTTER={snapshotter} BUILDKIT_HOST={address}"
    ));
    say(format_args!("  buildctl: export BUILDKIT_HOST={address}"));
    say(format_args!(
        "  buildx:   docker-buildx create --use --driver remote {address}"
    ));
    stand.leave();
    Ok(())
}

fn context(stand: &Stand) -> Result<std::path::PathBuf> {
    stand.context(
        "demo",
        &[
            ("Dockerfile", DOCKERFILE),
            ("greet.sh", GREET),
            ("text/one.txt", "A ship was built inside the harbour\n"),
            ("text/two.txt", "and never carried across the land\n"),
            ("text/three.txt", "A plain file\n"),
        ],
    )
}

fn build(stand: &Stand, context: &Path) -> Result<Done> {
    let mut command = stand.buildctl_build(Buildctl::from(stand.builder.options.kind), context)?;
    command.args(["--output", &format!("type=image,name={IMAGE},unpack=true")]);
    let done = show(&mut command)?;
    say(format_args!("built in {}", readable(done.took)));
    Ok(done)
}

fn run(stand: &Stand, id: &str) -> Result<()> {
    let snapshotter = stand.builder.options.snapshotter.as_str();
    let mut ctr = stand.containerd.ctr("default");
    show(ctr.args(["run", "--rm", "--snapshotter", snapshotter, IMAGE, id])).map(drop)
}

/// Runs `command` with its words and its output in sight.
fn show(command: &mut Command) -> Result<Done> {
    say(format_args!("$ {}", spell(command)));
    let done = succeed(command)?;
    for line in done
        .stdout
        .lines()
        .chain(done.stderr.lines())
        .filter(|line| !line.is_empty())
    {
        say(format_args!("  {line}"));
    }
    Ok(done)
}
