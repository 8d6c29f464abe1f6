//! Rules of [`Executor`](crate::Executor), [`Sandbox`](crate::Sandbox) and [`Process`](crate::Process).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oci_spec::runtime::{
    LinuxBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, MountBuilder, ProcessBuilder, Spec,
    SpecBuilder,
};
use shipway_step::{LayerStack, MountStubs, StepSpec};
use tokio::sync::mpsc;

use crate::{BuildTask, Executor, Exit, Process, Sandbox, StepIo};

/// A shell command that the suite runs. A fake need not know any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `out` to standard output, `err` to standard error, exit code 3.
    Speak,
    /// Standard input to standard output, until its end.
    Copy,
    /// A mebibyte of zeroes to standard output.
    Flood,
    /// Runs for longer than any test, with a child that does too.
    Sleep,
    /// A program that does not exist.
    Missing,
}

impl Program {
    const ALL: [Self; 5] = [
        Self::Speak,
        Self::Copy,
        Self::Flood,
        Self::Sleep,
        Self::Missing,
    ];

    /// The arguments of its process.
    #[must_use]
    pub fn args(self) -> Vec<String> {
        let shell = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        match self {
            Self::Speak => shell("echo out; echo err >&2; exit 3"),
            Self::Copy => shell("cat"),
            Self::Flood => shell("head -c 1048576 /dev/zero"),
            Self::Sleep => shell("sleep 1000 & sleep 1000"),
            Self::Missing => vec!["/no/such/program".to_owned()],
        }
    }

    /// The program that a step runs, where it is one of these.
    #[must_use]
    pub fn of(step: &StepSpec) -> Option<Self> {
        let args = step.spec.process().as_ref()?.args().as_ref()?;
        Self::ALL
            .into_iter()
            .find(|program| program.args() == *args)
    }

    /// A step that runs it in this root.
    #[must_use]
    pub fn step(self, root: LayerStack) -> StepSpec {
        StepSpec {
            spec: spec(self.args()),
            root,
            mounts: Vec::new(),
            user: None,
            create_cwd: false,
            stubs: MountStubs::default(),
            result: None,
        }
    }
}

fn spec(args: Vec<String>) -> Spec {
    let process = ProcessBuilder::default()
        .args(args)
        .env(vec!["PATH=/bin:/usr/bin".to_owned()])
        .cwd("/")
        .build();
    let namespace = |kind| LinuxNamespaceBuilder::default().typ(kind).build().unwrap();
    let namespaces = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
    ];
    let linux = LinuxBuilder::default().namespaces(namespaces.map(namespace).to_vec());
    let mount = |kind: &str, to: &str| {
        let mount = MountBuilder::default()
            .destination(to)
            .typ(kind)
            .source(kind);
        mount.build().unwrap()
    };
    SpecBuilder::default()
        .process(process.unwrap())
        .linux(linux.build().unwrap())
        .mounts(vec![mount("proc", "/proc"), mount("tmpfs", "/dev")])
        .build()
        .unwrap()
}

/// A root for a step, with a shell in it; a new one each time.
pub type MakeRoot<'a> = dyn Fn() -> LayerStack + Sync + 'a;

/// Every rule.
pub async fn all(executor: &dyn Executor, root: &MakeRoot<'_>) {
    executor.clean_up().await.unwrap();
    let task = BuildTask {
        id: "suite-1".into(),
        labels: [("suite".to_owned(), "1".to_owned())].into(),
        cgroup_parent: String::new(),
    };
    let sandbox = executor.open(task).await.unwrap();
    let rules = Rules { sandbox, root };
    rules.output_and_exit_code_are_told_to_every_waiter().await;
    rules.input_ends_when_its_sender_is_dropped().await;
    rules.a_consumer_that_leaves_does_not_stop_a_step().await;
    rules.steps_run_side_by_side().await;
    rules.a_killed_step_ends_at_once().await;
    rules.a_dropped_step_is_killed().await;
    rules.a_program_that_is_missing_is_named().await;
    rules.closing_ends_what_runs_and_may_be_repeated().await;
    executor.clean_up().await.unwrap();
}

struct Rules<'a> {
    sandbox: Arc<dyn Sandbox>,
    root: &'a MakeRoot<'a>,
}

type Running = Box<dyn Process>;

impl Rules<'_> {
    async fn start(&self, id: &str, program: Program, io: StepIo) -> Running {
        let step = program.step((self.root)());
        self.sandbox.start(id, step, io).await.unwrap()
    }

    async fn output_and_exit_code_are_told_to_every_waiter(&self) {
        let (io, stdout, stderr) = streams();
        let step = self.start("speak", Program::Speak, io).await;
        let (out, err, exit) = tokio::join!(all_of(stdout), all_of(stderr), step.wait());
        assert_eq!(
            (out.as_slice(), err.as_slice()),
            (&b"out\n"[..], &b"err\n"[..])
        );
        assert_eq!(exit.unwrap().code, 3);
        let again = step.wait().await.unwrap();
        assert_eq!(again.code, 3);
        assert!(!again.out_of_memory);
        // Nothing is left to be killed.
        step.kill().await.unwrap();
    }

    async fn input_ends_when_its_sender_is_dropped(&self) {
        let (mut io, stdout, _stderr) = streams();
        let (input, data) = mpsc::channel(1);
        io.stdin = Some(data);
        let step = self.start("copy", Program::Copy, io).await;
        let feed = async {
            for _ in 0..100 {
                input.send(Bytes::from(vec![b'x'; 10_000])).await.unwrap();
            }
            drop(input);
        };
        let (out, (), exit) = tokio::join!(all_of(stdout), feed, step.wait());
        assert_eq!(out.len(), 1_000_000);
        assert_eq!(exit.unwrap().code, 0);
    }

    async fn a_consumer_that_leaves_does_not_stop_a_step(&self) {
        let (io, stdout, stderr) = streams();
        drop((stdout, stderr));
        let step = self.start("flood", Program::Flood, io).await;
        assert_eq!(step.wait().await.unwrap().code, 0);
    }

    async fn steps_run_side_by_side(&self) {
        let steps = (0..8).map(|n| async move {
            let io = StepIo::default();
            let step = self.start(&format!("side-{n}"), Program::Speak, io).await;
            step.wait().await.unwrap()
        });
        for exit in futures::future::join_all(steps).await {
            assert_eq!(exit.code, 3);
        }
    }

    async fn a_killed_step_ends_at_once(&self) {
        let step = self
            .start("killed", Program::Sleep, StepIo::default())
            .await;
        let began = Instant::now();
        step.kill().await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(2));
        assert_eq!(step.wait().await.unwrap().code, 137);
        let step = self
            .start("signalled", Program::Sleep, StepIo::default())
            .await;
        step.signal(9).await.unwrap();
        assert_eq!(step.wait().await.unwrap().code, 137);
    }

    async fn a_dropped_step_is_killed(&self) {
        let (io, stdout, _stderr) = streams();
        drop(self.start("dropped", Program::Sleep, io).await);
        let ended = tokio::time::timeout(Duration::from_secs(5), all_of(stdout));
        assert_eq!(ended.await.expect("its output ends"), b"");
    }

    async fn a_program_that_is_missing_is_named(&self) {
        let step = Program::Missing.step((self.root)());
        let started = self.sandbox.start("missing", step, StepIo::default()).await;
        let error = match started {
            Ok(step) => step.wait().await.unwrap_err(),
            Err(error) => error,
        };
        let cause = error.cause.as_ref().unwrap().to_string();
        assert!(cause.contains("/no/such/program"), "{cause}");
    }

    async fn closing_ends_what_runs_and_may_be_repeated(&self) {
        let step = self.start("last", Program::Sleep, StepIo::default()).await;
        self.sandbox.close().await.unwrap();
        self.sandbox.close().await.unwrap();
        match step.wait().await {
            Ok(Exit { code, .. }) => assert_eq!(code, 137),
            Err(error) => assert!(error.to_string().contains("last"), "{error}"),
        }
        let late = Program::Speak.step((self.root)());
        let late = self.sandbox.start("late", late, StepIo::default()).await;
        assert!(late.is_err());
    }
}

fn streams() -> (StepIo, mpsc::Receiver<Bytes>, mpsc::Receiver<Bytes>) {
    let (stdout, out) = mpsc::channel(4);
    let (stderr, err) = mpsc::channel(4);
    let io = StepIo {
        stdin: None,
        stdout: Some(stdout),
        stderr: Some(stderr),
    };
    (io, out, err)
}

async fn all_of(mut receiver: mpsc::Receiver<Bytes>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = receiver.recv().await {
        all.extend_from_slice(&chunk);
    }
    all
}
