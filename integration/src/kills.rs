//! Kills with SIGKILL in mid-build, at random instants, and then looks: the next build works, no finished step runs again,
//! the image is whole, and nothing is left behind. Victims are found by their arguments below the stand's directory, so
//! that nobody else's process is ever hit.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Error, Result,
    builder::{Kind, Options},
    clients::Buildctl,
    command::{Done, finish, spell, succeed},
    machine::Wanted,
    process::wait_until,
    report::say,
    stand::Stand,
    teardown::processes,
};

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Victim {
    /// The build daemon.
    Daemon,
    /// containerd.
    Containerd,
    /// The shims of builds or, on containerd 1.x, of steps.
    Shim,
    /// The builds' launchers; on containerd 1.x, where there are none, the steps themselves.
    Launcher,
}

impl Victim {
    /// Everybody.
    pub const ALL: [Self; 4] = [Self::Daemon, Self::Containerd, Self::Shim, Self::Launcher];

    fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Containerd => "containerd",
            Self::Shim => "shim",
            Self::Launcher => "launcher",
        }
    }
}

/// The image that is built.
const IMAGE: &str = "docker.io/library/killed:latest";
/// How long a client may take to notice.
const NOTICE: Duration = Duration::from_secs(40);
/// Bytes of the file in the context.
const BIG: usize = 1 << 20;

/// Kills `rounds` times each of `victims` on a stand below `dir`; `seed` chooses the instants.
pub fn kills(dir: &Path, wanted: Wanted, victims: &[Victim], rounds: u32, seed: u64) -> Result<()> {
    for victim in victims {
        let mut stand = Stand::start_in(dir, wanted, Options::new(Kind::Shipway))?;
        stand.import_busybox("default")?;
        survives(&mut stand, *victim, rounds, seed)?;
        stand.end()?;
    }
    Ok(())
}

/// Kills `victim` in `rounds` builds and checks after each; afterwards the store must become empty.
pub fn survives(stand: &mut Stand, victim: Victim, rounds: u32, seed: u64) -> Result<()> {
    let undisturbed = build(stand, "undisturbed", 0)?;
    let before = stand.census()?;
    let mut random = Random(seed | 1);
    for round in 1..=rounds {
        let span = u64::try_from(undisturbed.took.as_millis()).unwrap_or(u64::MAX) + 100;
        let instant = Duration::from_millis(random.below(span));
        let text = format!("{} {round} after {} ms", victim.name(), instant.as_millis());
        let checked = self::round(stand, victim, round, instant)
            .and_then(|told| stand.expect_no_leaks(&before).map(|()| told));
        match checked {
            Ok(told) => say(format_args!("{text}: {told}")),
            Err(e) => return Err(Error::Unexpected(format!("{text}: {}", chain(&e)))),
        }
    }
    expect_empty_store(stand)
}

fn round(stand: &mut Stand, victim: Victim, round: u32, instant: Duration) -> Result<String> {
    let name = format!("{}-{round}", victim.name());
    let mut client = Client::start(&mut command(stand, &name, round)?)?;
    std::thread::sleep(instant);
    kill(stand, victim)?;
    let (ended_well, told) = client.end()?;
    let again = build(stand, &name, round)?;
    let done = finished(&told);
    let cached = with_state(&again.stderr, "CACHED");
    let lost: Vec<_> = done.difference(&cached).collect();
    if !lost.is_empty() {
        let text = format!(
            "ran again: {lost:?}\nfirst:\n{told}\nsecond:\n{}",
            again.stderr
        );
        return Err(Error::Unexpected(text));
    }
    check_image(stand, round)?;
    let outcome = if ended_well { "finished" } else { "failed" };
    Ok(format!("build {outcome}, {} steps cached", cached.len()))
}

fn dockerfile(round: u32) -> String {
    format!(
        "FROM busybox:local\nRUN echo finished >/finished\nRUN sleep 0.2; echo {round} >/n\n\
         RUN sleep 0.2; cp /n /m\nCOPY big /big\nRUN sleep 0.1; rm /n\n"
    )
}

fn command(stand: &Stand, name: &str, round: u32) -> Result<Command> {
    let big = "x".repeat(BIG);
    let files = [("Dockerfile", dockerfile(round)), ("big", big)];
    let files = files.each_ref().map(|(path, text)| (*path, text.as_str()));
    let context = stand.context(name, &files)?;
    let mut command = stand.buildctl_build(Buildctl::Shipway, &context)?;
    command.args(["--output", &format!("type=image,name={IMAGE},unpack=true")]);
    Ok(command)
}

fn build(stand: &Stand, name: &str, round: u32) -> Result<Done> {
    succeed(&mut command(stand, name, round)?)
}

fn check_image(stand: &Stand, round: u32) -> Result<()> {
    let mut ctr = stand.containerd.ctr("default");
    let id = format!("look-{round}");
    ctr.args(["run", "--rm", "--snapshotter"])
        .arg(&stand.builder.options.snapshotter)
        .args([
            IMAGE,
            &id,
            "sh",
            "-c",
            "cat /finished /m; wc -c </big; ls /n",
        ]);
    let said = finish(&mut ctr)?.stdout;
    if said == format!("finished\n{round}\n{BIG}\n") {
        return Ok(());
    }
    Err(Error::Unexpected(format!("half an image: {said:?}")))
}

/// Without images and cache nothing may be left in the layer store: what is there then belongs to nobody.
fn expect_empty_store(stand: &Stand) -> Result<()> {
    let namespace = "default";
    for image in stand.containerd.list(namespace, "images")? {
        stand
            .containerd
            .run_ctr(namespace, &["images", "rm", "--sync", &image])?;
    }
    let mut prune = stand
        .clients
        .buildctl(Buildctl::Shipway, &stand.builder.address())?;
    succeed(prune.args(["prune", "--all"]))?;
    let layers = stand.builder.root.join("layers/layers");
    let left = || entries(&layers);
    let empty = wait_until("empty", Duration::from_secs(30), || Ok(left().is_empty()));
    empty.map_err(|_| Error::Unexpected(format!("layers that nobody needs: {:?}", left())))
}

fn entries(dir: &Path) -> Vec<String> {
    let listed = std::fs::read_dir(dir).into_iter().flatten().flatten();
    listed
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Kills, and brings back what does not come back by itself.
fn kill(stand: &mut Stand, victim: Victim) -> Result<()> {
    match victim {
        Victim::Daemon => {
            stand.builder.kill()?;
            stand.builder.restart()
        }
        Victim::Containerd => stand.containerd.kill_and_restart(),
        Victim::Shim => kill_where(&shims(stand)),
        Victim::Launcher if stand.containerd.binary.major >= 2 => kill_where(&launchers(stand)),
        Victim::Launcher => kill_where(&children(&shims(stand))),
    }
}

fn kill_where(pids: &[Pid]) -> Result<()> {
    for pid in pids {
        match kill_process(*pid, Signal::KILL) {
            // One that has just ended by itself is as good as killed.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(Error::Unexpected(format!("killing {pid:?}: {e}"))),
        }
    }
    Ok(())
}

/// The shims of this stand's containerd.
#[must_use]
pub fn shims(stand: &Stand) -> Vec<Pid> {
    let socket = stand.containerd.address.display().to_string();
    let ours = |words: &[String]| {
        let first = words.first();
        first.is_some_and(|word| word.contains("containerd-shim"))
            && words.iter().any(|word| word.starts_with(&socket))
    };
    let found = processes().into_iter().filter(|(_, words)| ours(words));
    found.map(|(pid, _)| pid).collect()
}

/// The launchers of this stand's builds: they are told their bundle's directory.
fn launchers(stand: &Stand) -> Vec<Pid> {
    let below = stand.dir.join("containerd").display().to_string();
    let ours = |words: &[String]| {
        words.get(1).is_some_and(|word| word == "launcher")
            && words.get(2).is_some_and(|word| word.starts_with(&below))
    };
    let found = processes().into_iter().filter(|(_, words)| ours(words));
    found.map(|(pid, _)| pid).collect()
}

fn children(parents: &[Pid]) -> Vec<Pid> {
    let parent = |pid: Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        let after = stat.rsplit(')').next()?;
        after.split_whitespace().nth(1)?.parse().ok()
    };
    let all = processes().into_iter().map(|(pid, _)| pid);
    let of_ours = |pid: &Pid| {
        parent(*pid)
            .and_then(Pid::from_raw)
            .is_some_and(|parent| parents.contains(&parent))
    };
    all.filter(of_ours).collect()
}

/// A client whose builder is about to suffer.
struct Client(Child, String);

impl Client {
    fn start(command: &mut Command) -> Result<Self> {
        let text = spell(command);
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = command.spawn().map_err(|source| Error::Start {
            command: text.clone(),
            source,
        })?;
        Ok(Self(child, text))
    }

    /// Waits for its end, which must come by itself; gives whether it was a good one, and what it wrote.
    fn end(&mut self) -> Result<(bool, String)> {
        let mut stderr = self.0.stderr.take().expect("standard error is a pipe");
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            let read = stderr.read_to_end(&mut text);
            read.map(|_| String::from_utf8_lossy(&text).into_owned())
        });
        let began = Instant::now();
        let status = loop {
            let ended = self.0.try_wait().map_err(|e| self.lost(&e))?;
            if let Some(status) = ended {
                break status;
            }
            if began.elapsed() > NOTICE {
                self.0.kill().map_err(|e| self.lost(&e))?;
                self.0.wait().map_err(|e| self.lost(&e))?;
                return Err(Error::Late {
                    what: format!("{} did not end", self.1),
                    seconds: NOTICE.as_secs(),
                    log: None,
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let told = reader.join().expect("the reader does not panic");
        Ok((status.success(), told.map_err(|e| self.lost(&e))?))
    }

    fn lost(&self, error: &std::io::Error) -> Error {
        Error::Unexpected(format!("waiting for {}: {error}", self.1))
    }
}

/// Steps that a client was told are done.
fn finished(told: &str) -> BTreeSet<String> {
    let mut all = with_state(told, "DONE");
    all.extend(with_state(told, "CACHED"));
    all
}

/// Names of the RUN and COPY steps whose number is followed by `state` in a plain progress.
fn with_state(told: &str, state: &str) -> BTreeSet<String> {
    let mut names = BTreeMap::new();
    let mut found = BTreeSet::new();
    for line in told.lines() {
        let Some((number, rest)) = line.strip_prefix('#').and_then(|l| l.split_once(' ')) else {
            continue;
        };
        let step = rest.starts_with('[') && (rest.contains("] RUN ") || rest.contains("] COPY "));
        if step {
            names.insert(number, rest);
        } else if rest.split(' ').next() == Some(state)
            && let Some(name) = names.get(number)
        {
            found.insert((*name).to_owned());
        }
    }
    found
}

/// Marsaglia's xorshift: the same instants for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}\n  because: {next}");
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_steps_are_read_from_a_plain_progress() {
        let told = "#1 [internal] load build context\n#1 DONE 0.0s\n\n#4 [2/5] RUN echo a\n#4 CACHED\n\
            #5 [3/5] RUN echo b\n#5 0.1 words\n#5 DONE 0.2s\n#6 [4/5] COPY big /big\n#6 ERROR: x\n";
        let names = |found: BTreeSet<String>| found.into_iter().collect::<Vec<_>>();
        assert_eq!(
            names(finished(told)),
            ["[2/5] RUN echo a", "[3/5] RUN echo b"]
        );
        assert_eq!(names(with_state(told, "CACHED")), ["[2/5] RUN echo a"]);
    }
}
