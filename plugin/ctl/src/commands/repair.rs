//! `debug repair`: where the layer store and containerd disagree, and with what result they were brought together.

use std::fmt::Write as _;

use shipway_proto::upkeep::{RepairRequest, RepairResponse};

use crate::args::{Global, RepairFlags};
use crate::connect::Daemon;
use crate::error::Error;
use crate::output;

/// Repairs, or says what a repair would do.
pub(crate) async fn run(global: &Global, flags: &RepairFlags) -> Result<(), Error> {
    let dry_run = flags.dry_run;
    let mut upkeep = Daemon::connect(global).await?.upkeep();
    let answered = upkeep.repair(RepairRequest { dry_run }).await;
    let answer = answered.map_err(Error::call("failed to repair"))?;
    output::print(&report(&answer.into_inner(), dry_run))
}

fn report(found: &RepairResponse, dry_run: bool) -> String {
    if found.unknown.is_empty() && found.lost.is_empty() {
        return "nothing to repair: the layer store and containerd agree\n".to_owned();
    }
    let would = if dry_run { "would be " } else { "" };
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        writeln!(text, "{words}").expect("a String takes all that is written to it");
    };
    for lost in &found.lost {
        let (namespace, name) = (&lost.namespace, &lost.name);
        line(format_args!(
            "{would}forgotten by containerd: {name} in namespace {namespace}, whose layer is lost"
        ));
    }
    for entry in &found.unknown {
        line(format_args!(
            "{would}removed: {entry}, which containerd does not know"
        ));
    }
    for problem in &found.problems {
        line(format_args!("left: {problem}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use shipway_proto::upkeep::Snapshot;

    use super::*;

    #[test]
    fn what_is_found_is_said_line_by_line() {
        assert!(report(&RepairResponse::default(), true).starts_with("nothing to repair"));
        let found = RepairResponse {
            unknown: vec!["default/1/x".to_owned()],
            lost: vec![Snapshot {
                namespace: "default".to_owned(),
                name: "sha256:a".to_owned(),
            }],
            problems: Vec::new(),
        };
        assert_eq!(
            report(&found, true),
            "would be forgotten by containerd: sha256:a in namespace default, whose layer is lost\n\
             would be removed: default/1/x, which containerd does not know\n"
        );
    }
}
