//! Results of frontends to wire messages and back.

use shipway_backend::session::FileStat;
use shipway_build::Build;
use shipway_frontend::{FrontendResult, Ref, Refs};
use shipway_model::Failure;
use shipway_proto::gateway::result::Result as Kind;
use shipway_proto::{fsutil, gateway};

/// A result for the wire, with the graph of each ref.
#[must_use]
pub fn to_wire(result: &FrontendResult) -> gateway::Result {
    let kind = match &result.refs {
        Refs::Single(single) => Kind::Ref(reference(single.as_ref())),
        Refs::Map(map) => {
            let refs = map
                .iter()
                .map(|(key, of)| (key.clone(), reference(of.as_ref())));
            Kind::Refs(gateway::RefMap {
                refs: refs.collect(),
            })
        }
    };
    gateway::Result {
        result: Some(kind),
        metadata: result.metadata.clone(),
        attestations: std::collections::BTreeMap::new(),
    }
}

fn reference(of: Option<&Ref>) -> gateway::Ref {
    match of {
        None => gateway::Ref::default(),
        Some(of) => gateway::Ref {
            id: of.id.to_string(),
            def: Some(shipway_llb::encode(&of.definition)),
        },
    }
}

/// A result that a client gives back: refs are found by their ids in the build.
pub fn from_wire(wire: gateway::Result, build: &Build) -> Result<FrontendResult, Failure> {
    if !wire.attestations.is_empty() {
        return Err(Failure::of_kind(
            shipway_model::failure::FailureKind::Unimplemented,
            "attestations of a frontend are not supported",
        ));
    }
    let find = |id: &str| {
        if id.is_empty() {
            Ok(None)
        } else {
            build.find_ref(id).map(Some)
        }
    };
    let refs = match wire.result {
        None => Refs::Single(None),
        Some(Kind::RefDeprecated(id)) => Refs::Single(find(&id)?),
        Some(Kind::Ref(of)) => Refs::Single(find(&of.id)?),
        Some(Kind::RefsDeprecated(map)) => {
            let each = map.refs.into_iter().map(|(key, id)| Ok((key, find(&id)?)));
            Refs::Map(each.collect::<Result<_, Failure>>()?)
        }
        Some(Kind::Refs(map)) => {
            let each = map
                .refs
                .into_iter()
                .map(|(key, of)| Ok((key, find(&of.id)?)));
            Refs::Map(each.collect::<Result<_, Failure>>()?)
        }
    };
    Ok(FrontendResult {
        refs,
        metadata: wire.metadata,
    })
}

/// What is known of a path, for the wire.
#[must_use]
pub fn stat(stat: FileStat) -> fsutil::Stat {
    fsutil::Stat {
        path: stat.path,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size.cast_signed(),
        mod_time: stat.mod_time,
        linkname: stat.link_name,
        devmajor: stat.dev_major,
        devminor: stat.dev_minor,
        xattrs: stat
            .xattrs
            .into_iter()
            .map(|(key, value)| (key, value.into()))
            .collect(),
    }
}
