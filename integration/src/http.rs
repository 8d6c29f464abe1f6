//! A small HTTP/1.1 server for what no well-behaved server would do: serve one file at a fixed port, answer with the
//! wrong status, stall, lie. One thread a connection, one request a connection.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::{Error, Result};

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// GET, HEAD, …
    pub method: String,
    /// Path and query.
    pub target: String,
}

/// What it gets.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A complete answer.
    Answer {
        /// Status code.
        status: u16,
        /// Header lines without their end.
        headers: Vec<String>,
        /// The body; left out for HEAD.
        body: Vec<u8>,
    },
    /// Nothing, with the connection open, until the server ends.
    Stall,
    /// The beginning of a body, then nothing.
    StallAfter(Vec<u8>),
}

impl Reply {
    /// A status without a body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    ending: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

type Handler = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

impl Server {
    /// Listens at `address` (port 0 for any) and answers with `handler`.
    pub fn start(
        address: &str,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Result<Self> {
        let unusable = |e| Error::Unexpected(format!("listening at {address}: {e}"));
        let listener = TcpListener::bind(address).map_err(unusable)?;
        let bound = listener.local_addr().map_err(unusable)?;
        let ending = Arc::new(AtomicBool::new(false));
        let (flag, handler): (_, Handler) = (Arc::clone(&ending), Arc::new(handler));
        let acceptor = std::thread::spawn(move || accept(&listener, &flag, &handler));
        Ok(Self {
            address: bound,
            ending,
            acceptor: Some(acceptor),
        })
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // The acceptor sees the flag when a connection wakes it.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(acceptor) = self.acceptor.take().filter(|_| woken)
            && acceptor.join().is_err()
        {
            crate::report::say("the HTTP server panicked");
        }
    }
}

fn accept(listener: &TcpListener, ending: &Arc<AtomicBool>, handler: &Handler) {
    std::thread::scope(|threads| {
        let streams = listener
            .incoming()
            .take_while(|_| !ending.load(Ordering::Acquire));
        for stream in streams.flatten() {
            threads.spawn(move || answer(&stream, ending, handler));
        }
    });
}

/// A client that goes away in the middle is what some tests are about.
fn answer(stream: &TcpStream, ending: &AtomicBool, handler: &Handler) {
    if let Err(e) = serve(stream, ending, handler) {
        crate::report::say(format_args!("HTTP server: {e}"));
    }
}

fn serve(mut stream: &TcpStream, ending: &AtomicBool, handler: &Handler) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.take(64 << 10));
    let mut first = String::new();
    lines.read_line(&mut first)?;
    let mut line = String::new();
    while lines.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = first.split_whitespace().map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Ok(());
    };
    let request = Request { method, target };
    match handler(&request) {
        Reply::Answer {
            status,
            headers,
            body,
        } => {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} {}\r\nConnection: close\r\n",
                reason(status)
            )?;
            write!(stream, "Content-Length: {length}\r\n")?;
            headers
                .iter()
                .try_for_each(|header| write!(stream, "{header}\r\n"))?;
            write!(stream, "\r\n")?;
            let body = if request.method == "HEAD" {
                &[]
            } else {
                body.as_slice()
            };
            stream.write_all(body)
        }
        Reply::Stall => {
            stall(ending);
            Ok(())
        }
        Reply::StallAfter(start) => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                start.len() + 1
            )?;
            stream.write_all(&start)?;
            stall(ending);
            Ok(())
        }
    }
}

fn stall(ending: &AtomicBool) {
    while !ending.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        401 => "Unauthorized",
        404 => "Not Found",
        500 => "Internal Server Error",
        _ => "Status",
    }
}
