//! A layer store that was lost under a running containerd, in part and whole: builds go on, and a repair makes containerd
//! forget what nobody has any more.

use std::{fs, path::PathBuf};

use shipway_integration::{
    Result,
    clients::Buildctl,
    command::{finish, succeed},
    stand::Stand,
};

use crate::support::{IMAGE, build, cached_steps, ensure, on_stand, only_shipway, run_in_image};

const DOCKERFILE: &str =
    "FROM busybox:local\nRUN echo one >/one\nRUN echo two >/two\nCOPY file /file\n";
const FILES: &[(&str, &str)] = &[("file", "three\n")];
const NOTHING: &str = "nothing to repair: the layer store and containerd agree\n";

fn shipway(stand: &Stand, words: &[&str]) -> Result<String> {
    let mut shipway = stand
        .clients
        .buildctl(Buildctl::Shipway, &stand.builder.address())?;
    Ok(succeed(shipway.args(words))?.stdout)
}

fn layers(stand: &Stand) -> PathBuf {
    stand.builder.root.join("layers")
}

/// Builds, lets `lose` lose something of the store while the daemon is away, and repairs.
fn repaired(lose: impl FnOnce(&Stand)) {
    if !only_shipway() {
        return;
    }
    on_stand(|stand| {
        ensure(shipway(stand, &["debug", "repair"])? == NOTHING, || {
            "a new store needs a repair".to_owned()
        })?;
        build(stand, "repair", DOCKERFILE, FILES)?;
        let agreed = shipway(stand, &["debug", "repair", "--dry-run"])?;
        ensure(agreed == NOTHING, || agreed.clone())?;
        stand.builder.stop()?;
        lose(stand);
        stand.builder.restart()?;

        let would = shipway(stand, &["debug", "repair", "--dry-run"])?;
        let told = would.lines().filter(|line| {
            line.starts_with("would be forgotten by containerd: sha256:")
                && line.ends_with("in namespace default, whose layer is lost")
        });
        ensure(told.count() >= 1, || would.clone())?;
        let snapshotter = ["run", "--rm", "--snapshotter", "shipway"];
        let mut ctr = stand.containerd.ctr("default");
        let broken = finish(ctr.args(snapshotter).args([IMAGE, "broken", "true"]))?;
        ensure(!broken.success, || "a lost image ran".to_owned())?;

        let did = shipway(stand, &["debug", "repair"])?;
        ensure(did.lines().count() == would.lines().count(), || {
            format!("{did}\nwould have done:\n{would}")
        })?;
        let left = shipway(stand, &["debug", "repair", "--dry-run"])?;
        ensure(left == NOTHING, || left.clone())?;
        build(stand, "repair", DOCKERFILE, FILES)?;
        let said = run_in_image(stand, "cat /one /two /file")?;
        ensure(said == "one\ntwo\nthree\n", || said.clone())
    });
}

#[test]
fn a_lost_store_is_forgotten_by_containerd() {
    repaired(|stand| fs::remove_dir_all(layers(stand)).expect("the store can be removed"));
}

#[test]
fn a_lost_layer_takes_along_what_stands_on_it() {
    repaired(|stand| {
        let listed = fs::read_dir(layers(stand).join("layers"));
        let mut listed = listed.into_iter().flatten().flatten();
        let lower = listed.find(|layer| layer.path().join("one").exists());
        let lower = lower.expect("the first step made a layer").path();
        fs::remove_dir_all(lower).expect("a layer can be removed");
    });
}

#[test]
fn another_stores_cache_is_not_believed() {
    if !only_shipway() {
        return;
    }
    on_stand(|stand| {
        build(stand, "first", "FROM busybox:local\nRUN echo a >/a\n", &[])?;
        stand.builder.stop()?;
        fs::remove_dir_all(layers(stand)).expect("the store can be removed");
        stand.builder.restart()?;
        shipway(stand, &["debug", "repair"])?;
        // Its layers have the ids that those of the lost store had.
        build(stand, "other", "FROM busybox:local\nRUN echo b >/b\n", &[])?;
        let again = build(stand, "first", "FROM busybox:local\nRUN echo a >/a\n", &[])?;
        // The base may be cached.
        ensure(cached_steps(&again) <= 1, || again.stderr.clone())?;
        let said = run_in_image(stand, "cat /a; ls /b 2>&1 | wc -l")?;
        ensure(said.starts_with("a\n"), || said.clone())
    });
}

#[test]
fn the_daemon_says_how_it_runs_steps() {
    if !only_shipway() {
        return;
    }
    on_stand(|stand| {
        let said = shipway(stand, &["debug", "info"])?;
        let want = if stand.containerd.binary.major >= 2 {
            "Executor:   a task per build (io.containerd.shipway.v1)\n"
        } else {
            "Executor:   a task per step (io.containerd.runc.v2)\n"
        };
        ensure(said.ends_with(want), || said.clone())
    });
}
