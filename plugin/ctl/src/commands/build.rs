//! `build`: reads the wish, runs the build beside its display, and writes what was asked for on the side.

use std::io::IsTerminal as _;
use std::path::Path;

use shipway_proto::control::StatusResponse;
use shipway_proto::pb;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::args::Global;
use crate::args::build::BuildFlags;
use crate::build::plan::Plan;
use crate::build::{self, Build};
use crate::connect::Daemon;
use crate::error::Error;
use crate::output;
use crate::progress::{Metrics, Progress};

/// Builds as the flags say.
pub(crate) async fn run(global: &Global, flags: &BuildFlags) -> Result<(), Error> {
    let plan = flags.plan()?;
    let definition = definition(&plan)?;
    let mut progress = Progress::new(flags.display.progress)?;
    if let Some(path) = &flags.display.trace {
        progress.record_to(path)?;
    }
    if flags.display.debug_json_cache_metrics.is_some() {
        progress.metrics = Some(Metrics::new());
    }
    let daemon = Daemon::connect(global).await?;
    let reference = uuid::Uuid::new_v4().simple().to_string();
    let (events, shown) = mpsc::channel(64);
    let build = Build {
        daemon: &daemon,
        plan: &plan,
        definition,
        reference: &reference,
        progress: events,
        interrupted: CancellationToken::new(),
    };
    let ended = Box::pin(build_and_show(
        build,
        shown,
        &mut progress,
        &global.log_format,
    ))
    .await;
    if let Some(path) = &flags.display.ref_file {
        build::write_whole(path, reference.as_bytes())?;
    }
    if let (Some(path), Some(metrics)) =
        (&flags.display.debug_json_cache_metrics, &progress.metrics)
    {
        write_metrics(path, &metrics.report())?;
    }
    let outcome = ended?;
    if let Some(path) = &flags.display.metadata_file {
        build::write_metadata(path, &outcome.exporters)?;
    }
    if plan.attrs.contains_key("requestid") {
        print_answer(&outcome.metadata)?;
    }
    Ok(())
}

async fn build_and_show(
    build: Build<'_>,
    shown: mpsc::Receiver<StatusResponse>,
    progress: &mut Progress,
    log_format: &str,
) -> Result<build::Outcome, Error> {
    let interrupted = build.interrupted.clone();
    let mut warn = |text: String| match log_format {
        "json" => eprintln!("{}", serde_json::json!({ "level": "warning", "msg": text })),
        _ => eprintln!("warning: {text}"),
    };
    let building = build::run(build, &mut warn);
    let show = progress.show(shown);
    tokio::select! {
        (outcome, ()) = async { tokio::join!(building, show) } => outcome,
        error = watch_signals(interrupted) => Err(error),
    }
}

/// Asks the build to end at the first signal, and gives up at the third.
async fn watch_signals(interrupted: CancellationToken) -> Error {
    let install = |kind, doing| signal(kind).map_err(|source| Error::Stream { doing, source });
    let both = install(SignalKind::interrupt(), "watching for SIGINT").and_then(|int| {
        Ok((
            int,
            install(SignalKind::terminate(), "watching for SIGTERM")?,
        ))
    });
    let (mut int, mut term) = match both {
        Ok(both) => both,
        Err(error) => return error,
    };
    for _ in 0..3 {
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
        }
        interrupted.cancel();
    }
    Error::Canceled
}

/// The graph from standard input, where no frontend is named.
fn definition(plan: &Plan) -> Result<Option<pb::Definition>, Error> {
    if plan.frontend.is_some() {
        return Ok(None);
    }
    if std::io::stdin().is_terminal() {
        let reason = "please specify --frontend or pipe LLB definition to stdin";
        return Err(Error::flag("--frontend", reason));
    }
    let mut definition = build::read_definition(std::io::stdin().lock())?;
    if definition.def.is_empty() {
        let reason = "empty definition sent to build. Specify --frontend instead?";
        return Err(Error::flag("--frontend", reason));
    }
    if plan.no_cache {
        build::ignore_cache(&mut definition);
    }
    Ok(Some(definition))
}

fn write_metrics(path: &Path, report: &str) -> Result<(), Error> {
    match path.to_str() {
        Some("stdout") => output::print(report),
        Some("stderr") => {
            eprint!("{report}");
            Ok(())
        }
        _ => std::fs::write(path, report).map_err(Error::file("writing", path)),
    }
}

/// Prints what a subrequest, such as a lint, has for people; failing that, all its parts.
fn print_answer(metadata: &std::collections::BTreeMap<String, bytes::Bytes>) -> Result<(), Error> {
    if let Some(text) = metadata.get("result.txt") {
        return output::print(&String::from_utf8_lossy(text));
    }
    for (key, value) in metadata
        .iter()
        .filter(|(key, _)| key.starts_with("result."))
    {
        output::print(&format!("{key}\n{}\n", String::from_utf8_lossy(value)))?;
    }
    Ok(())
}
