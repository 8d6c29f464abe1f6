//! Prints a definition whose vertices stand for other vertices, for `buildctl build`: a graph that lies in a file is built,
//! and its result is handed on after a step that it does not depend on.
//!
//!     nested IMAGE COMMAND      COMMAND is the other step's, in a shell of the image
//!
//! The result is the image with a file `/inner`. It decides nothing about how vertices are run.

use shipway_llb::build::{FileActions, Graph, Image, MkFile, Run, State, VertexOptions};
use shipway_llb::encode_bytes;
use std::error::Error;
use std::io::{self, Write as _};

fn shell(graph: &mut Graph, image: &str, line: &str) -> State {
    let base = graph.image(Image::new(image), VertexOptions::default());
    let run = Run::new(["/bin/sh", "-c", line]);
    let options = VertexOptions::named(line);
    graph.run(&base, run, options).root().clone()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(image), Some(other)) = (words.next(), words.next()) else {
        return Err("usage: nested IMAGE COMMAND".into());
    };
    let mut inner = Graph::default();
    let built = shell(&mut inner, &image, "echo made inside >/inner");
    let file = MkFile {
        path: "/graph".into(),
        mode: 0o644,
        data: encode_bytes(&inner.into_definition(&built, None)?),
        ..MkFile::default()
    };
    let mut graph = Graph::default();
    let actions = FileActions::new().mkfile(file);
    let holds = graph.file(&State::scratch(), actions, VertexOptions::default());
    let nested = VertexOptions::named("build what a file says");
    let nested = graph.build(&holds, Some("graph"), nested);
    let other = shell(&mut graph, &image, &other);
    let after = VertexOptions::named("hand on what was built");
    let result = graph.requires(&nested, "after", &[other], after);
    let definition = encode_bytes(&graph.into_definition(&result, None)?);
    io::stdout().write_all(&definition)?;
    Ok(())
}
