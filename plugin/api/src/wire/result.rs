//! Results of frontends to wire messages and back.

use shipway_attest::{Head, Kind as Form, Subject, SubjectKind};
use shipway_backend::session::FileStat;
use shipway_build::Build;
use shipway_frontend::{Attestation, FrontendResult, Ref, Refs};
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
        attestations: result
            .attestations
            .iter()
            .map(|(key, said)| {
                let attestation = said.iter().map(attestation).collect();
                (key.clone(), gateway::Attestations { attestation })
            })
            .collect(),
    }
}

fn attestation(said: &Attestation) -> gateway::Attestation {
    let head = &said.head;
    let kind = match head.kind {
        Form::InToto => gateway::AttestationKind::InToto,
        Form::Bundle => gateway::AttestationKind::Bundle,
    };
    let subjects = head.subjects.iter().map(|subject| {
        let kind = match subject.kind {
            SubjectKind::Own => gateway::InTotoSubjectKind::Self_,
            SubjectKind::Raw => gateway::InTotoSubjectKind::Raw,
        };
        let digest = subject.digest.iter();
        gateway::InTotoSubject {
            kind: kind.into(),
            digest: digest.map(|(kind, hex)| format!("{kind}:{hex}")).collect(),
            name: subject.name.clone(),
        }
    });
    gateway::Attestation {
        kind: kind.into(),
        metadata: head.metadata.clone(),
        r#ref: said.content.as_ref().map(|of| reference(Some(of))),
        path: head.path.clone(),
        in_toto_predicate_type: head.predicate_type.clone(),
        in_toto_subjects: subjects.collect(),
    }
}

fn attestation_from(said: gateway::Attestation, build: &Build) -> Result<Attestation, Failure> {
    let subject = |subject: gateway::InTotoSubject| {
        let digest = subject
            .digest
            .iter()
            .filter_map(|text| text.split_once(':'));
        Subject {
            kind: match subject.kind() {
                gateway::InTotoSubjectKind::Self_ => SubjectKind::Own,
                gateway::InTotoSubjectKind::Raw => SubjectKind::Raw,
            },
            digest: digest
                .map(|(kind, hex)| (kind.to_owned(), hex.to_owned()))
                .collect(),
            name: subject.name,
        }
    };
    let kind = match said.kind() {
        gateway::AttestationKind::InToto => Form::InToto,
        gateway::AttestationKind::Bundle => Form::Bundle,
    };
    let content = said.r#ref.filter(|of| !of.id.is_empty());
    let content = content.map(|of| build.find_ref(&of.id)).transpose()?;
    let subjects = said.in_toto_subjects.into_iter().map(subject).collect();
    let head = Head {
        kind,
        metadata: said.metadata,
        path: said.path,
        predicate_type: said.in_toto_predicate_type,
        subjects,
    };
    Ok(Attestation { head, content })
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
    let mut attestations = std::collections::BTreeMap::new();
    for (key, said) in wire.attestations {
        let said = said.attestation.into_iter();
        let said: Result<Vec<Attestation>, Failure> =
            said.map(|said| attestation_from(said, build)).collect();
        attestations.insert(key, said?);
    }
    Ok(FrontendResult {
        refs,
        metadata: wire.metadata,
        attestations,
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
