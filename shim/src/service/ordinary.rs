//! The shim's side of an ordinary container: each operation is a helper process. It never calls libcontainer itself.

use std::path::PathBuf;
use std::sync::Arc;

use super::console::ConsoleSocket;
use super::container::{Container, Launch, Recipe};
use super::helper::{Operation, Request, RootMount, perform};
use super::logger::Subject;
use super::reaper::Reaper;
use super::stdio::{Opened, Stdio};
use crate::task::Key;

/// An ordinary container.
#[derive(Debug, Clone)]
pub(crate) struct Ordinary {
    id: String,
    bundle: PathBuf,
    reaper: Reaper,
}

/// What came of starting a process: its pid, and what has to be kept or served for it.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) pid: u32,
    pub(crate) opened: Opened,
    pub(crate) terminal: Option<std::os::fd::OwnedFd>,
}

impl Ordinary {
    pub(crate) fn new(id: String, bundle: PathBuf, reaper: Reaper) -> Self {
        Self { id, bundle, reaper }
    }

    /// Creates the container; its first process waits for the start.
    pub(crate) async fn create(
        &self,
        subject: &Subject,
        stdio: &Stdio,
        rootfs: Vec<RootMount>,
        systemd: bool,
    ) -> Result<Created, String> {
        let operation = |console| Operation::Create {
            rootfs,
            console,
            systemd,
        };
        self.process(subject, stdio, operation).await
    }

    /// Lets the first process go.
    pub(crate) async fn start(&self) -> Result<(), String> {
        self.perform(Operation::Start).await.map(drop)
    }

    /// Starts an exec, and follows it to its end.
    pub(crate) async fn exec(
        &self,
        container: &Arc<Container>,
        key: &Key,
        launch: &Launch,
    ) -> Result<u32, String> {
        let Recipe::Process(json) = &launch.recipe else {
            return Err("a build step needs a build container".to_owned());
        };
        let process = self.bundle.join(format!("exec-{}.json", key.exec_id()));
        std::fs::write(&process, json)
            .map_err(|error| format!("writing {}: {error}", process.display()))?;
        let operation = |console| Operation::Exec {
            process: process.clone(),
            console,
        };
        let created = self
            .process(&container.subject(), &launch.stdio, operation)
            .await;
        drop(std::fs::remove_file(&process));
        let created = created?;
        container.keep_input(key, created.opened.input);
        container.started(key, created.pid, created.terminal);
        self.follow(container, key, created.pid);
        Ok(created.pid)
    }

    /// Tells the container when a process has ended.
    pub(crate) fn follow(&self, container: &Arc<Container>, key: &Key, pid: u32) {
        let (container, key, reaper) = (Arc::clone(container), key.clone(), self.reaper.clone());
        tokio::spawn(async move {
            let ended = reaper.end_of(pid.cast_signed()).await;
            match key {
                Key::Init => container.init_exited(ended.code),
                Key::Exec(_) => container.exited(&key, ended.code),
            }
        });
    }

    /// Kills what is left and removes all traces.
    pub(crate) async fn delete(&self) -> Result<(), String> {
        self.perform(Operation::Delete).await.map(drop)
    }

    async fn perform(&self, operation: Operation) -> Result<u32, String> {
        perform(&self.request(operation), [None, None, None], &self.reaper).await
    }

    async fn process(
        &self,
        subject: &Subject,
        stdio: &Stdio,
        operation: impl FnOnce(Option<PathBuf>) -> Operation,
    ) -> Result<Created, String> {
        if !stdio.terminal {
            let mut opened = stdio
                .open(subject)
                .map_err(|error| format!("opening the streams: {error}"))?;
            let streams = std::mem::take(&mut opened.streams);
            let pid = perform(&self.request(operation(None)), streams, &self.reaper).await?;
            return Ok(Created {
                pid,
                opened,
                terminal: None,
            });
        }
        let socket =
            ConsoleSocket::bind().map_err(|error| format!("making a console socket: {error}"))?;
        let request = self.request(operation(Some(socket.path())));
        let started = perform(&request, [None, None, None], &self.reaper);
        let (pid, master) = tokio::join!(started, async {
            // Without a process there will be no master; the longest start takes far less.
            tokio::time::timeout(std::time::Duration::from_secs(20), socket.master()).await
        });
        let pid = pid?;
        let master = master.map_err(|_| "no terminal came".to_owned())?;
        let master = master.map_err(|error| format!("receiving the terminal: {error}"))?;
        Ok(Created {
            pid,
            opened: Opened::default(),
            terminal: Some(master),
        })
    }

    fn request(&self, operation: Operation) -> Request {
        Request {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            operation,
        }
    }
}
