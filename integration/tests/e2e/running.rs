//! A running build is seen from outside, can be looked into, and ends with its client.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use shipway_integration::{
    Error, Result,
    builder::Options,
    command::{Done, succeed},
    process::wait_until,
    stand::Stand,
};

use crate::support::{
    build_image, ensure, kind, on_stand, on_stand_with, only_shipway, run_in_image,
};

/// A client in the background; dropping it kills it.
pub(crate) struct Background(Child);

impl Background {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().map(Self).map_err(|source| Error::Start {
            command: "a client".to_owned(),
            source,
        })
    }

    pub(crate) fn kill(&mut self) {
        self.0
            .kill()
            .expect("a child that nobody waited for can be killed");
        self.0.wait().expect("a killed child can be waited for");
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.kill();
        }
    }
}

/// A build that runs `marker` for a long time; returns once the step runs.
pub(crate) fn start_sleeping(stand: &Stand, name: &str, before: &str) -> Result<Background> {
    let dockerfile = format!("FROM busybox:local\n{before}RUN sleep 987\n");
    let context = stand.context(name, &[("Dockerfile", &dockerfile)])?;
    let client = Background::start(&mut build_image(stand, &context)?)?;
    wait_until(
        "in its step",
        Duration::from_secs(30),
        || Ok(sleepers() > 0),
    )?;
    Ok(client)
}

/// How many of our sleeping steps there are on the machine.
pub(crate) fn sleepers() -> usize {
    let all = shipway_integration::teardown::processes();
    all.iter()
        .filter(|(_, words)| words.len() == 2 && words[0] == "sleep" && words[1] == "987")
        .count()
}

fn tasks(stand: &Stand) -> Result<Vec<String>> {
    stand
        .containerd
        .list(&stand.builder.options.namespace, "tasks")
}

#[test]
fn builds_and_steps_are_seen_among_containerds_tasks() {
    on_stand(|stand| {
        let mut client = start_sleeping(stand, "sleeping", "")?;
        let running = tasks(stand)?;
        ensure(running.len() == 1, || format!("tasks: {running:?}"))?;
        let table = stand
            .containerd
            .run_ctr("default", &["tasks", "ps", &running[0]])?
            .stdout;
        ensure(table.lines().count() >= 2, || {
            format!("no process:\n{table}")
        })?;
        client.kill();
        wait_until("ended", Duration::from_secs(10), || {
            Ok(sleepers() == 0 && tasks(stand)?.is_empty())
        })
    });
}

#[test]
fn steps_run_under_runcs_shim_where_the_configuration_says_so() {
    let mut options = Options::new(kind());
    "[worker.containerd.runtime]\nname = \"io.containerd.runc.v2\"\n"
        .clone_into(&mut options.more_config);
    on_stand_with(options, |stand| {
        let mut client = start_sleeping(stand, "runc", "RUN echo x >/x\n")?;
        let table = stand
            .containerd
            .run_ctr("default", &["containers", "ls"])?
            .stdout;
        ensure(table.contains("io.containerd.runc.v2"), || table.clone())?;
        client.kill();
        wait_until("over", Duration::from_secs(10), || Ok(sleepers() == 0))
    });
}

#[test]
fn a_running_step_can_be_entered() {
    if !only_shipway() {
        return;
    }
    on_stand(|stand| {
        let client = start_sleeping(stand, "sleeping", "RUN echo inside >/mark\n")?;
        let running = tasks(stand)?;
        let words = [
            "tasks",
            "exec",
            "--exec-id",
            "look",
            &running[0],
            "cat",
            "/mark",
        ];
        let said = stand.containerd.run_ctr("default", &words)?.stdout;
        ensure(said == "inside\n", || format!("{said:?}"))?;
        drop(client);
        wait_until("ended", Duration::from_secs(10), || Ok(sleepers() == 0))
    });
}

#[test]
fn a_client_that_vanishes_takes_its_build_with_it() {
    on_stand(|stand| {
        let mut client = start_sleeping(stand, "vanishing", "")?;
        client.kill();
        wait_until("over", Duration::from_secs(10), || Ok(sleepers() == 0))
    });
}

#[test]
fn a_cancelled_build_has_ended_within_100_ms() {
    on_stand(|stand| {
        let mut fastest = Duration::MAX;
        for number in 0..5 {
            let mut client = start_sleeping(stand, &format!("cancelled-{number}"), "")?;
            let began = Instant::now();
            client.kill();
            wait_until("over", Duration::from_secs(10), || Ok(sleepers() == 0))?;
            fastest = fastest.min(began.elapsed());
        }
        // A busy machine takes its time; the best of a few says what the daemon needs.
        let limit = if stand.containerd.binary.major >= 2 && only_shipway() {
            Duration::from_millis(100)
        } else {
            Duration::from_millis(500)
        };
        ensure(fastest < limit, || format!("the fastest took {fastest:?}"))
    });
}

/// Runs `second` to its end, while the client `first` leaves after a while.
pub(crate) fn beside(
    mut first: Background,
    leaving: Duration,
    mut second: Command,
) -> Result<Done> {
    std::thread::scope(|threads| {
        let second = threads.spawn(|| succeed(&mut second));
        std::thread::sleep(leaving);
        first.kill();
        second
            .join()
            .expect("the second client's thread doesn't panic")
    })
}

#[test]
fn two_clients_of_one_step_share_it_and_one_may_leave() {
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local\nRUN sleep 3; echo x >/x\n";
        let context = stand.context("shared", &[("Dockerfile", dockerfile)])?;
        let first = Background::start(&mut build_image(stand, &context)?)?;
        let second = beside(first, Duration::from_secs(1), build_image(stand, &context)?);
        let took = second?.took;
        ensure(took < Duration::from_secs(10), || {
            format!("the step ran more than once: {took:?}")
        })
    });
}

#[test]
fn steps_of_a_build_that_was_left_go_on_in_another_one() {
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local\nRUN sleep 4; echo x >/x\nRUN cat /x >/y\nCOPY --from=busybox:local /bin/busybox /z\n\
            RUN cat /y >/both\n";
        let context = stand.context("left", &[("Dockerfile", dockerfile)])?;
        let first = Background::start(&mut build_image(stand, &context)?)?;
        wait_until("running", Duration::from_secs(30), || {
            Ok(!tasks(stand)?.is_empty())
        })?;
        let second = beside(first, Duration::from_secs(2), build_image(stand, &context)?);
        second.map(drop)?;
        let said = run_in_image(stand, "cat /both")?;
        ensure(said == "x\n", || said.clone())
    });
}
