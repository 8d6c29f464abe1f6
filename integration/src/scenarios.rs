//! What the bench measures: each scenario with its preparation, its command, and the ratio that is aimed at.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use crate::{
    Error, Result, base_image, bench::Bench, builder::Builder, clients::Buildctl, command::succeed,
    error::OnFile as _, stand::write,
};

/// One thing that is measured.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// BuildKit's time divided by Shipway's.
    pub(crate) target: f64,
    /// Once, before the first measurement; may find its work done by an earlier scenario.
    pub(crate) set_up: fn(&Bench) -> Result<()>,
    /// Before each measurement.
    pub(crate) prepare: fn(&Bench, &Builder, usize) -> Result<()>,
    pub(crate) command: fn(&Bench, &Builder) -> Result<Command>,
}

const NAME: &str = "docker.io/library/bench:latest";

/// In the order in which they are measured: later ones build on what earlier ones left.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "client round trip (debug workers)",
        target: 1.0,
        set_up: |_| Ok(()),
        prepare: |_, _, _| Ok(()),
        command: workers,
    },
    Scenario {
        name: "50 RUN steps, no cache, no export",
        target: 20.0,
        set_up: steps,
        prepare: |_, _, _| Ok(()),
        command: uncached_steps,
    },
    Scenario {
        name: "50 RUN steps, no cache, image + unpack",
        target: 12.0,
        set_up: steps,
        prepare: |_, _, _| Ok(()),
        command: exported_steps,
    },
    Scenario {
        name: "50 RUN steps, cached, image + unpack",
        target: 8.0,
        set_up: steps,
        prepare: built_steps,
        command: cached_steps,
    },
    Scenario {
        name: "32 parallel stages of sleep 0.2, 32 COPY --from",
        target: 5.0,
        set_up: stages,
        prepare: |_, _, _| Ok(()),
        command: parallel_stages,
    },
    Scenario {
        name: "50,000 files, first build after prune",
        target: 4.0,
        set_up: files,
        prepare: pruned,
        command: copy_files,
    },
    Scenario {
        name: "50,000 files, nothing changed",
        target: 2.0,
        set_up: files,
        prepare: built_files,
        command: copy_files,
    },
    Scenario {
        name: "50,000 files, nothing changed, each daemon's own client",
        target: 6.0,
        set_up: files,
        prepare: built_files,
        command: copy_files_own,
    },
    Scenario {
        name: "50,000 files, one changed",
        target: 8.0,
        set_up: files,
        prepare: changed_file,
        command: copy_files,
    },
    Scenario {
        name: "50,000 files, one changed, image + unpack",
        target: 6.0,
        set_up: files,
        prepare: changed_file,
        command: export_files,
    },
    Scenario {
        name: "1.13 GB tar on Debian, gzip image + unpack",
        target: 7.0,
        set_up: tarball,
        prepare: pruned,
        command: gzip,
    },
    Scenario {
        name: "1.13 GB tar on Debian, zstd image + unpack",
        target: 4.0,
        set_up: tarball,
        prepare: pruned,
        command: zstd,
    },
    Scenario {
        name: "1.13 GB tar on Debian, uncompressed image + unpack",
        target: 4.0,
        set_up: tarball,
        prepare: pruned,
        command: uncompressed,
    },
    Scenario {
        name: "nerdctl build, 2,000 files, two stages, first build",
        target: 2.5,
        set_up: project,
        prepare: pruned,
        command: nerdctl,
    },
    Scenario {
        name: "nerdctl build, all cached",
        target: 2.0,
        set_up: project,
        prepare: built_project,
        command: nerdctl,
    },
    Scenario {
        name: "nerdctl build, one file changed",
        target: 4.0,
        set_up: project,
        prepare: changed_project,
        command: nerdctl,
    },
    Scenario {
        name: "docker buildx build, all cached, image + unpack",
        target: 1.3,
        set_up: project,
        prepare: built_with_buildx,
        command: buildx,
    },
    Scenario {
        name: "buildctl build, all cached, image + unpack",
        target: 3.0,
        set_up: project,
        prepare: built_with_buildctl,
        command: buildctl_project,
    },
];

fn pruned(bench: &Bench, builder: &Builder, _: usize) -> Result<()> {
    bench.prune(builder)
}

fn workers(bench: &Bench, builder: &Builder) -> Result<Command> {
    let mut command = bench.clients.buildctl(Buildctl::Go, &builder.address())?;
    command.args(["debug", "workers"]);
    Ok(command)
}

fn unpacked(command: &mut Command, more: &str) {
    command.args([
        "--output",
        &format!("type=image,name={NAME},unpack=true{more}"),
    ]);
}

// Steps.

fn steps(bench: &Bench) -> Result<()> {
    let mut dockerfile = "FROM busybox:local\n".to_owned();
    for number in 1..=50 {
        let line = writeln!(dockerfile, "RUN echo {number} > /f{number}");
        line.expect("a String takes all that is written to it");
    }
    write(&bench.context("steps/Dockerfile"), &dockerfile)
}

fn uncached_steps(bench: &Bench, builder: &Builder) -> Result<Command> {
    let mut command = bench.buildctl(Buildctl::Go, builder, "steps")?;
    command.arg("--no-cache");
    Ok(command)
}

fn exported_steps(bench: &Bench, builder: &Builder) -> Result<Command> {
    let mut command = uncached_steps(bench, builder)?;
    unpacked(&mut command, "");
    Ok(command)
}

fn cached_steps(bench: &Bench, builder: &Builder) -> Result<Command> {
    let mut command = bench.buildctl(Buildctl::Go, builder, "steps")?;
    unpacked(&mut command, "");
    Ok(command)
}

fn built_steps(bench: &Bench, builder: &Builder, round: usize) -> Result<()> {
    if round == 0 {
        succeed(&mut cached_steps(bench, builder)?)?;
    }
    Ok(())
}

fn stages(bench: &Bench) -> Result<()> {
    let mut dockerfile = String::new();
    for number in 1..=32 {
        let stage = writeln!(
            dockerfile,
            "FROM busybox:local AS s{number}\nRUN sleep 0.2; echo {number} > /out"
        );
        stage.expect("a String takes all that is written to it");
    }
    dockerfile += "FROM busybox:local\n";
    for number in 1..=32 {
        let copy = writeln!(dockerfile, "COPY --from=s{number} /out /out{number}");
        copy.expect("a String takes all that is written to it");
    }
    write(&bench.context("stages/Dockerfile"), &dockerfile)
}

fn parallel_stages(bench: &Bench, builder: &Builder) -> Result<Command> {
    let mut command = bench.buildctl(Buildctl::Go, builder, "stages")?;
    command.arg("--no-cache");
    Ok(command)
}

// Many small files.

const FILES: usize = 50_000;

fn files(bench: &Bench) -> Result<()> {
    let dir = bench.context("files");
    if dir.join("Dockerfile").exists() {
        return Ok(());
    }
    for number in 0..bench.sized(FILES) {
        // 2.1 KB each, in directories of 100.
        let text = format!("{number:020}\n").repeat(100);
        write(&dir.join(format!("tree/{}/{number}", number / 100)), &text)?;
    }
    write(
        &dir.join("Dockerfile"),
        "FROM busybox:local\nCOPY tree /tree\n",
    )
}

fn copy_files(bench: &Bench, builder: &Builder) -> Result<Command> {
    bench.buildctl(Buildctl::Go, builder, "files")
}

fn copy_files_own(bench: &Bench, builder: &Builder) -> Result<Command> {
    bench.buildctl(Buildctl::from(builder.options.kind), builder, "files")
}

fn built_files(bench: &Bench, builder: &Builder, round: usize) -> Result<()> {
    if round == 0 {
        succeed(&mut copy_files(bench, builder)?)?;
    }
    Ok(())
}

fn changed_file(bench: &Bench, builder: &Builder, round: usize) -> Result<()> {
    if round == 0 {
        succeed(&mut export_files(bench, builder)?)?;
    }
    touch(&bench.context("files/tree/0/0"), builder, round)
}

/// Gives `path` contents that neither daemon has seen.
fn touch(path: &Path, builder: &Builder, round: usize) -> Result<()> {
    let salt = std::time::UNIX_EPOCH
        .elapsed()
        .map_or(0, |now| now.as_nanos());
    write(
        path,
        &format!("{:?} {round} {salt}\n", builder.options.kind),
    )
}

fn export_files(bench: &Bench, builder: &Builder) -> Result<Command> {
    let mut command = copy_files(bench, builder)?;
    unpacked(&mut command, "");
    Ok(command)
}

// One big layer.

const TAR_BYTES: usize = 1_130_000_000;
/// Where binaries and text lie on any machine that can build this.
const CONTENTS: &[&str] = &["/usr/lib", "/usr/bin", "/usr/local", "/usr/share"];

fn tarball(bench: &Bench) -> Result<()> {
    let dir = bench.context("tarball");
    if dir.join("Dockerfile").exists() {
        return Ok(());
    }
    let archive = if bench.small {
        base_image::busybox(&bench.machine.system("busybox")?, &bench.dir)?
    } else {
        base_image::debian(&["ca-certificates"], &bench.dir)?
    };
    bench.import(&archive)?;
    fs::create_dir_all(&dir).on_file("creating", &dir)?;
    let packed = dir.join("data.tar");
    pack(&packed, bench.sized(TAR_BYTES) as u64)?;
    let base = if bench.small {
        "busybox:local"
    } else {
        "debian:local"
    };
    write(
        &dir.join("Dockerfile"),
        &format!("FROM {base}\nADD data.tar /data/\n"),
    )
}

/// Regular files of this machine, `limit` bytes of them.
fn pack(path: &Path, limit: u64) -> Result<()> {
    let file = fs::File::create(path).on_file("creating", path)?;
    let mut archive = tar::Builder::new(std::io::BufWriter::new(file));
    let mut packed = 0;
    let mut dirs = CONTENTS
        .iter()
        .rev()
        .map(|dir| Path::new(dir).to_owned())
        .collect::<Vec<_>>();
    while let Some(dir) = dirs.pop() {
        let mut entries = fs::read_dir(&dir)
            .into_iter()
            .flatten()
            .flatten()
            .collect::<Vec<_>>();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                dirs.push(entry.path());
            }
            let Some(size) = entry
                .metadata()
                .ok()
                .filter(|_| kind.is_file())
                .map(|meta| meta.len())
            else {
                continue;
            };
            if packed + size > limit {
                continue;
            }
            let Ok(mut source) = fs::File::open(entry.path()) else {
                continue;
            };
            let name = entry.path();
            let name = name.strip_prefix("/").unwrap_or(&name);
            archive
                .append_file(name, &mut source)
                .on_file("packing", entry.path())?;
            packed += size;
        }
        if packed > limit - limit / 1000 {
            break;
        }
    }
    if packed < limit / 2 {
        return Err(Error::Unexpected(format!(
            "only {packed} bytes of files on this machine"
        )));
    }
    archive.finish().on_file("writing", path)
}

fn compressed(bench: &Bench, builder: &Builder, how: &str) -> Result<Command> {
    let mut command = bench.buildctl(Buildctl::Go, builder, "tarball")?;
    unpacked(
        &mut command,
        &format!(",oci-mediatypes=true,compression={how}"),
    );
    Ok(command)
}

fn gzip(bench: &Bench, builder: &Builder) -> Result<Command> {
    compressed(bench, builder, "gzip")
}

fn zstd(bench: &Bench, builder: &Builder) -> Result<Command> {
    compressed(bench, builder, "zstd")
}

fn uncompressed(bench: &Bench, builder: &Builder) -> Result<Command> {
    compressed(bench, builder, "uncompressed")
}

// A project of middling size, through the clients that people use.

fn project(bench: &Bench) -> Result<()> {
    let dir = bench.context("project");
    for number in 0..bench.sized(2000) {
        let text = format!("{number:08}\n").repeat(200);
        write(&dir.join(format!("src/{}/{number}", number / 50)), &text)?;
    }
    let dockerfile = "FROM busybox:local AS make\nWORKDIR /src\nCOPY src .\nRUN find . -type f | sort | xargs cat | md5sum > /sum\n\
        FROM busybox:local\nCOPY --from=make /sum /sum\nRUN mkdir -p /srv && cp /sum /srv/\nCMD [\"cat\", \"/sum\"]\n";
    write(&dir.join("Dockerfile"), dockerfile)
}

fn nerdctl(bench: &Bench, builder: &Builder) -> Result<Command> {
    let mut command = bench.nerdctl(builder)?;
    command
        .args(["build", "--progress=plain", "-t", "bench"])
        .arg(bench.context("project"));
    Ok(command)
}

fn built_project(bench: &Bench, builder: &Builder, round: usize) -> Result<()> {
    if round == 0 {
        succeed(&mut nerdctl(bench, builder)?)?;
    }
    Ok(())
}

fn changed_project(bench: &Bench, builder: &Builder, round: usize) -> Result<()> {
    built_project(bench, builder, round)?;
    touch(&bench.context("project/src/0/0"), builder, round)
}

fn buildx(bench: &Bench, builder: &Builder) -> Result<Command> {
    let mut command = bench.clients.buildx(&builder.address())?;
    command.args(["build", "--progress=plain", "--provenance=false"]);
    unpacked(&mut command, "");
    command.arg(bench.context("project"));
    Ok(command)
}

fn built_with_buildx(bench: &Bench, builder: &Builder, round: usize) -> Result<()> {
    if round == 0 {
        succeed(&mut buildx(bench, builder)?)?;
    }
    Ok(())
}

fn buildctl_project(bench: &Bench, builder: &Builder) -> Result<Command> {
    let mut command = bench.buildctl(Buildctl::Go, builder, "project")?;
    unpacked(&mut command, "");
    Ok(command)
}

fn built_with_buildctl(bench: &Bench, builder: &Builder, round: usize) -> Result<()> {
    if round == 0 {
        succeed(&mut buildctl_project(bench, builder)?)?;
    }
    Ok(())
}
