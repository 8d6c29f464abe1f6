//! What a build is not allowed to do to its host: write outside its root, fill the disk for good.

use std::{
    cell::RefCell,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use shipway_integration::{
    Error, Result, base_image,
    builder::Options,
    command::{fail, finish},
    machine::Wanted,
    process::wait_until,
    stand::Stand,
};
use tar::{Builder, EntryType, Header};

use crate::support::{build, build_image, chain, ensure, kind, on_stand, wanted, with_log};

/// An archive with one entry that means harm.
fn hostile(kind: EntryType, name: &str, link: &str) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    let body: &[u8] = if kind == EntryType::Regular {
        b"harm"
    } else {
        b""
    };
    header.set_size(body.len() as u64);
    let field = header.as_old_mut();
    field.name[..name.len()].copy_from_slice(name.as_bytes());
    field.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut archive = Builder::new(Vec::new());
    archive
        .append(&header, body)
        .expect("memory takes all that is written to it");
    // What follows goes through the link, if there is one.
    let mut header = Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    let inner = if kind == EntryType::Symlink {
        format!("{name}/escaped")
    } else {
        "innocent".to_owned()
    };
    archive
        .append_data(&mut header, inner, &b"harm"[..])
        .expect("memory takes all that is written to it");
    archive
        .into_inner()
        .expect("memory takes all that is written to it")
}

/// Archives that would write `escaped` into `outside`, or read a file of the host.
fn hostile_archives(outside: &Path) -> Vec<(String, Vec<u8>)> {
    let target = outside.display().to_string();
    let up = format!("../../../../../../../../..{target}/escaped");
    let cases = [
        (EntryType::Regular, up.clone(), String::new()),
        (
            EntryType::Regular,
            format!("{target}/escaped"),
            String::new(),
        ),
        (EntryType::Symlink, "door".to_owned(), target.clone()),
        (
            EntryType::Link,
            "hard".to_owned(),
            "../../../../../../../../../etc/hostname".to_owned(),
        ),
        (
            EntryType::Link,
            "hard".to_owned(),
            "/etc/hostname".to_owned(),
        ),
    ];
    let fitting = cases.iter().filter(|case| case.1.len() < 100);
    let archive = |(kind, name, link): &(EntryType, String, String)| {
        (
            format!("{kind:?} {name} -> {link}"),
            hostile(*kind, name, link),
        )
    };
    fitting.map(archive).collect()
}

/// Feeds each hostile archive to a build with `prepare`, which gives the context; nothing may be outside afterwards.
fn confined(prepare: impl Fn(&Stand, usize, &[u8]) -> Result<PathBuf>) {
    on_stand(|stand| {
        let outside = stand.dir.join("outside");
        fs::create_dir_all(&outside).expect("the stand's directory is ours");
        let hostname = fs::metadata("/etc/hostname").map(|meta| meta.nlink()).ok();
        for (number, (what, archive)) in hostile_archives(&outside).iter().enumerate() {
            let context = prepare(stand, number, archive)?;
            // Refused or confined: both are fine.
            finish(&mut build_image(stand, &context)?)?;
            ensure(!outside.join("escaped").exists(), || {
                format!("{what} escaped")
            })?;
            let links = fs::metadata("/etc/hostname").map(|meta| meta.nlink()).ok();
            ensure(links == hostname, || {
                format!("{what} is a file of the host")
            })?;
        }
        build(stand, "after", "FROM busybox:local\nRUN true\n", &[]).map(drop)
    });
}

#[test]
fn archives_cannot_write_outside_the_root() {
    confined(|stand, number, archive| {
        let dockerfile = "FROM busybox:local\nADD bad.tar /in/\n";
        let context = stand.context(&format!("tar-{number}"), &[("Dockerfile", dockerfile)])?;
        fs::write(context.join("bad.tar"), archive).expect("the context is ours");
        Ok(context)
    });
}

#[test]
fn layers_cannot_write_outside_the_root() {
    confined(|stand, number, archive| {
        let name = format!("evil{number}");
        let image = base_image::of_layer(&name, archive, &stand.dir)?;
        stand.import("default", &image)?;
        let dockerfile = format!("FROM {name}:local\nCOPY Dockerfile /copied\n");
        stand.context(&name, &[("Dockerfile", &dockerfile)])
    });
}

#[test]
fn copies_follow_no_link_out_of_the_root() {
    on_stand(|stand| {
        let mark = stand.dir.join("mark");
        fs::write(&mark, "outside").expect("the stand's directory is ours");
        let dockerfile = format!(
            "FROM busybox:local AS src\nRUN ln -s {0} /door && ln -s / /root-door\nFROM busybox:local\n\
             COPY --from=src /door /got\n",
            mark.display()
        );
        let context = stand.context("door", &[("Dockerfile", &dockerfile)])?;
        let done = finish(&mut build_image(stand, &context)?)?;
        let got = if done.success {
            crate::support::run_in_image(stand, "cat /got 2>&1 || true")?
        } else {
            String::new()
        };
        ensure(!got.contains("outside"), || got.clone())
    });
}

#[test]
fn a_full_disk_ends_the_build_with_a_clear_error_and_no_more() {
    let dir = std::env::temp_dir().join(format!("shipway-full-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("the temporary directory is writable");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=96m", "none"])
        .arg(&dir)
        .status();
    assert!(
        mounted.is_ok_and(|status| status.success()),
        "mounting a small tmpfs"
    );
    let outcome = on_small_disk(&dir);
    let unmounted = Command::new("umount").arg("-l").arg(&dir).status();
    assert!(
        unmounted.is_ok_and(|status| status.success()),
        "unmounting the small tmpfs"
    );
    fs::remove_dir(&dir).expect("an empty mount point can be removed");
    if let Err(e) = outcome {
        panic!("{}", chain(&e));
    }
}

fn on_small_disk(dir: &Path) -> Result<()> {
    let wanted: Wanted = wanted();
    let stand = Stand::start_in(&dir.join("s"), wanted, Options::new(kind()))?;
    stand.import_busybox("default")?;
    let small = stand.context(
        "small",
        &[("Dockerfile", "FROM busybox:local\nRUN echo fits >/x\n")],
    )?;
    let dockerfile = "FROM busybox:local\nRUN dd if=/dev/zero of=/big bs=1M count=200\n";
    let context = stand.context("full", &[("Dockerfile", dockerfile)])?;
    let said = fail(&mut build_image(&stand, &context)?)?;
    ensure(said.to_lowercase().contains("no space left"), || {
        said.clone()
    })?;
    // What the failed step wrote goes behind its end.
    let said = RefCell::default();
    let fits = || {
        let done = finish(&mut build_image(&stand, &small)?)?;
        said.replace(done.stderr);
        Ok(done.success)
    };
    wait_until("building again", Duration::from_secs(30), fits)
        .map_err(|late| Error::Unexpected(format!("{}\n{}", chain(&late), said.take())))
        .map_err(|late| with_log(&late, &stand))?;
    stand.end()
}
