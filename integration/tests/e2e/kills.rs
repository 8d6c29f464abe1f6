//! SIGKILL at random instants, to the daemon, containerd, a shim or a launcher: the next build works, finished steps
//! are cached, nothing stays behind. How that is done and checked is in the harness's `kills`.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use shipway_integration::{
    command::succeed,
    kills::{Victim, shims, survives},
    process::wait_until,
    stand::Stand,
    teardown::processes,
};

use crate::{
    running::{sleepers, start_sleeping},
    support::{build_image, ensure, on_stand, only_shipway, run_in_image},
};

/// Kills `victim` in mid-build, as often as `SHIPWAY_KILLS` says (`integration/run kills` does it 20 times).
fn killed(victim: Victim) {
    if !only_shipway() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds = number("SHIPWAY_KILLS").unwrap_or(3);
    on_stand(|stand| survives(stand, victim, rounds, u64::from(std::process::id())));
}

#[test]
fn the_daemon_killed_in_mid_build_loses_no_finished_step() {
    killed(Victim::Daemon);
}

#[test]
fn containerd_killed_in_mid_build_loses_no_finished_step() {
    killed(Victim::Containerd);
}

#[test]
fn a_shim_killed_in_mid_build_ends_only_its_build() {
    killed(Victim::Shim);
}

#[test]
fn a_launcher_killed_in_mid_build_ends_only_its_build() {
    killed(Victim::Launcher);
}

/// Kills this stand's shims.
fn kill_shims(stand: &Stand) {
    for pid in shims(stand) {
        let killed = kill_process(pid, Signal::KILL);
        assert!(
            matches!(killed, Ok(()) | Err(rustix::io::Errno::SRCH)),
            "killing {pid:?}: {killed:?}"
        );
    }
}

#[test]
fn a_shims_steps_die_with_it() {
    if !only_shipway() {
        return;
    }
    on_stand(|stand| {
        let client = start_sleeping(stand, "sleeping", "")?;
        kill_shims(stand);
        if stand.containerd.binary.major >= 2 {
            wait_until("ended", Duration::from_secs(5), || Ok(sleepers() == 0))?;
        }
        drop(client);
        wait_until("ended", Duration::from_secs(10), || Ok(sleepers() == 0))
    });
}

#[test]
fn a_step_outlives_a_restart_of_containerd() {
    if !only_shipway() {
        return;
    }
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local\nRUN sleep 4.321; echo survived >/x\n";
        let context = stand.context("restart", &[("Dockerfile", dockerfile)])?;
        let mut command = build_image(stand, &context)?;
        let build = std::thread::spawn(move || succeed(&mut command));
        let running = || {
            processes()
                .iter()
                .any(|(_, words)| *words == ["sleep", "4.321"])
        };
        wait_until("in its step", Duration::from_secs(30), || Ok(running()))?;
        // A client that starts later has its answer later than the daemon has that of its start.
        let listed = || Ok(!stand.containerd.list("default", "tasks")?.is_empty());
        wait_until("listed", Duration::from_secs(30), listed)?;
        stand.containerd.kill_and_restart()?;
        let done = build.join().expect("the client's thread doesn't panic")?;
        ensure(done.took < Duration::from_secs(15), || {
            format!("took {:?}", done.took)
        })?;
        let said = run_in_image(stand, "cat /x")?;
        ensure(said == "survived\n", || said.clone())
    });
}
