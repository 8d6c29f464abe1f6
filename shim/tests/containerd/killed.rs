//! What happens when the shim, the launcher or containerd is killed at work.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::harness::{Containerd, eventually, kill, leftovers, lives, shim_of, shims};

#[tokio::test]
async fn a_step_survives_a_restart_of_containerd() {
    let mut containerd = Containerd::start().await;
    let launcher = containerd.create_build("b1").await;
    let gate = containerd.root.join("gate");
    let status = std::process::Command::new("mkfifo")
        .arg(&gate)
        .status()
        .unwrap();
    assert!(status.success());
    let mut step = containerd.shell("s1", "cat /gate; exit 5");
    step.mounts = vec![shipway_step::StepMount::new(
        "/gate",
        shipway_step::MountSource::path(&gate),
    )];
    let pid = containerd
        .start_step("b1", "s1", &step, Path::new(""))
        .await
        .unwrap();
    containerd.restart().await;
    assert!(lives(launcher) && lives(pid));
    let waiting = containerd.wait("b1", "s1");
    fs::write(&gate, "go").unwrap();
    assert_eq!(waiting.await.unwrap().exit_status, 5);
    assert_eq!(containerd.delete_step("b1", "s1").await, 5);
    let step = containerd.shell("s2", "exit 0");
    assert_eq!(containerd.run_step("b1", "s2", &step).await.unwrap().0, 0);
    containerd.remove_build("b1").await;
    assert_eq!(leftovers(&containerd.root), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_launcher_ends_every_step() {
    let containerd = Containerd::start().await;
    let launcher = containerd.create_build("b1").await;
    let step = containerd.shell("s1", "sleep 1000 & sleep 1000");
    let pid = containerd
        .start_step("b1", "s1", &step, Path::new(""))
        .await
        .unwrap();
    kill(launcher, libc::SIGKILL);
    assert_eq!(containerd.wait("b1", "s1").await.unwrap().exit_status, 137);
    assert_eq!(containerd.wait("b1", "").await.unwrap().exit_status, 137);
    assert!(!lives(pid));
    assert_eq!(containerd.delete_step("b1", "s1").await, 137);
    containerd.remove_build("b1").await;
    assert_eq!(leftovers(&containerd.root), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_shim_takes_its_steps_along_and_leaves_nothing() {
    let containerd = Containerd::start().await;
    for round in 0..5 {
        let id = format!("b{round}");
        let launcher = containerd.create_build(&id).await;
        let shim = shim_of(launcher);
        let step = containerd.shell(&format!("s{round}"), "sleep 1000 & sleep 1000");
        let pid = containerd
            .start_step(&id, "s1", &step, Path::new(""))
            .await
            .unwrap();
        kill(shim, libc::SIGKILL);
        eventually("launcher and step are gone", || {
            !lives(launcher) && !lives(pid)
        });
        eventually("containerd has cleaned up", || {
            leftovers(&containerd.root).is_empty()
        });
        eventually("the task is gone", || {
            !containerd.ctr_ok(&["tasks", "ls", "-q"]).contains(&id)
        });
        containerd.remove_container(&id).await;
    }
}

#[tokio::test]
async fn a_shim_killed_while_containerd_is_away_is_cleaned_up_later() {
    let mut containerd = Containerd::start().await;
    let launcher = containerd.create_build("b1").await;
    let step = containerd.shell("s1", "sleep 1000");
    containerd
        .start_step("b1", "s1", &step, Path::new(""))
        .await
        .unwrap();
    let shim = shim_of(launcher);
    containerd.stop(libc::SIGKILL);
    kill(shim, libc::SIGKILL);
    containerd.restart().await;
    eventually("containerd has cleaned up", || {
        leftovers(&containerd.root).is_empty()
    });
    assert!(!lives(launcher));
    containerd.remove_container("b1").await;
}

/// A daemon that is killed while containerd makes its build's task: containerd drops the task wherever it is.
#[tokio::test]
async fn a_client_that_goes_while_a_task_is_made_leaves_nothing() {
    let containerd = Containerd::start().await;
    for round in 0..40 {
        let id = format!("b{round}");
        containerd.create_container(&id).await;
        let patience = Duration::from_millis(round);
        // Dropping the call tells containerd that nobody waits for its answer.
        let created = tokio::time::timeout(patience, containerd.create_task(&id)).await;
        let deleted = containerd.delete_task(&id).await;
        assert!(created.is_err() || deleted.is_ok(), "{deleted:?}");
        containerd.remove_container(&id).await;
    }
    eventually("no task stays", || {
        let listed = containerd.ctr_ok(&["tasks", "ls", "-q"]);
        for task in listed.lines() {
            containerd.ctr(&["tasks", "rm", "-f", task]);
        }
        listed.is_empty()
    });
    eventually("no shim stays", || shims(&containerd.root).is_empty());
    eventually("nothing stays", || leftovers(&containerd.root).is_empty());
}
