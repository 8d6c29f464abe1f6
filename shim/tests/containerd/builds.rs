//! A build's whole life, and how long its steps take.

use std::path::Path;
use std::time::{Duration, Instant};

use super::harness::{Containerd, leftovers};

#[tokio::test]
async fn a_build_runs_steps_and_leaves_nothing_behind() {
    let containerd = Containerd::start().await;
    let launcher = containerd.create_build("b1").await;
    let step = containerd.shell("s1", "echo hello; echo made > /file; exit 3");
    let (code, output) = containerd.run_step("b1", "s1", &step).await.unwrap();
    assert_eq!((code, output.as_str()), (3, "hello\n"));
    assert_eq!(
        std::fs::read_to_string(containerd.upper("s1").join("file")).unwrap(),
        "made\n"
    );
    assert_eq!(containerd.outcome("s1").unwrap().exit_code, 3);
    let listed = containerd.ctr_ok(&["tasks", "ls"]);
    assert!(
        listed.contains("b1") && listed.contains(&launcher.to_string()),
        "{listed}"
    );
    containerd.remove_build("b1").await;
    assert_eq!(leftovers(&containerd.root), Vec::<String>::new());
}

#[tokio::test]
async fn forty_steps_in_a_row_are_fast() {
    let containerd = Containerd::start().await;
    let before = Instant::now();
    containerd.create_build("b1").await;
    let created = before.elapsed();
    let mut times: Vec<Duration> = Vec::new();
    let mut in_launcher: Vec<Duration> = Vec::new();
    let mut busy: Vec<Duration> = Vec::new();
    for at in 0..40 {
        let name = format!("s{at}");
        let step = containerd.shell(&name, "exit 0");
        let before = Instant::now();
        containerd
            .start_step("b1", &name, &step, Path::new(""))
            .await
            .unwrap();
        assert_eq!(containerd.wait("b1", &name).await.unwrap().exit_status, 0);
        times.push(before.elapsed());
        containerd.delete_step("b1", &name).await;
        let outcome = containerd.outcome(&name).unwrap();
        busy.push(Duration::from_micros(
            outcome.user_cpu_us + outcome.system_cpu_us,
        ));
        in_launcher.push(Duration::from_nanos(
            outcome.exited_at_ns - outcome.started_at_ns,
        ));
    }
    times.sort_unstable();
    busy.sort_unstable();
    in_launcher.sort_unstable();
    println!(
        "build created in {created:?}; a step, exec to exit: median {:?}, worst {:?}; clone to exit in the launcher: median {:?}, processor time {:?}",
        times[20], times[39], in_launcher[20], busy[20]
    );
    containerd.remove_build("b1").await;
}
