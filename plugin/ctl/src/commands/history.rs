//! The daemon's memory of builds: listing, watching, logs, and removing records.

use std::io::Write as _;

use shipway_proto::content::ReadContentRequest;
use shipway_proto::control::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest,
    StatusRequest, UpdateBuildHistoryRequest,
};
use tokio::sync::mpsc;

use crate::args::{CtlFlags, FormatFlag, Global, LogsFlags, MonitorFlags};
use crate::connect::Daemon;
use crate::error::Error;
use crate::output::{self, Table, Template, Value, record};
use crate::progress::{Progress, format_time};

const LISTENING: &str = "failed to listen to the build history";

/// Removes every record that is not pinned.
pub(crate) async fn prune(global: &Global, flags: &FormatFlag) -> Result<(), Error> {
    let template = flags.format.as_deref().map(Template::parse).transpose()?;
    let daemon = Daemon::connect(global).await?;
    let mut removed = Vec::new();
    let mut failure = None;
    for event in events(&daemon, BuildHistoryRequest::default()).await? {
        let pinned = event.record.as_ref().is_none_or(|record| record.pinned);
        if pinned {
            continue;
        }
        let reference = event
            .record
            .as_ref()
            .map(|record| record.r#ref.clone())
            .unwrap_or_default();
        let request = UpdateBuildHistoryRequest {
            r#ref: reference,
            delete: true,
            ..Default::default()
        };
        match daemon.control().update_build_history(request).await {
            Ok(_) => removed.push(event),
            Err(status) => failure = Some(status),
        }
    }
    print(&removed, template.as_ref(), Columns::Removed)?;
    failure.map_or(Ok(()), |status| {
        Err(Error::call("failed to delete a record")(status))
    })
}

/// Lists the records.
pub(crate) async fn list(global: &Global, flags: &FormatFlag) -> Result<(), Error> {
    let template = flags.format.as_deref().map(Template::parse).transpose()?;
    let daemon = Daemon::connect(global).await?;
    print(
        &events(&daemon, BuildHistoryRequest::default()).await?,
        template.as_ref(),
        Columns::All,
    )
}

/// All records that there are now.
async fn events(
    daemon: &Daemon,
    mut request: BuildHistoryRequest,
) -> Result<Vec<BuildHistoryEvent>, Error> {
    request.early_exit = true;
    let answered = daemon.control().listen_build_history(request).await;
    let mut stream = answered.map_err(Error::call(LISTENING))?.into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await.map_err(Error::call(LISTENING))? {
        events.push(event);
    }
    Ok(events)
}

/// Shows events as they happen.
pub(crate) async fn monitor(global: &Global, flags: &MonitorFlags) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let request = BuildHistoryRequest {
        active_only: !flags.completed,
        r#ref: flags.reference.clone().unwrap_or_default(),
        ..BuildHistoryRequest::default()
    };
    let answered = daemon.control().listen_build_history(request).await;
    let mut stream = answered.map_err(Error::call(LISTENING))?.into_inner();
    while let Some(event) = stream.message().await.map_err(Error::call(LISTENING))? {
        output::print(&format!(
            "{} {}\n",
            kind(&event),
            event.record.unwrap_or_default().r#ref
        ))?;
    }
    Ok(())
}

/// Replays a build's progress.
pub(crate) async fn logs(global: &Global, flags: &LogsFlags) -> Result<(), Error> {
    let doing = "failed to get status";
    let mut progress = Progress::new(flags.progress)?;
    let mut control = Daemon::connect(global).await?.control();
    let answered = control
        .status(StatusRequest {
            r#ref: flags.reference.clone(),
        })
        .await;
    let mut stream = answered.map_err(Error::call(doing))?.into_inner();
    let (events, shown) = mpsc::channel(64);
    let forward = async move {
        while let Some(event) = stream.message().await.map_err(Error::call(doing))? {
            if events.send(event).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let (forwarded, ()) = tokio::join!(forward, progress.show(shown));
    forwarded
}

/// Changes one record.
pub(crate) async fn control(global: &Global, flags: &CtlFlags) -> Result<(), Error> {
    let mut control = Daemon::connect(global).await?.control();
    let request = UpdateBuildHistoryRequest {
        r#ref: flags.reference.clone(),
        pinned: flags.action.pin,
        delete: flags.action.delete,
        ..UpdateBuildHistoryRequest::default()
    };
    let answered = control.update_build_history(request).await;
    answered
        .map_err(Error::call("failed to change the record"))
        .map(drop)
}

/// Writes a blob of the daemon's content store to standard output.
pub(crate) async fn get(global: &Global, digest: &str) -> Result<(), Error> {
    let doing = "failed to read content";
    let mut content = Daemon::connect(global).await?.content();
    let request = ReadContentRequest {
        digest: digest.to_owned(),
        ..ReadContentRequest::default()
    };
    let answered = content.read(request).await;
    let mut stream = answered.map_err(Error::call(doing))?.into_inner();
    let mut stdout = std::io::stdout();
    while let Some(piece) = stream.message().await.map_err(Error::call(doing))? {
        let written = stdout.write_all(&piece.data);
        written.map_err(|source| Error::Stream {
            doing: "writing to stdout",
            source,
        })?;
    }
    stdout.flush().map_err(|source| Error::Stream {
        doing: "writing to stdout",
        source,
    })
}

fn kind(event: &BuildHistoryEvent) -> &'static str {
    BuildHistoryEventType::try_from(event.r#type).map_or("UNKNOWN", |kind| kind.as_str_name())
}

/// Which columns a table of records has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Columns {
    /// Those of removed records, none of which was pinned.
    Removed,
    All,
}

fn print(
    events: &[BuildHistoryEvent],
    template: Option<&Template>,
    columns: Columns,
) -> Result<(), Error> {
    if let Some(template) = template {
        for event in events {
            output::print(&(template.apply(&event_value(event))? + "\n"))?;
        }
        return Ok(());
    }
    let mut table = Table::default();
    let pinned = |name| (columns == Columns::All).then_some(name);
    let head = ["TYPE", "REF", "CREATED", "COMPLETED", "GENERATION"];
    table.line(head.into_iter().chain(pinned("PINNED")));
    for event in events {
        let Some(record) = &event.record else {
            continue;
        };
        let created = to_the_second(record.created_at);
        let completed = to_the_second(record.completed_at);
        let generation = record.generation.to_string();
        let cells = [
            kind(event),
            &record.r#ref,
            &created,
            &completed,
            &generation,
        ];
        let mark = pinned(if record.pinned { "*" } else { "" });
        table.line(cells.into_iter().chain(mark));
    }
    output::print(&table.text())
}

fn to_the_second(at: Option<prost_types::Timestamp>) -> String {
    let whole = |at: prost_types::Timestamp| prost_types::Timestamp { nanos: 0, ..at };
    at.map(|at| format_time(&whole(at))).unwrap_or_default()
}

fn event_value(event: &BuildHistoryEvent) -> Value {
    let details = event.record.as_ref().map_or(Value::Null, record_value);
    record(vec![
        ("Type", "type?", Value::Int(event.r#type.into())),
        ("Record", "record?", details),
    ])
}

fn record_value(build: &BuildHistoryRecord) -> Value {
    let time = |at: &Option<prost_types::Timestamp>| {
        at.as_ref().map_or(Value::Null, |at| {
            record(vec![
                ("Seconds", "seconds?", Value::Int(at.seconds)),
                ("Nanos", "nanos?", Value::Int(at.nanos.into())),
            ])
        })
    };
    record(vec![
        ("Ref", "Ref?", Value::Text(build.r#ref.clone())),
        ("Frontend", "Frontend?", Value::Text(build.frontend.clone())),
        (
            "FrontendAttrs",
            "FrontendAttrs?",
            Value::labels(&build.frontend_attrs),
        ),
        ("CreatedAt", "CreatedAt?", time(&build.created_at)),
        ("CompletedAt", "CompletedAt?", time(&build.completed_at)),
        (
            "ExporterResponse",
            "ExporterResponse?",
            Value::labels(&build.exporter_response),
        ),
        (
            "Generation",
            "Generation?",
            Value::Int(build.generation.into()),
        ),
        ("Pinned", "pinned?", Value::Bool(build.pinned)),
        (
            "NumCachedSteps",
            "numCachedSteps?",
            Value::Int(build.num_cached_steps.into()),
        ),
        (
            "NumTotalSteps",
            "numTotalSteps?",
            Value::Int(build.num_total_steps.into()),
        ),
        (
            "NumCompletedSteps",
            "numCompletedSteps?",
            Value::Int(build.num_completed_steps.into()),
        ),
    ])
}
