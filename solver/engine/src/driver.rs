//! The one task that owns the machine: hands it what happened, does what it says. It decides no scheduling.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;

use futures::FutureExt as _;
use shipway_cache::KeyStore;
use shipway_model::Failure;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::TaskId;
use crate::engine::{Command, Config};
use crate::job::{JobKey, JobShared};
use crate::machine::{Action, Event, Machine, Save, Ticket, WaiterId};
use crate::tasks::{execute, guard, key, load, map, save};
use crate::{EngineError, OpContext, Results};

/// Events that are handed on together at most, so that commands need not wait long.
const AT_A_TIME: usize = 1024;

type Answers<V> = HashMap<WaiterId, oneshot::Sender<Result<V, EngineError>>>;

pub(crate) struct Driver<V: Clone + Send + Sync + 'static> {
    machine: Machine<V>,
    store: KeyStore,
    results: Arc<dyn Results<V>>,
    config: Config,
    slots: Arc<Semaphore>,
    tasks: JoinSet<(Work, Event<V>)>,
    running: HashMap<TaskId, Running>,
    saving: HashMap<u64, Vec<JobKey>>,
    next_save: u64,
    jobs: HashMap<JobKey, Arc<JobShared>>,
    answers: Answers<V>,
    waiting: Vec<(Awaits, Option<oneshot::Sender<()>>)>,
    /// Jobs that go as soon as what they have made is recorded.
    leaving: HashSet<JobKey>,
    /// Answers of tasks that ended at once.
    early: Vec<Event<V>>,
    ending: bool,
}

/// A piece of work, for the driver's books.
#[derive(Clone, Copy)]
enum Work {
    Task(TaskId),
    Save(u64),
}

/// Whether a task may end before it is spawned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    AtOnce,
    Spawned,
}

struct Running {
    cancelled: CancellationToken,
    jobs: Vec<JobKey>,
}

/// What somebody waits for.
enum Awaits {
    Records(JobKey),
    End(JobKey),
}

impl<V: Clone + Send + Sync + 'static> Driver<V> {
    pub(crate) fn new(store: KeyStore, results: Arc<dyn Results<V>>, config: Config) -> Self {
        Self {
            machine: Machine::new(Arc::new(store.clone()), config.clock),
            store,
            results,
            config,
            slots: Arc::new(Semaphore::new(config.max_parallelism.max(1))),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            saving: HashMap::new(),
            next_save: 0,
            jobs: HashMap::new(),
            answers: HashMap::new(),
            waiting: Vec::new(),
            leaving: HashSet::new(),
            early: Vec::new(),
            ending: false,
        }
    }

    /// Runs until it is told to shut down or all handles are gone, and all work has ended.
    pub(crate) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command<V>>) {
        loop {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(first) => self.ended(first),
                    Err(error) => tracing::error!(%error, "a task of the engine was lost"),
                },
                command = commands.recv(), if !self.ending => match command {
                    Some(command) => self.command(command),
                    None => self.shut_down(),
                },
                else => break,
            }
            if self.ending {
                commands.close();
            }
        }
    }

    fn command(&mut self, command: Command<V>) {
        match command {
            Command::Open { job } => {
                self.jobs.insert(job.key, Arc::clone(&job));
                self.happened(Event::Open(job));
            }
            Command::Build {
                owner,
                waiter,
                graph,
                target,
                reply,
            } => {
                self.answers.insert(waiter, reply);
                self.happened(Event::Build {
                    owner,
                    waiter,
                    graph,
                    target,
                });
            }
            Command::Withdraw { waiter } => {
                if self.answers.remove(&waiter).is_some() {
                    self.happened(Event::Withdraw(waiter));
                }
            }
            Command::Import { job, source } => self.happened(Event::Import(job, source)),
            Command::Cancel { job, cause } => self.cancel(job, cause),
            Command::Retire { job } => self.happened(Event::Retire(job)),
            Command::Recorded { job, reply } => {
                self.waiting.push((Awaits::Records(job), Some(reply)));
                self.wake();
            }
            Command::Export {
                job,
                digest,
                output,
                all,
                reply,
            } => {
                let mut exported = self.machine.export(job, digest, output);
                if all {
                    shipway_cache::export::add_other_ways(&self.store, &mut exported);
                    for source in self.machine.sources_of(job) {
                        shipway_cache::export::add_other_ways(source.index(), &mut exported);
                    }
                }
                // Nobody may be waiting any more.
                reply.send(exported).unwrap_or_default();
            }
            Command::Operations { job, reply } => {
                reply.send(self.machine.operations(job)).unwrap_or_default();
            }
            Command::Discard { job, reply } => self.discard(job, reply),
            Command::Shutdown => self.shut_down(),
        }
    }

    fn cancel(&mut self, job: JobKey, cause: Failure) {
        self.happened(Event::Cancel(job, cause));
        if let Some(shared) = self.jobs.get(&job) {
            shared.view.close((self.config.clock)());
        }
    }

    /// Ends a job: what it wants is cancelled now; its vertices go once what they have made is recorded.
    fn discard(&mut self, job: JobKey, reply: Option<oneshot::Sender<()>>) {
        self.happened(Event::Cancel(job, Failure::cancelled()));
        self.leaving.insert(job);
        self.waiting.push((Awaits::End(job), reply));
        self.wake();
    }

    fn shut_down(&mut self) {
        self.ending = true;
        for job in self.machine.open_jobs() {
            self.discard(job, None);
        }
    }

    fn ended(&mut self, first: (Work, Event<V>)) {
        let mut events = Vec::new();
        let mut next = Some(first);
        while let Some((work, event)) = next {
            match work {
                Work::Task(task) => drop(self.running.remove(&task)),
                Work::Save(save) => drop(self.saving.remove(&save)),
            }
            events.push(event);
            if events.len() == AT_A_TIME {
                break;
            }
            next = self.tasks.try_join_next().and_then(Result::ok);
        }
        self.all_happened(events);
        self.wake();
    }

    /// Lets jobs go, and answers those who wait for work to end, as far as it has ended.
    fn wake(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let saving: HashSet<JobKey> = self.saving.values().flatten().copied().collect();
        for job in self
            .leaving
            .extract_if(|job| !saving.contains(job))
            .collect::<Vec<_>>()
        {
            self.happened(Event::Discard(job));
        }
        let stopping = self.running.values().filter(|r| r.cancelled.is_cancelled());
        let stopping: HashSet<JobKey> = stopping.flat_map(|r| r.jobs.iter().copied()).collect();
        let over = |(awaits, _): &mut (Awaits, Option<_>)| match awaits {
            Awaits::Records(job) => !saving.contains(job),
            Awaits::End(job) => !saving.contains(job) && !stopping.contains(job),
        };
        for (awaits, reply) in self.waiting.extract_if(.., over).collect::<Vec<_>>() {
            if let Awaits::End(job) = awaits
                && let Some(shared) = self.jobs.remove(&job)
            {
                shared.view.close((self.config.clock)());
            }
            if let Some(reply) = reply {
                // Nobody may be waiting any more.
                reply.send(()).unwrap_or_default();
            }
        }
    }

    fn happened(&mut self, event: Event<V>) {
        self.all_happened(vec![event]);
    }

    fn all_happened(&mut self, mut events: Vec<Event<V>>) {
        while !events.is_empty() {
            for action in self.machine.on_events(events) {
                self.act(action);
            }
            events = std::mem::take(&mut self.early);
        }
    }

    fn act(&mut self, action: Action<V>) {
        match action {
            Action::Map { ticket, op, source } => self.start(
                ticket,
                // A source asks somebody; other vertices mostly know their key at once, and there are many.
                if source {
                    Begin::Spawned
                } else {
                    Begin::AtOnce
                },
                |task, lost| Event::Mapped(task, Err(lost)),
                |ctx| map(ctx, op, source),
            ),
            Action::Key {
                ticket,
                map,
                input,
                value,
                of,
            } => self.start(
                ticket,
                Begin::Spawned,
                |task, lost| Event::Keyed(task, Err(lost)),
                |ctx| key(ctx, map, input, value, of),
            ),
            Action::Load {
                ticket,
                record,
                from,
            } => {
                let results = Arc::clone(&self.results);
                self.start(
                    ticket,
                    Begin::Spawned,
                    |task, lost| Event::Loaded(task, Err(lost)),
                    |ctx| load(ctx, results, record, from),
                );
            }
            Action::Execute { ticket, op, inputs } => {
                let slots = Arc::clone(&self.slots);
                self.start(
                    ticket,
                    Begin::Spawned,
                    |task, lost| Event::Executed(task, Err(lost)),
                    |ctx| execute(ctx, op, inputs, slots),
                );
            }
            Action::Save(work) => self.save(work),
            Action::Complete(progress) => progress.completed(""),
            Action::Stop(task, jobs) => self.stop(task, jobs),
            Action::Answer(waiter, outcome) => {
                if let Some(reply) = self.answers.remove(&waiter) {
                    // Whoever asked may be gone.
                    drop(reply.send(outcome));
                }
            }
            Action::Note(update) => self.store.note(&update),
            Action::Forget(result) => self.store.release(&result).unawaited(),
            Action::Touch(result) => self.store.touch(&result, (self.config.clock)()),
        }
    }

    fn stop(&mut self, task: TaskId, jobs: Vec<JobKey>) {
        if let Some(running) = self.running.get_mut(&task) {
            running.jobs.extend(jobs);
            running.cancelled.cancel();
        }
    }

    /// Starts a task; `lost` is what it comes to where it panics outside of the operation's code.
    fn start<F>(
        &mut self,
        ticket: Ticket,
        begin: Begin,
        lost: fn(TaskId, Failure) -> Event<V>,
        work: impl FnOnce(OpContext) -> F,
    ) where
        F: Future<Output = Event<V>> + Send + 'static,
    {
        let (task, jobs) = (ticket.task, ticket.jobs);
        let cancelled = CancellationToken::new();
        let work = work(OpContext {
            task,
            progress: ticket.progress,
            cancelled: cancelled.clone(),
        });
        let mut work = Box::pin(async move {
            let event = guard(async { Ok(work.await) }).await;
            (
                Work::Task(task),
                event.unwrap_or_else(|error| lost(task, error)),
            )
        });
        if begin == Begin::AtOnce
            && let Some((_, event)) = work.as_mut().now_or_never()
        {
            self.early.push(event);
            return;
        }
        self.running.insert(task, Running { cancelled, jobs });
        self.tasks.spawn(work);
    }

    fn save(&mut self, work: Save<V>) {
        let number = self.next_save;
        self.next_save += 1;
        self.saving.insert(number, work.jobs.clone());
        let saved = save(work, Arc::clone(&self.results), self.store.clone());
        self.tasks
            .spawn(async move { (Work::Save(number), saved.await) });
    }
}
