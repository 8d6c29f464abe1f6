//! What is built once is not built again: not for the next client, not after a restart, only where something changed.

use shipway_integration::{clients::Buildctl, command::succeed};

use crate::support::{IMAGE, build, cached_steps, ensure, kind, on_stand, run_in_image};

const DOCKERFILE: &str =
    "FROM busybox:local\nRUN echo one >/one\nCOPY a /a\nRUN cat /one /a >/both\nCOPY b /b\n";
const FILES: &[(&str, &str)] = &[("a", "a\n"), ("b", "b\n")];

#[test]
fn a_rebuild_runs_nothing() {
    on_stand(|stand| {
        build(stand, "same", DOCKERFILE, FILES)?;
        let again = build(stand, "same", DOCKERFILE, FILES)?;
        ensure(cached_steps(&again) >= 4, || {
            format!("not all cached:\n{}", again.stderr)
        })?;
        let said = run_in_image(stand, "cat /both /b")?;
        ensure(said == "one\na\nb\n", || said.clone())
    });
}

#[test]
fn a_changed_file_invalidates_what_depends_on_it_alone() {
    on_stand(|stand| {
        build(stand, "same", DOCKERFILE, FILES)?;
        let again = build(stand, "same", DOCKERFILE, &[("b", "changed\n")])?;
        ensure(cached_steps(&again) == 3, || {
            format!("not three cached:\n{}", again.stderr)
        })?;
        let said = run_in_image(stand, "cat /both /b")?;
        ensure(said == "one\na\nchanged\n", || said.clone())
    });
}

#[test]
fn the_cache_outlives_the_daemon() {
    on_stand(|stand| {
        build(stand, "same", DOCKERFILE, FILES)?;
        stand.builder.stop()?;
        stand.builder.restart()?;
        let again = build(stand, "same", DOCKERFILE, FILES)?;
        ensure(cached_steps(&again) >= 4, || {
            format!("not all cached:\n{}", again.stderr)
        })
    });
}

#[test]
fn no_cache_runs_everything_again() {
    on_stand(|stand| {
        build(stand, "same", DOCKERFILE, FILES)?;
        let context = stand.context("same", &[])?;
        let mut command = crate::support::build_image(stand, &context)?;
        let again = succeed(command.arg("--no-cache"))?;
        ensure(
            !again.stderr.contains("CACHED\n#") || cached_steps(&again) <= 1,
            || again.stderr.clone(),
        )
    });
}

#[test]
fn pruning_empties_the_cache_and_leaves_images_alone() {
    on_stand(|stand| {
        build(stand, "same", DOCKERFILE, FILES)?;
        let address = stand.builder.address();
        succeed(
            stand
                .clients
                .buildctl(Buildctl::from(kind()), &address)?
                .args(["prune", "--all"]),
        )?;
        let usage = succeed(stand.clients.buildctl(Buildctl::Go, &address)?.arg("du"))?.stdout;
        let total = usage
            .lines()
            .find(|line| line.starts_with("Total:"))
            .unwrap_or_default();
        ensure(total.ends_with("\t0B"), || {
            format!("left in the cache:\n{usage}")
        })?;
        let said = run_in_image(stand, "cat /both")?;
        ensure(said == "one\na\n", || said.clone())
    });
}

#[test]
fn after_a_prune_containerd_holds_nothing_that_only_builds_have_left() {
    on_stand(|stand| {
        let namespace = stand.builder.options.namespace.clone();
        let before = stand.containerd.list(&namespace, "content")?;
        build(stand, "same", DOCKERFILE, FILES)?;
        // The blobs stay for now: containerd collects when it is asked to, or when much has changed.
        stand
            .containerd
            .run_ctr(&namespace, &["images", "rm", IMAGE])?;
        let address = stand.builder.address();
        let mut buildctl = stand.clients.buildctl(Buildctl::from(kind()), &address)?;
        succeed(buildctl.args(["prune", "--all"]))?;
        let left = stand.containerd.list(&namespace, "content")?;
        ensure(left.iter().all(|blob| before.contains(blob)), || {
            format!("{left:?} instead of {before:?}")
        })
    });
}

#[test]
fn what_was_removed_of_an_image_by_hand_is_stored_again() {
    on_stand(|stand| {
        let namespace = stand.builder.options.namespace.clone();
        let before = stand.containerd.list(&namespace, "content")?;
        build(stand, "same", DOCKERFILE, FILES)?;
        let mut whole = stand.containerd.list(&namespace, "content")?;
        whole.sort();
        let made: Vec<String> = whole
            .iter()
            .filter(|blob| !before.contains(blob))
            .cloned()
            .collect();
        // Four layers, the configuration and the manifest, each in its turn.
        ensure(made.len() >= 6, || format!("only {made:?} were made"))?;
        for blob in &made {
            let remove = ["content", "rm", blob.as_str()];
            stand.containerd.run_ctr(&namespace, &remove)?;
            let again = build(stand, "same", DOCKERFILE, FILES)?;
            ensure(cached_steps(&again) >= 4, || again.stderr.clone())?;
            let mut now = stand.containerd.list(&namespace, "content")?;
            now.sort();
            ensure(now == whole, || {
                format!("without {blob}: {now:?} instead of {whole:?}")
            })?;
        }
        Ok(())
    });
}

#[test]
fn cache_mounts_keep_their_contents_between_builds() {
    on_stand(|stand| {
        let first = "FROM busybox:local\nRUN --mount=type=cache,target=/c echo kept >/c/file\n";
        let second = "FROM busybox:local\nRUN --mount=type=cache,target=/c cp /c/file /file\n";
        build(stand, "first", first, &[])?;
        build(stand, "second", second, &[])?;
        let said = run_in_image(stand, "cat /file")?;
        ensure(said == "kept\n", || said.clone())
    });
}
