//! A private registry: Debian's docker-registry on a port of its own, plain, with TLS, or with a password.

use std::{
    fmt::Write as _,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Error, Result, command::succeed, error::OnFile as _, machine::Machine, process::Daemon,
};

/// A running registry. Dropping it ends and removes it.
#[derive(Debug)]
pub struct Registry {
    host: String,
    dir: PathBuf,
    daemon: Option<Daemon>,
}

/// How clients must come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// HTTP, nobody is asked.
    Plain,
    /// HTTPS with a certificate of its own, `certificate()`.
    Tls,
    /// HTTP, with user `user` and password `password`.
    Password,
}

/// `user:password`, as `htpasswd -B` writes it.
const PASSWORDS: &str = "user:$2y$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu\n";

impl Registry {
    /// A plain one.
    pub fn start() -> Result<Self> {
        Self::start_with(Access::Plain)
    }

    /// One that is reached as `access` says.
    pub fn start_with(access: Access) -> Result<Self> {
        let machine = Machine::from_env()?;
        let host = free_address()?;
        let dir = std::env::temp_dir().join(format!("shipway-registry-{}", host.replace(':', "-")));
        fs::create_dir_all(&dir).on_file("creating", &dir)?;
        let mut text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
             http:\n  addr: {host}\n  secret: test\n",
            dir.join("data").display()
        );
        match access {
            Access::Plain => {}
            Access::Tls => {
                certify(&dir)?;
                let (cert, key) = (dir.join("server.pem"), dir.join("server-key.pem"));
                writeln!(
                    text,
                    "  tls: {{certificate: {}, key: {}}}",
                    cert.display(),
                    key.display()
                )
                .expect("a String takes all that is written to it");
            }
            Access::Password => {
                let file = dir.join("passwords");
                fs::write(&file, PASSWORDS).on_file("writing", &file)?;
                writeln!(
                    text,
                    "auth:\n  htpasswd: {{realm: test, path: {}}}",
                    file.display()
                )
                .expect("a String takes all that is written to it");
            }
        }
        let config = dir.join("config.yml");
        fs::write(&config, text).on_file("writing", &config)?;
        let mut command = Command::new(machine.system("docker-registry")?);
        let mut daemon = Daemon::start("registry", &dir, command.arg("serve").arg(&config))?;
        daemon.wait_until(&format!("listen at {host}"), || {
            std::net::TcpStream::connect(&host).is_ok()
        })?;
        Ok(Self {
            host,
            dir,
            daemon: Some(daemon),
        })
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn host(&self) -> String {
        self.host.clone()
    }

    /// What its clients must trust, where it has TLS.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("cert.pem")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.daemon.take());
        if let Err(e) = fs::remove_dir_all(&self.dir) {
            crate::report::say(format_args!("removing {}: {e}", self.dir.display()));
        }
    }
}

/// An address that was free a moment ago.
fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener
        .map(|address| address.to_string())
        .map_err(|e| Error::Unexpected(format!("no free port: {e}")))
}

/// An authority in `cert.pem`, and a certificate of its for 127.0.0.1 in `server.pem`.
fn certify(dir: &Path) -> Result<()> {
    let file = |name: &str| dir.join(name).display().to_string();
    let (cert, key, server, server_key) = (
        file("cert.pem"),
        file("key.pem"),
        file("server.pem"),
        file("server-key.pem"),
    );
    let openssl = |words: &[&str]| {
        let mut command = Command::new("openssl");
        command.args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ]);
        succeed(command.args(words)).map(drop)
    };
    openssl(&["-subj", "/CN=authority", "-keyout", &key, "-out", &cert])?;
    let name = "subjectAltName=IP:127.0.0.1";
    let leaf = "basicConstraints=critical,CA:FALSE";
    openssl(&[
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        name,
        "-addext",
        leaf,
        "-CA",
        &cert,
        "-CAkey",
        &key,
        "-keyout",
        &server_key,
        "-out",
        &server,
    ])
}
