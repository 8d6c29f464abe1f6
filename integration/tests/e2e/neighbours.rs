//! Others who use the same containerd: its collector, `ctr content prune`, pulls into our snapshotter, containers on very
//! many layers. None of them harms a build or is harmed by one.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicBool, Ordering},
};

use shipway_integration::{
    Result,
    builder::Options,
    command::{finish, succeed},
    containerd::Containerd,
    registry::Registry,
    stand::Stand,
};

use crate::support::{
    IMAGE, build, build_image, ensure, kind, on_stand, on_stand_with, only_shipway, run_as,
    run_in_image,
};

/// Prunes content and makes containerd collect, again and again, until `done`; gives how often.
fn collect_until(containerd: &Containerd, done: &AtomicBool) -> Result<u32> {
    let mut times = 0;
    while !done.load(Ordering::Acquire) {
        times += 1;
        let id = format!("loop-{times}");
        // A prune may find something gone that it has just listed: that is no business of ours.
        finish(
            containerd
                .ctr("default")
                .args(["content", "prune", "references"]),
        )?;
        containerd.run_ctr("default", &["leases", "create", "--id", &id])?;
        containerd.run_ctr("default", &["leases", "rm", "--sync", &id])?;
    }
    Ok(times)
}

/// Runs `builds` while the collector runs all the time.
fn while_collecting(stand: &Stand, builds: impl FnOnce() -> Result<()>) -> Result<()> {
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let collecting = threads.spawn(|| collect_until(&stand.containerd, &done));
        let built = builds();
        done.store(true, Ordering::Release);
        let times = collecting.join().expect("the loop does not panic")?;
        built?;
        ensure(times > 0, || "nothing was collected".to_owned())
    })
}

#[test]
fn collectors_break_no_build() {
    // What a prune takes away is fetched again: that needs a registry.
    let registry = Registry::start().expect("the machine has docker-registry");
    let base = format!("{}/base:1", registry.host());
    on_stand_with(with_registry(&registry), |stand| {
        let dockerfile = "FROM busybox:local\nRUN echo base >/base\n";
        let context = stand.context("base", &[("Dockerfile", dockerfile)])?;
        let mut buildctl = stand.buildctl_build(kind().into(), &context)?;
        succeed(buildctl.args(["--output", &format!("type=image,name={base},push=true")]))?;
        while_collecting(stand, || {
            (0..6).try_for_each(|number| build_among_collectors(stand, &base, number))
        })
    });
}

fn build_among_collectors(stand: &Stand, base: &str, number: u32) -> Result<()> {
    let dockerfile = format!(
        "FROM {base} AS a\nRUN echo {number} >/a\nFROM {base}\nRUN echo b >/b\n\
         COPY --from=a /a /a\nRUN cat /base /a /b >/c\n"
    );
    build(stand, &format!("gc-{number}"), &dockerfile, &[])?;
    let said = run_in_image(stand, "cat /c")?;
    ensure(said == format!("base\n{number}\nb\n"), || said.clone())?;
    if number % 2 == 1 {
        let remove = ["images", "rm", "--sync", IMAGE];
        stand.containerd.run_ctr("default", &remove)?;
    }
    Ok(())
}

fn with_registry(registry: &Registry) -> Options {
    let mut options = Options::new(kind());
    options.more_config = format!("[registry.\"{}\"]\nhttp = true\n", registry.host());
    options
}

#[test]
fn an_image_removed_in_mid_build_is_landed_again() {
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local\nRUN echo one >/one\n";
        build(stand, "image", dockerfile, &[])?;
        for round in 0..3 {
            let dockerfile = format!("{dockerfile}RUN sleep 0.5; echo {round} >/round\n");
            let context = stand.context("image", &[("Dockerfile", &dockerfile)])?;
            let mut command = build_image(stand, &context)?;
            std::thread::scope(|threads| {
                let building = threads.spawn(move || succeed(&mut command));
                stand
                    .containerd
                    .run_ctr("default", &["images", "rm", "--sync", IMAGE])?;
                building.join().expect("the client's thread doesn't panic")
            })?;
            let said = run_in_image(stand, "cat /one /round")?;
            ensure(said == format!("one\n{round}\n"), || said.clone())?;
        }
        Ok(())
    });
}

#[test]
fn others_pull_into_our_snapshotter() {
    if !only_shipway() {
        return;
    }
    let registry = Registry::start().expect("the machine has docker-registry");
    on_stand_with(with_registry(&registry), |stand| {
        let name = format!("{}/pulled:1", registry.host());
        let dockerfile = "FROM busybox:local\nRUN echo pulled >/pulled && ln /pulled /link\n";
        let context = stand.context("pulled", &[("Dockerfile", dockerfile)])?;
        let mut buildctl = stand.buildctl_build(kind().into(), &context)?;
        succeed(buildctl.args(["--output", &format!("type=image,name={name},push=true")]))?;
        let words = ["cat", "/pulled", "/link"];
        let pull = ["images", "pull", "--plain-http", "--snapshotter", "shipway"];
        let mut ctr = stand.containerd.ctr("by-ctr");
        succeed(ctr.args(pull).arg(&name))?;
        let said = run_as(stand, "by-ctr", &name, &words)?;
        ensure(said == "pulled\npulled\n", || said.clone())?;
        let mut nerdctl = stand.nerdctl(kind().into())?;
        let pull = ["--namespace", "by-nerdctl", "--insecure-registry", "pull"];
        succeed(nerdctl.args(pull).arg(&name))?;
        let said = run_as(stand, "by-nerdctl", &name, &words)?;
        ensure(said == "pulled\npulled\n", || said.clone())
    });
}

#[test]
fn two_hundred_layers_run() {
    on_stand(|stand| {
        let mut dockerfile = "FROM busybox:local\n".to_owned();
        for number in 1..200 {
            writeln!(dockerfile, "COPY file /f{number}")
                .expect("a String takes all that is written to it");
        }
        build(stand, "many", &dockerfile, &[("file", "x\n")])?;
        let line = "ls /f* | wc -l; cat /f1 /f199";
        let said = run_in_image(stand, line)?;
        ensure(said == "199\nx\nx\n", || said.clone())?;
        let mut nerdctl = stand.nerdctl(kind().into())?;
        let run = ["run", "--rm", "--net=none", "result", "sh", "-c", line];
        let said = succeed(nerdctl.args(run))?.stdout;
        ensure(said == "199\nx\nx\n", || said.clone())
    });
}
