//! Images for several platforms: stages that cross-compile run once, natively; an index is what containerd lists; foreign
//! programs run through an emulator where the kernel has one registered, and else fail with words that say so.

use std::{fs, path::Path};

use shipway_integration::{
    Error, Result,
    clients::Buildctl,
    command::{finish, succeed},
    stand::Stand,
};

use crate::support::{IMAGE, ensure, kind, on_stand, only_shipway};

const BOTH: &str = "linux/amd64,linux/arm64";
const CROSS: &str = "FROM --platform=$BUILDPLATFORM busybox:local AS tools\nRUN echo ready >/tools && cat /tools\n\
    FROM tools AS make\nARG TARGETARCH\nRUN mkdir /out && echo \"for $TARGETARCH\" >/out/made\n\
    FROM scratch\nARG TARGETPLATFORM\nCOPY --from=make /out /\nLABEL platform=$TARGETPLATFORM\nCMD [\"/made\"]\n";

/// What `ctr images ls` says of the image.
fn listed(stand: &Stand) -> Result<String> {
    let images = stand
        .containerd
        .run_ctr("default", &["images", "ls"])?
        .stdout;
    let line = images.lines().find(|line| line.starts_with(IMAGE));
    Ok(line.unwrap_or_default().to_owned())
}

fn is_an_index(stand: &Stand) -> Result<()> {
    let line = listed(stand)?;
    ensure(line.contains(BOTH) && line.contains("index"), || {
        format!("listed: {line:?}")
    })
}

#[test]
fn two_platforms_end_in_an_index_and_cross_compilers_run_once() {
    on_stand(|stand| {
        let context = stand.context("cross", &[("Dockerfile", CROSS)])?;
        let mut buildctl = stand.buildctl_build(Buildctl::from(kind()), &context)?;
        buildctl.args(["--opt", &format!("platform={BOTH}")]);
        let done = succeed(buildctl.args(["--output", &format!("type=image,name={IMAGE}")]))?;
        let ready = done
            .stderr
            .lines()
            .filter(|line| line.ends_with(" ready"))
            .count();
        ensure(ready == 1, || {
            format!("the shared step ran {ready} times:\n{}", done.stderr)
        })?;
        is_an_index(stand)
    });
}

#[test]
fn each_platform_has_its_own_tree() {
    on_stand(|stand| {
        let context = stand.context("cross", &[("Dockerfile", CROSS)])?;
        let out = stand.dir.join("trees");
        let mut buildx = stand.buildx()?;
        buildx.args([
            "build",
            "--progress=plain",
            "--provenance=false",
            "--platform",
            BOTH,
        ]);
        buildx
            .arg("--output")
            .arg(format!("type=local,dest={}", out.display()))
            .arg(&context);
        succeed(&mut buildx)?;
        for arch in ["amd64", "arm64"] {
            let made =
                fs::read_to_string(out.join(format!("linux_{arch}/made"))).unwrap_or_default();
            ensure(made == format!("for {arch}\n"), || {
                format!("{arch}: {made:?}")
            })?;
        }
        Ok(())
    });
}

#[test]
fn buildx_and_nerdctl_make_indexes_as_well() {
    on_stand(|stand| {
        let context = stand.context("cross", &[("Dockerfile", CROSS)])?;
        let mut buildx = stand.buildx()?;
        buildx.args([
            "build",
            "--progress=plain",
            "--provenance=false",
            "--platform",
            BOTH,
        ]);
        buildx
            .args(["--output", &format!("type=image,name={IMAGE}")])
            .arg(&context);
        succeed(&mut buildx)?;
        is_an_index(stand)?;
        stand
            .containerd
            .run_ctr("default", &["images", "rm", "--sync", IMAGE])?;
        let mut nerdctl = stand.nerdctl(Buildctl::from(kind()))?;
        nerdctl.args([
            "build",
            "--progress=plain",
            "--platform",
            BOTH,
            "-t",
            "result",
        ]);
        succeed(nerdctl.arg(&context))?;
        is_an_index(stand)
    });
}

/// A program for 64-bit ARM that writes `said by arm64` and ends. Made by hand: no compiler for it need be there.
fn arm64_program() -> Vec<u8> {
    const TEXT: &[u8] = b"said by arm64\n";
    const CODE: [u32; 8] = [
        0xd280_0020,           // mov x0, 1
        0x1000_00e1,           // adr x1, text
        0xd280_0002 | 14 << 5, // mov x2, 14
        0xd280_0808,           // mov x8, 64: write
        0xd400_0001,           // svc 0
        0xd280_0000,           // mov x0, 0
        0xd280_0ba8,           // mov x8, 93: exit
        0xd400_0001,           // svc 0
    ];
    const START: u64 = 0x0040_0000;
    let size = 120 + 32 + TEXT.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0\x01\0\0\0".to_vec();
    elf.extend([START + 120, 64, 0].map(u64::to_le_bytes).concat());
    elf.extend(
        [0_u16, 0, 64, 56, 1, 0, 0, 0]
            .map(u16::to_le_bytes)
            .concat(),
    );
    elf.extend([1_u32, 5].map(u32::to_le_bytes).concat());
    elf.extend(
        [0, START, START, size, size, 0x1000]
            .map(u64::to_le_bytes)
            .concat(),
    );
    elf.extend(CODE.map(u32::to_le_bytes).concat());
    elf.extend(TEXT);
    elf
}

const FOREIGN: &str = "FROM scratch\nCOPY --chmod=755 hello /hello\nRUN [\"/hello\"]\n";

fn foreign(stand: &Stand) -> Result<std::path::PathBuf> {
    let context = stand.context("foreign", &[("Dockerfile", FOREIGN)])?;
    fs::write(context.join("hello"), arm64_program())
        .map_err(|e| Error::Unexpected(format!("writing a program: {e}")))?;
    Ok(context)
}

const BINFMT: &str = "/proc/sys/fs/binfmt_misc";
const EMULATOR: &str = "/usr/bin/qemu-aarch64-static";

/// The kernel's registration of an emulator; ours ends with the test.
struct Registered(Option<&'static str>);

impl Registered {
    /// Registers one where none is.
    fn arm64() -> Result<Self> {
        let io = |what: &'static str| move |e| Error::Unexpected(format!("{what}: {e}"));
        if !Path::new(BINFMT).join("register").exists() {
            let mut mount = std::process::Command::new("mount");
            succeed(mount.args(["-t", "binfmt_misc", "binfmt_misc", BINFMT]))?;
        }
        if Path::new(BINFMT).join("qemu-aarch64").exists() {
            return Ok(Self(None));
        }
        let magic = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00";
        let mask =
            r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
        // F: the kernel opens the emulator now, so that it serves processes that don't see its file.
        let line = format!(":shipway-arm64:M::{magic}:{mask}:{EMULATOR}:F");
        fs::write(format!("{BINFMT}/register"), line).map_err(io("registering an emulator"))?;
        Ok(Self(Some("shipway-arm64")))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(name) = self.0 {
            fs::write(format!("{BINFMT}/{name}"), "-1")
                .expect("what was registered can be removed");
        }
    }
}

#[test]
fn a_foreign_program_runs_where_an_emulator_is_registered() {
    on_stand(|stand| {
        let emulator = Registered::arm64()?;
        let context = foreign(stand)?;
        let mut buildctl = stand.buildctl_build(Buildctl::from(kind()), &context)?;
        buildctl.args(["--opt", "platform=linux/arm64"]);
        let done = succeed(buildctl.args(["--output", &format!("type=image,name={IMAGE}")]))?;
        ensure(done.stderr.contains("said by arm64"), || {
            done.stderr.clone()
        })?;
        let line = listed(stand)?;
        ensure(line.contains("linux/arm64"), || format!("listed: {line:?}"))?;
        let mut buildctl = stand
            .clients
            .buildctl(Buildctl::Go, &stand.builder.address())?;
        let workers = succeed(buildctl.args(["debug", "workers", "-v"]))?.stdout;
        drop(emulator);
        // BuildKit asks only now and then what the kernel runs.
        ensure(workers.contains("linux/arm64") || !only_shipway(), || {
            workers.clone()
        })
    });
}

#[test]
fn a_foreign_program_without_emulator_fails_with_words_that_say_so() {
    if Path::new(BINFMT).join("qemu-aarch64").exists() {
        // The operator registered one for the whole machine: nothing can fail for the lack of it.
        return;
    }
    on_stand(|stand| {
        let context = foreign(stand)?;
        let mut buildctl = stand.buildctl_build(Buildctl::from(kind()), &context)?;
        let done = finish(buildctl.args(["--opt", "platform=linux/arm64"]))?;
        ensure(
            !done.success && done.stderr.contains("exec format error"),
            || done.stderr.clone(),
        )?;
        let hint = done.stderr.contains("linux/arm64") && done.stderr.contains("binfmt_misc");
        ensure(hint || !only_shipway(), || {
            format!("no hint in:\n{}", done.stderr)
        })
    });
}
