//! SIGKILL at random instants, to the daemon, containerd, a shim or a launcher: the next build works, finished steps
//! are cached, nothing stays behind. `SHIPWAY_KILLS` says how often each (default 3).

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use shipway_integration::{
    Result, command::succeed, process::wait_until, stand::Stand, teardown::processes,
};

use crate::{
    running::{Background, sleepers, start_sleeping},
    support::{build, build_image, ensure, on_stand, only_shipway, run_in_image},
};

fn times() -> u64 {
    std::env::var("SHIPWAY_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(3)
}

/// Instants between the start of a build and a second later, the same in each run.
fn instants() -> impl Iterator<Item = Duration> {
    (0..times()).map(|number| Duration::from_millis(number * 7919 % 1000))
}

const STEPS: &str = "FROM busybox:local\nRUN echo finished >/finished\n";

/// Kills with `kill` in mid-build, at each instant; the build must work afterwards, `STEPS` from the cache.
fn survives(kill: impl Fn(&mut Stand) -> Result<()>) {
    on_stand(|stand| {
        build(stand, "finished", STEPS, &[])?;
        for (number, instant) in instants().enumerate() {
            let dockerfile = format!(
                "{STEPS}RUN sleep 0.2; echo {number} >/n\nRUN sleep 0.2; cp /n /m\nCOPY big /big\n"
            );
            let big = "x".repeat(1 << 20);
            let context = stand.context(
                &format!("kill-{number}"),
                &[("Dockerfile", &dockerfile), ("big", &big)],
            )?;
            let client = Background::start(&mut build_image(stand, &context)?)?;
            std::thread::sleep(instant);
            kill(stand)?;
            drop(client);
            let again = succeed(&mut build_image(stand, &context)?)?;
            ensure(again.stderr.contains("CACHED"), || {
                format!("the finished step ran again:\n{}", again.stderr)
            })?;
            let said = run_in_image(stand, "cat /finished /m; wc -c </big")?;
            let want = format!("finished\n{number}\n{}\n", 1 << 20);
            ensure(said == want, || format!("half an image: {said:?}"))?;
        }
        Ok(())
    });
}

#[test]
fn the_daemon_killed_in_mid_build_loses_no_finished_step() {
    survives(|stand| {
        stand.builder.kill()?;
        stand.builder.restart()
    });
}

#[test]
fn containerd_killed_in_mid_build_loses_no_finished_step() {
    survives(|stand| stand.containerd.kill_and_restart());
}

/// Kills every process of this stand that `is` says.
fn kill_where(stand: &Stand, is: impl Fn(&[String]) -> bool) {
    let socket = stand.containerd.address.display().to_string();
    for (pid, words) in processes() {
        let ours = words.iter().any(|word| word.starts_with(&socket));
        if ours && is(&words) {
            kill(pid);
        }
    }
}

/// A process that has just ended by itself is as good as killed.
fn kill(pid: Pid) {
    let killed = kill_process(pid, Signal::KILL);
    assert!(
        matches!(killed, Ok(()) | Err(rustix::io::Errno::SRCH)),
        "killing {pid:?}: {killed:?}"
    );
}

#[test]
fn a_shim_killed_in_mid_build_ends_only_its_build() {
    survives(|stand| {
        kill_where(stand, |words| {
            words.iter().any(|word| word.contains("containerd-shim"))
        });
        Ok(())
    });
}

#[test]
fn a_shims_steps_die_with_it() {
    if !only_shipway() {
        return;
    }
    on_stand(|stand| {
        let client = start_sleeping(stand, "sleeping", "")?;
        kill_where(stand, |words| {
            words
                .iter()
                .any(|word| word.contains("containerd-shim-shipway"))
        });
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
