//! Runs the `git` command, cut off from the machine's and every user's configuration, and from terminals. It decides what
//! git may see and how a run is cancelled; which commands run is the caller's business.

use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use shipway_model::Failure;
use tokio::process::Command;

use super::is_commit;

/// Gives git the umask that file modes are made with; the daemon's own may be another.
const WITH_UMASK: &str = "umask 022; exec git \"$@\"";

/// Variables that are handed on.
const KEPT: [&str; 9] = [
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];

/// How git is run.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_field_names, reason = "git's own names")]
pub(super) struct Git {
    /// Repository.
    pub(super) git_dir: Option<PathBuf>,
    /// Where files go.
    pub(super) work_tree: Option<PathBuf>,
    /// Configuration that must not be seen in a process list: name and value.
    pub(super) secret_config: Option<(String, String)>,
    /// Socket of an ssh agent.
    pub(super) agent: Option<PathBuf>,
    /// Known hosts of ssh.
    pub(super) known_hosts: Option<PathBuf>,
    /// Print advice.
    pub(super) advice: bool,
}

/// Ends a process and all that it started, unless it has ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0
            && let Err(error) = kill_process_group(pid, Signal::TERM)
        {
            tracing::debug!(%error, "ending git");
        }
    }
}

impl Git {
    /// The same on a repository.
    pub(super) fn on(&self, git_dir: impl Into<PathBuf>) -> Self {
        Self {
            git_dir: Some(git_dir.into()),
            ..self.clone()
        }
    }

    /// The same with a work tree.
    pub(super) fn to(&self, work_tree: impl Into<PathBuf>) -> Self {
        Self {
            work_tree: Some(work_tree.into()),
            ..self.clone()
        }
    }

    /// Runs a command to its end; gives what it printed. Servers that cannot serve a part are asked for more.
    pub(super) async fn run(&self, args: &[&str]) -> Result<String, Failure> {
        self.told(args).await.map(|(output, _)| output)
    }

    /// The same, with what it told people on its standard error.
    pub(super) async fn told(&self, args: &[&str]) -> Result<(String, String), Failure> {
        let mut args = args.to_vec();
        loop {
            let (output, stderr, status) = self.once(&args).await?;
            if status == 0 {
                return Ok((output, stderr));
            }
            if !less(&mut args, &stderr) {
                return Err(Failure::new(format!(
                    "git stderr:\n{stderr}: exit status {status}"
                )));
            }
        }
    }

    async fn once(&self, args: &[&str]) -> Result<(String, String, i32), Failure> {
        let failed = |e: std::io::Error| Failure::from_error(&e).context("running git");
        let mut command = self.command(args);
        let child = command.spawn().map_err(failed)?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let mut group = Group(pid);
        let output = child.wait_with_output().await.map_err(failed)?;
        group.0 = None;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((
            text(output.stdout),
            text(output.stderr),
            output.status.code().unwrap_or(-1),
        ))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WITH_UMASK, "git"]);
        // A repository must not take submodules from this machine's files.
        command.args(["-c", "protocol.file.allow=user"]);
        if !self.advice {
            command.args(["-c", "advice.detachedHead=false"]);
        }
        if let Some(tree) = &self.work_tree {
            command.arg("--work-tree").arg(tree).current_dir(tree);
        } else {
            command.current_dir("/");
        }
        if let Some(dir) = &self.git_dir {
            command.arg("--git-dir").arg(dir);
        }
        command.args(args);
        self.environment(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }

    fn environment(&self, command: &mut Command) {
        command.env_clear();
        for name in KEPT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("HOME", "/dev/null")
            .env("LC_ALL", "C")
            .env("GIT_ADVICE", if self.advice { "1" } else { "0" })
            .env("GIT_SSH_COMMAND", self.ssh());
        if let Some((name, value)) = &self.secret_config {
            command
                .env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", name)
                .env("GIT_CONFIG_VALUE_0", value);
        }
        if let Some(agent) = &self.agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
    }

    fn ssh(&self) -> String {
        match &self.known_hosts {
            Some(hosts) => format!(
                "ssh -F /dev/null -o 'UserKnownHostsFile={}'",
                hosts.display()
            ),
            // As BuildKit: a client that names no hosts trusts all.
            None => "ssh -F /dev/null -o StrictHostKeyChecking=no".into(),
        }
    }
}

/// Asks for less help of the server, if that is what a command failed for; `false` where nothing is left to change.
fn less(args: &mut Vec<&str>, stderr: &str) -> bool {
    if stderr.contains("--depth") || stderr.contains("shallow") {
        let before = args.len();
        args.retain(|arg| *arg != "--depth=1");
        if args.len() < before {
            return true;
        }
    }
    let refused = stderr.contains("not our ref") || stderr.contains("unadvertised object");
    // Without the commit all branches are fetched, which may bring it along.
    if refused && args.len() > 2 && args[0] == "fetch" && args.last().is_some_and(|a| is_commit(a))
    {
        args.pop();
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_is_asked_for_more() {
        let commit = "a".repeat(40);
        let mut args = vec!["fetch", "--depth=1", "origin", commit.as_str()];
        assert!(less(
            &mut args,
            "dumb http transport does not support shallow capabilities"
        ));
        assert_eq!(args, ["fetch", "origin", commit.as_str()]);
        assert!(!less(
            &mut args,
            "dumb http transport does not support shallow capabilities"
        ));
        assert!(less(
            &mut args,
            "fatal: remote error: upload-pack: not our ref"
        ));
        assert_eq!(args, ["fetch", "origin"]);
        assert!(!less(&mut args, "not our ref"));
    }

    #[tokio::test]
    async fn a_failure_says_what_git_said() {
        let failure = Git::default().run(&["no-such-command"]).await.unwrap_err();
        assert!(failure.message.starts_with("git stderr:\n"), "{failure:?}");
        assert!(failure.message.ends_with("exit status 1"), "{failure:?}");
    }
}
