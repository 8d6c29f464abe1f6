//! buildx's debug adapter: an editor's side of the protocol, played over the adapter's standard streams.

use std::{
    io::{BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use serde_json::{Value, json};
use shipway_integration::{Error, Result, stand::Stand};

use crate::support::{ensure, on_stand};

const PATIENCE: Duration = Duration::from_secs(60);

/// `buildx dap build`, and what it has said that nobody has looked at.
struct Adapter {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    number: u64,
    seen: Vec<Value>,
}

impl Adapter {
    fn start(mut buildx: Command) -> Self {
        buildx.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = buildx.spawn().expect("buildx is a tool of these tests");
        let input = child.stdin.take().expect("it is piped");
        let output = child.stdout.take().expect("it is piped");
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            while let Some(message) = read(&mut output) {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            input,
            messages,
            number: 0,
            seen: Vec::new(),
        }
    }

    fn send(&mut self, message: &Value) {
        let text = message.to_string();
        let framed = format!("Content-Length: {}\r\n\r\n{text}", text.len());
        self.input
            .write_all(framed.as_bytes())
            .expect("the adapter reads");
    }

    /// Sends a request without waiting for its answer.
    fn ask(&mut self, command: &str, arguments: &Value) {
        self.number += 1;
        let request = json!({
            "seq": self.number, "type": "request", "command": command, "arguments": arguments,
        });
        self.send(&request);
    }

    /// Sends a request; gives its answer's body.
    fn request(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.ask(command, arguments);
        self.answer(command)
    }

    fn answer(&mut self, command: &str) -> Result<Value> {
        let answer =
            self.wait(|message| message["type"] == "response" && message["command"] == command)?;
        ensure(answer["success"] == true, || answer.to_string())?;
        Ok(answer["body"].clone())
    }

    fn event(&mut self, name: &str) -> Result<Value> {
        let event = self.wait(|message| message["type"] == "event" && message["event"] == name)?;
        Ok(event["body"].clone())
    }

    fn wait(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        if let Some(at) = self.seen.iter().position(&wanted) {
            return Ok(self.seen.remove(at));
        }
        loop {
            let Ok(message) = self.messages.recv_timeout(PATIENCE) else {
                let seen: Vec<String> = self.seen.iter().map(Value::to_string).collect();
                return Err(Error::Unexpected(seen.join("\n")));
            };
            if wanted(&message) {
                return Ok(message);
            }
            self.seen.push(message);
        }
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The next message; `None` at the end.
fn read(from: &mut impl std::io::BufRead) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(number) = line.strip_prefix("Content-Length:") {
            length = number.trim().parse().ok()?;
        } else if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

/// Begins a build of `context` that stops before `line`; gives the adapter and the stopped thread.
fn stopped(stand: &Stand, context: &Path, line: u32) -> Result<(Adapter, Value)> {
    let mut buildx = stand.buildx()?;
    buildx.env("BUILDX_EXPERIMENTAL", "1");
    buildx.args(["dap", "build", "--provenance=false"]);
    let mut adapter = Adapter::start(buildx);
    let editor =
        json!({"clientID": "test", "adapterID": "buildx", "supportsRunInTerminalRequest": true});
    adapter.request("initialize", &editor)?;
    let dockerfile = context.join("Dockerfile");
    adapter.ask(
        "launch",
        &json!({"contextPath": context, "dockerfile": dockerfile}),
    );
    adapter.event("initialized")?;
    let breakpoints = json!({
        "source": {"path": dockerfile}, "breakpoints": [{"line": line}],
    });
    adapter.request("setBreakpoints", &breakpoints)?;
    adapter.request("configurationDone", &json!({}))?;
    let stopped = adapter.event("stopped")?;
    Ok((adapter, stopped["threadId"].clone()))
}

/// What a scope of a frame shows, by name.
fn shown(adapter: &mut Adapter, reference: &Value) -> Result<Vec<(String, Value)>> {
    let arguments = json!({"variablesReference": reference});
    let body = adapter.request("variables", &arguments)?;
    let variables = body["variables"].as_array().cloned().unwrap_or_default();
    let named = variables.into_iter().map(|variable| {
        let name = variable["name"].as_str().unwrap_or_default().to_owned();
        (name, variable)
    });
    Ok(named.collect())
}

/// Types `line` into the shell that the adapter opens in the stopped build; gives all that it shows.
fn typed(adapter: &mut Adapter, line: &str) -> Result<String> {
    let exec = json!({"expression": "exec", "context": "repl"});
    adapter.ask("evaluate", &exec);
    let wanted = |message: &Value| message["command"] == "runInTerminal";
    let terminal = adapter.wait(wanted)?;
    let words = terminal["arguments"]["args"].as_array().cloned();
    let socket = words.unwrap_or_default().pop().unwrap_or_default();
    let socket = socket.as_str().unwrap_or_default().to_owned();
    let answer = json!({
        "seq": 1000, "type": "response", "request_seq": terminal["seq"], "success": true,
        "command": "runInTerminal", "body": {},
    });
    adapter.send(&answer);
    adapter.answer("evaluate")?;
    let on = |source| Error::File {
        doing: "talking to",
        path: socket.clone().into(),
        source,
    };
    let mut shell = UnixStream::connect(&socket).map_err(on)?;
    shell.set_read_timeout(Some(PATIENCE)).map_err(on)?;
    let mut text = Vec::new();
    // What is typed before the shell reads is nobody's.
    while !text.ends_with(b"# ") && !text.ends_with(b"\x1b[6n") {
        let mut byte = [0];
        let read = shell.read_exact(&mut byte);
        read.map_err(|error| after(&text, &error))?;
        text.push(byte[0]);
    }
    shell.write_all(line.as_bytes()).map_err(on)?;
    let read = shell.read_to_end(&mut text);
    read.map_err(|error| after(&text, &error))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn after(text: &[u8], error: &std::io::Error) -> Error {
    let text = String::from_utf8_lossy(text);
    Error::Unexpected(format!("{error}; shown was:\n{text}"))
}

#[test]
fn an_editor_stops_a_build_looks_at_its_files_and_goes_on() {
    on_stand(|stand| {
        let dockerfile = "FROM busybox:local\nENV HINT=found\nRUN echo made >/made\n\
            RUN cat /made\n";
        let context = stand.context("edited", &[("Dockerfile", dockerfile)])?;
        let (mut adapter, thread) = stopped(stand, &context, 4)?;
        let body = adapter.request("stackTrace", &json!({"threadId": thread}))?;
        let frame = &body["stackFrames"][0];
        ensure(frame["line"] == 4, || body.to_string())?;
        let scopes = adapter.request("scopes", &json!({"frameId": frame["id"]}))?;
        let scope = |name: &str| {
            let scopes = scopes["scopes"].as_array().cloned().unwrap_or_default();
            let found = scopes.into_iter().find(|scope| scope["name"] == name);
            found.unwrap_or_default()["variablesReference"].clone()
        };
        let arguments = shown(&mut adapter, &scope("Arguments"))?;
        let exec = arguments.iter().find(|(name, _)| name == "exec");
        let exec = exec.map(|(_, variable)| variable["value"].to_string());
        ensure(
            exec.as_ref().is_some_and(|text| text.contains("cat /made")),
            || format!("{exec:?}"),
        )?;
        let files = shown(&mut adapter, &scope("File Explorer"))?;
        ensure(!files.is_empty(), || scopes.to_string())?;
        let said = typed(&mut adapter, "echo \"$HINT $(cat /made)\"; exit\n")?;
        ensure(said.contains("found made"), || said.clone())?;
        adapter.request("continue", &json!({"threadId": thread}))?;
        adapter.event("terminated").map(drop)
    });
}
