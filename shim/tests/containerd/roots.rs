//! What a step's root and mounts are made of, and that no trace of their making stays.

use std::fs;
use std::path::{Path, PathBuf};

use shipway_step::{LayerStack, MountAttribute, MountSource, StepMount};

use super::harness::Containerd;

#[tokio::test]
async fn mounts_are_made_as_asked_and_leave_no_stubs() {
    let containerd = Containerd::start().await;
    containerd.create_build("b1").await;
    let script = "cat /in/f /run/secrets/s /both/deep/g /both/deep/er/f; touch /in/x 2>/dev/null || echo ro; \
                  touch /both/new && echo rw; stat -c %a /t; touch /etc/kept; df -k /t | tail -1 | tr -s ' ' | cut -d' ' -f2; \
                  cat /etc/hosts; rm /etc/hosts 2>/dev/null || echo busy";
    let mut step = containerd.shell("s1", script);
    step.mounts = mounts_of_every_kind(&containerd.root);
    let (code, output) = containerd.run_step("b1", "s1", &step).await.unwrap();
    assert_eq!(
        (code, output.as_str()),
        (0, "foundhushoverfoundro\nrw\n1777\n1024\n127.0.0.1\nbusy\n")
    );
    assert!(containerd.root.join("m-upper/new").exists());
    assert_eq!(names_in(&containerd.upper("s1")), ["etc"], "stubs are gone");
    assert_eq!(names_in(&containerd.upper("s1").join("etc")), ["kept"]);
    containerd.remove_build("b1").await;
}

fn mounts_of_every_kind(root: &Path) -> Vec<StepMount> {
    let source = root.join("source");
    fs::create_dir_all(source.join("deep/er")).unwrap();
    fs::write(source.join("deep/er/f"), "found").unwrap();
    fs::write(source.join("secret"), "hush").unwrap();
    std::os::unix::fs::symlink("/deep", source.join("link")).unwrap();
    let other = root.join("other");
    fs::create_dir_all(other.join("deep")).unwrap();
    fs::write(other.join("deep/g"), "over").unwrap();
    let (upper, work) = (root.join("m-upper"), root.join("m-work"));
    fs::create_dir_all(&upper).unwrap();
    fs::create_dir_all(&work).unwrap();
    let read_only = [MountAttribute::ReadOnly];
    let path = |path: PathBuf, subpath: Option<&str>| MountSource::Path {
        path,
        subpath: subpath.map(Into::into),
    };
    fs::write(root.join("hosts"), "127.0.0.1\n").unwrap();
    vec![
        StepMount::new("/etc/hosts", path(root.join("hosts"), None)).with(read_only),
        StepMount::new("/in", path(source.clone(), Some("link/er"))).with(read_only),
        StepMount::new("/run/secrets/s", path(source.join("secret"), None)).with([
            MountAttribute::ReadOnly,
            MountAttribute::NoSuid,
            MountAttribute::NoDev,
            MountAttribute::NoExec,
        ]),
        StepMount::new(
            "/both",
            MountSource::Layers {
                layers: LayerStack::writable([other.clone(), source.clone()], upper.clone(), work),
                subpath: None,
            },
        ),
        StepMount::new(
            "/one/file",
            MountSource::Layers {
                layers: LayerStack::read_only([other, source]),
                subpath: Some("deep/g".into()),
            },
        ),
        StepMount::new(
            "/t",
            MountSource::Tmpfs {
                size: Some(1 << 20),
                mode: 0o1777,
            },
        )
        .with([MountAttribute::NoSuid]),
    ]
}

fn names_in(directory: &Path) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

#[tokio::test]
async fn roots_of_every_shape_are_mounted() {
    let containerd = Containerd::start().await;
    containerd.create_build("b1").await;
    let layers = containerd
        .root
        .join("layers-with-a-name-that-makes-the-options-longer-than-a-page");
    let many: Vec<PathBuf> = (0..250)
        .map(|at| layers.join(format!("layer-number-{at}")))
        .collect();
    for (at, layer) in many.iter().enumerate() {
        fs::create_dir_all(layer).unwrap();
        fs::write(layer.join("top"), format!("{at}")).unwrap();
        fs::write(layer.join(format!("f{at}")), "").unwrap();
    }
    let busybox = containerd.root.join("busybox");
    let all = || many.iter().cloned().chain([busybox.clone()]);
    let mut step = containerd.shell("many", "cat /top; ls / | grep -c '^f'; echo x > /new");
    step.root.lower = all().collect();
    assert_eq!(
        containerd.run_step("b1", "many", &step).await.unwrap(),
        (0, "0250\n".to_owned())
    );

    let mut step = containerd.shell("ro", "cat /top; echo x > /new || echo ro");
    step.root = LayerStack::read_only(all());
    let (_, output) = containerd.run_step("b1", "ro", &step).await.unwrap();
    assert!(output.ends_with("ro\n"), "{output}");

    let mut step = containerd.shell("one", "echo x > /tmp/new || echo ro");
    step.root = LayerStack::read_only([busybox.clone()]);
    let (_, output) = containerd.run_step("b1", "one", &step).await.unwrap();
    assert!(output.ends_with("ro\n"), "{output}");

    let scratch = containerd.upper("scratch");
    let mut step = containerd.shell("scratch", "echo x > /new");
    fs::create_dir_all(scratch.join("bin")).unwrap();
    fs::copy("/bin/busybox", scratch.join("bin/sh")).unwrap();
    step.root.lower = Vec::new();
    assert_eq!(
        containerd.run_step("b1", "scratch", &step).await.unwrap().0,
        0
    );
    assert!(scratch.join("new").exists());
    containerd.remove_build("b1").await;
}
