//! Write a frontend of your own: a program that turns a human's format into LLB, packaged as an image and named by
//! `# syntax=` in the first line of a file, or by `--opt source=`. It runs on Shipway and on BuildKit alike.
//!
//! A frontend is a process in a container. The daemon tells it the client's options in its environment and answers its
//! calls on its standard input and output; what it writes to its standard error the user sees. [`run`] sets that up and
//! hands your function a [`Gateway`]: read the files that describe the build, make a graph with
//! [`shipway_llb::Graph`] (again as [`llb`]), [`solve`](Gateway::solve) it, and return an [`Answer`].
//!
//! ```no_run
//! use shipway_gateway::llb::{Graph, VertexOptions, build::Image};
//! use shipway_gateway::{Answer, Error, Gateway};
//!
//! fn main() -> std::process::ExitCode {
//!     shipway_gateway::run(build)
//! }
//!
//! async fn build(gateway: Gateway) -> Result<Answer, Error> {
//!     let mut graph = Graph::default();
//!     let base = graph.image(Image::new("docker.io/library/busybox:latest"), VertexOptions::default());
//!     let result = gateway.solve(&graph.definition(&base, None)?).await?;
//!     Ok(Answer::new(result))
//! }
//! ```
//!
//! `examples/stepfile.rs` is a whole frontend for a format of its own. An image needs the program as its entrypoint and,
//! where the frontend takes graphs as inputs or answers subrequests, the label `moby.buildkit.frontend.caps`; with the
//! label `moby.buildkit.frontend.network.none=true` it runs without a network.
//!
//! This crate decides nothing about what is built. It never reads the client's files by itself.

mod answer;
mod error;
mod gateway;
mod options;
mod stdio;

use std::process::ExitCode;

pub use answer::Answer;
pub use error::Error;
pub use gateway::{Gateway, ImageConfig, Input, Reference};
pub use options::Options;
pub use shipway_llb as llb;
pub use shipway_model as model;

/// Runs a frontend: connects to the daemon that started this process, has `frontend` make an answer, and returns it, or
/// the error. The exit code is for the process.
///
/// # Panics
/// Where threads cannot be made.
pub fn run<F, Answering>(frontend: F) -> ExitCode
where
    F: FnOnce(Gateway) -> Answering,
    Answering: Future<Output = Result<Answer, Error>>,
{
    let runtime = tokio::runtime::Runtime::new().expect("a process has threads");
    let ended = runtime.block_on(async {
        let gateway = Gateway::connect(Options::from_environment()).await?;
        let mut bridge = gateway.bridge();
        let answer = frontend(gateway).await;
        answer::give_back(&mut bridge, answer).await
    });
    // Standard input is read on a thread of its own, which nobody can wake.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stdio::complain(&error);
            ExitCode::FAILURE
        }
    }
}
