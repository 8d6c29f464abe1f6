//! Base images that need no internet: made on the spot from a distribution package, as an OCI layout in a tar that
//! `ctr images import` and `nerdctl load` take.

use std::{
    fmt::Write as _,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use crate::{
    Error, Result,
    command::{finish, succeed},
    error::OnFile as _,
};

/// The name under which the busybox image is imported.
pub const BUSYBOX: &str = "docker.io/library/busybox:local";
/// The name under which the Debian image is imported.
pub const DEBIAN: &str = "docker.io/library/debian:local";

/// Writes an image of the distribution's static busybox to `dir/busybox.tar`.
pub fn busybox(program: &Path, dir: &Path) -> Result<PathBuf> {
    let layer = busybox_layer(program).on_file("packing", program)?;
    let archive = dir.join("busybox.tar");
    write_layout(&archive, BUSYBOX, &layer, &shell())?;
    Ok(archive)
}

/// Writes an image of a Debian with `packages` to `dir/debian.tar`; needs `mmdebstrap` and the machine's apt sources.
pub fn debian(packages: &[&str], dir: &Path) -> Result<PathBuf> {
    let rootfs = dir.join("debian-rootfs.tar");
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap.args([
        "--variant=apt",
        "--mode=root",
        "--aptopt=Apt::Install-Recommends \"false\"",
    ]);
    bootstrap
        .arg(format!("--include={}", packages.join(",")))
        .arg(codename()?)
        .arg(&rootfs);
    // Without a mirror of its own mmdebstrap asks the internet; the machine's own sources may be elsewhere.
    succeed(bootstrap.args(apt_sources()))?;
    let mut layer = Vec::new();
    let mut file = fs::File::open(&rootfs).on_file("opening", &rootfs)?;
    file.read_to_end(&mut layer).on_file("reading", &rootfs)?;
    fs::remove_file(&rootfs).on_file("removing", &rootfs)?;
    let archive = dir.join("debian.tar");
    write_layout(&archive, DEBIAN, &layer, &shell())?;
    Ok(archive)
}

/// Writes an image of one layer, the tar archive `layer`, whatever that is, to `dir/name.tar` as `name:local`.
pub fn of_layer(name: &str, layer: &[u8], dir: &Path) -> Result<PathBuf> {
    let archive = dir.join(format!("{name}.tar"));
    write_layout(
        &archive,
        &format!("docker.io/library/{name}:local"),
        layer,
        &shell(),
    )?;
    Ok(archive)
}

/// Writes an image of BuildKit's Dockerfile frontend to `dir/frontend.tar`.
pub fn frontend(program: &Path, dir: &Path) -> Result<PathBuf> {
    frontend_image("frontend:local", program, dir)
}

/// Writes an image called `name` of any frontend to `dir/frontend.tar`: the program, and the libraries that it is linked
/// with.
pub fn frontend_image(name: &str, program: &Path, dir: &Path) -> Result<PathBuf> {
    let file = program.file_name().unwrap_or_default();
    let inside = Path::new("/bin").join(file);
    let mut files = vec![(inside.clone(), program.to_owned())];
    files.extend(
        libraries(program)?
            .into_iter()
            .map(|path| (path.clone(), path)),
    );
    let layer = pack(&files).on_file("packing", program)?;
    let archive = dir.join("frontend.tar");
    let config = json!({
        "Entrypoint": [inside],
        "Labels": {
            "moby.buildkit.frontend.network.none": "true",
            "moby.buildkit.frontend.caps":
                "moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts",
        },
    });
    write_layout(&archive, name, &layer, &config)?;
    Ok(archive)
}

/// Writes an image called `name` with busybox that runs this shell line as its entrypoint.
pub fn busybox_running(name: &str, line: &str, program: &Path, dir: &Path) -> Result<PathBuf> {
    let layer = busybox_layer(program).on_file("packing", program)?;
    let archive = dir.join("busybox-running.tar");
    let config = json!({"Entrypoint": ["/bin/sh", "-c", line]});
    write_layout(&archive, name, &layer, &config)?;
    Ok(archive)
}

/// The shared libraries of a program, and the loader; none of a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = finish(Command::new("ldd").arg(program))?;
    if !listed.success {
        return Ok(Vec::new());
    }
    let path = |line: &str| {
        let mut words = line.split_whitespace();
        words.find(|word| word.starts_with('/')).map(PathBuf::from)
    };
    Ok(listed.stdout.lines().filter_map(path).collect())
}

/// A layer of executable files, by their place in it.
fn pack(files: &[(PathBuf, PathBuf)]) -> std::io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut made = std::collections::BTreeSet::new();
    for (to, from) in files {
        let to = to.strip_prefix("/").unwrap_or(to);
        let mut parents: Vec<_> = to.ancestors().skip(1).collect();
        parents.pop();
        for parent in parents.into_iter().rev() {
            if made.insert(parent.to_owned()) {
                let mut header = header(EntryType::Directory, 0, 0o755);
                layer.append_data(&mut header, parent.join(""), std::io::empty())?;
            }
        }
        let binary = fs::read(from)?;
        let mut header = header(EntryType::Regular, binary.len(), 0o755);
        layer.append_data(&mut header, to, binary.as_slice())?;
    }
    layer.into_inner()
}

fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").on_file("reading", "/etc/os-release")?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.map(str::to_owned)
        .ok_or_else(|| Error::Unexpected("no VERSION_CODENAME in /etc/os-release".to_owned()))
}

/// The machine's own sources of its distribution, without those that were added for something else.
fn apt_sources() -> Vec<PathBuf> {
    let listed = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten();
    let main = PathBuf::from("/etc/apt/sources.list");
    let all = std::iter::once(main).chain(listed.map(|entry| entry.path()));
    let known = |path: &PathBuf| {
        path.extension()
            .is_some_and(|kind| kind == "list" || kind == "sources")
    };
    let files = all
        .filter(|path| path.is_file() && known(path))
        .collect::<Vec<_>>();
    let own = |path: &&PathBuf| {
        fs::read_to_string(path).is_ok_and(|text| text.contains("debian-archive-keyring"))
    };
    let distribution = files.iter().filter(own).cloned().collect::<Vec<_>>();
    if distribution.is_empty() {
        files
    } else {
        distribution
    }
}

/// A root file system: busybox, a link for each of its applets, and the few files that a shell expects.
pub fn busybox_layer(program: &Path) -> std::io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for (dir, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("usr", 0o755),
    ] {
        let mut header = header(EntryType::Directory, 0, mode);
        layer.append_data(&mut header, format!("{dir}/"), std::io::empty())?;
    }
    let binary = fs::read(program)?;
    layer.append_data(
        &mut header(EntryType::Regular, binary.len(), 0o755),
        "bin/busybox",
        binary.as_slice(),
    )?;
    let applets = Command::new(program).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&applets.stdout)
        .lines()
        .filter(|name| *name != "busybox")
    {
        let mut header = header(EntryType::Symlink, 0, 0o777);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    let group = "root:x:0:\nnogroup:x:65534:\n";
    for (path, text) in [("etc/passwd", passwd), ("etc/group", group)] {
        layer.append_data(
            &mut header(EntryType::Regular, text.len(), 0o644),
            path,
            text.as_bytes(),
        )?;
    }
    layer.into_inner()
}

fn header(kind: EntryType, size: usize, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header
}

/// What a container of a base image runs.
fn shell() -> Value {
    json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Cmd": ["/bin/sh"],
    })
}

/// Writes an OCI layout with one image of one uncompressed layer.
fn write_layout(archive: &Path, name: &str, layer: &[u8], run: &Value) -> Result<()> {
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        "history": [{"created": "1970-01-01T00:00:01Z", "created_by": "base image for tests"}],
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["platform"] = json!({"architecture": architecture(), "os": "linux"});
    entry["annotations"] = json!({"io.containerd.image.name": name});
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry],
    });
    let blobs =
        [config.as_slice(), &manifest, layer].map(|bytes| (blob_path(bytes), bytes.to_vec()));
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
    let fixed = [
        ("oci-layout".to_owned(), layout),
        ("index.json".to_owned(), index.to_string().into_bytes()),
    ];
    let write = || -> std::io::Result<()> {
        let mut out = tar::Builder::new(fs::File::create(archive)?);
        for (path, bytes) in fixed.iter().chain(&blobs) {
            out.append_data(
                &mut header(EntryType::Regular, bytes.len(), 0o644),
                path,
                bytes.as_slice(),
            )?;
        }
        out.finish()
    };
    write().on_file("writing", archive)
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

fn blob_path(bytes: &[u8]) -> String {
    format!("blobs/{}", digest(bytes).replace(':', "/"))
}

/// `sha256:…` of `bytes`.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("a String takes all that is written to it");
    }
    text
}

/// This machine's, as OCI spells it.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
