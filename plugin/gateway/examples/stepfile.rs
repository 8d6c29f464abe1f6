//! A whole frontend, for a format of its own: a line is a step.
//!
//! ```text
//! # syntax=example/stepfile
//! from busybox:latest          the image to start from; comes first
//! set GREETING hello           a variable of later steps and of the image
//! copy greeting /greeting      a file or directory of the context
//! run tr a-z A-Z </greeting >/loud
//! start cat /loud              what the image runs
//! ```
//!
//! It decides what these lines mean, and nothing else.

use std::process::ExitCode;

use serde_json::{Value, json};
use shipway_gateway::llb::build::{Copy, FileActions, Image, Local, Run};
use shipway_gateway::llb::{Graph, State, VertexOptions};
use shipway_gateway::{Answer, Error, Gateway};

fn main() -> ExitCode {
    shipway_gateway::run(build)
}

/// A build in the making.
struct Build {
    gateway: Gateway,
    graph: Graph,
    /// The filesystem so far; none before the first step.
    state: Option<State>,
    /// Of the image that the result becomes.
    config: Value,
}

async fn build(gateway: Gateway) -> Result<Answer, Error> {
    let file = gateway.read_build_file().await?;
    let name = gateway.options().filename().to_owned();
    let mut build = Build {
        gateway,
        graph: Graph::default(),
        state: None,
        config: json!({}),
    };
    for (line, number) in String::from_utf8_lossy(&file).lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if let Err(mistake) = build.step(word, rest.trim()).await {
            return Err(match mistake {
                Error::User { message, .. } => Error::at(message, &name, &file, (number, number)),
                other => other,
            });
        }
    }
    let state = build
        .state
        .ok_or_else(|| Error::user("nothing to build: there is no `from`"))?;
    let definition = build.graph.definition(&state, None)?;
    let result = build.gateway.solve(&definition).await?;
    Ok(Answer::new(result).config(&build.config))
}

impl Build {
    async fn step(&mut self, word: &str, rest: &str) -> Result<(), Error> {
        if word == "from" {
            return self.from(rest).await;
        }
        let before = self.state.take();
        let before = before.ok_or_else(|| Error::user(format!("`{word}` comes before `from`")))?;
        let named = VertexOptions::named(format!("{word} {rest}"));
        self.state = Some(match word {
            "set" => {
                let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
                let mut variables = self.config["config"]["Env"].as_array().cloned();
                variables
                    .get_or_insert_default()
                    .push(format!("{name}={value}").into());
                self.config["config"]["Env"] = variables.into();
                before.env(name, value)
            }
            "copy" => {
                let (from, to) = rest
                    .split_once(' ')
                    .ok_or_else(|| Error::user("`copy` takes a path and a destination"))?;
                let context = self.context(from);
                let copy = Copy {
                    src: from.to_owned(),
                    dest: to.trim().to_owned(),
                    create_dest: true,
                    ..Copy::default()
                };
                let copied = FileActions::new().copy(&context, copy);
                self.graph.file(&before, copied, named)
            }
            "run" => {
                let run = Run::new(["/bin/sh", "-c", rest]);
                self.graph.run(&before, run, named).root().clone()
            }
            "start" => {
                self.config["config"]["Cmd"] = json!(["/bin/sh", "-c", rest]);
                before
            }
            other => return Err(Error::user(format!("unknown word `{other}`"))),
        });
        Ok(())
    }

    async fn from(&mut self, image: &str) -> Result<(), Error> {
        let complete = if image.contains('/') {
            image.to_owned()
        } else {
            format!("docker.io/library/{image}")
        };
        let found = self.gateway.resolve_image(&complete, None).await?;
        let unreadable = |_| Error::user(format!("the configuration of {image} is no JSON"));
        self.config = serde_json::from_slice(&found.config).map_err(unreadable)?;
        let options = VertexOptions::named(format!("from {image}"));
        let mut state = self.graph.image(Image::new(found.reference), options);
        for variable in self.config["config"]["Env"]
            .as_array()
            .into_iter()
            .flatten()
        {
            if let Some((name, value)) = variable.as_str().and_then(|text| text.split_once('=')) {
                state = state.env(name, value);
            }
        }
        self.state = Some(state);
        Ok(())
    }

    /// The client's directory, as far as a path of it is needed.
    fn context(&mut self, path: &str) -> State {
        let options = self.gateway.options();
        let local = Local {
            name: options.context_directory().to_owned(),
            session: Some(options.session.clone()),
            follow: vec![path.to_owned()],
            shared_key_hint: options.context_directory().to_owned(),
            ..Local::default()
        };
        let display = VertexOptions::named(format!("load {path} of the build context"));
        self.graph.local(local, display)
    }
}
