//! Source maps: which lines of which file each vertex comes from.

use super::InvalidDefinition;
use prost::Message;
use shipway_model::definition::{Location, SourceInfo};
use shipway_model::{Digest, SourceMaps, SourceRange};
use shipway_proto::pb;

pub(super) fn decode(wire: Option<&pb::Source>) -> Result<SourceMaps, InvalidDefinition> {
    let Some(wire) = wire else {
        return Ok(SourceMaps::default());
    };
    let mut maps = SourceMaps {
        infos: wire.infos.iter().map(decode_info).collect(),
        ..SourceMaps::default()
    };
    for (key, locations) in &wire.locations {
        let digest: Digest = key.parse().map_err(|source| InvalidDefinition::Key {
            map: "source locations",
            source,
        })?;
        let locations = locations
            .locations
            .iter()
            .map(|l| location(l, wire.infos.len()));
        maps.locations
            .insert(digest, locations.collect::<Result<_, _>>()?);
    }
    Ok(maps)
}

/// One source file; also stands alone in warnings and error details.
#[must_use]
pub fn decode_info(wire: &pb::SourceInfo) -> SourceInfo {
    SourceInfo {
        filename: wire.filename.clone(),
        data: wire.data.to_vec(),
        language: wire.language.clone(),
        definition: wire.definition.as_ref().map(Message::encode_to_vec),
    }
}

/// One range; a missing position is line 0.
#[must_use]
pub fn decode_range(wire: &pb::Range) -> SourceRange {
    let position = |p: &Option<pb::Position>| p.as_ref().map_or((0, 0), |p| (p.line, p.character));
    let (start_line, start_character) = position(&wire.start);
    let (end_line, end_character) = position(&wire.end);
    SourceRange {
        start_line,
        start_character,
        end_line,
        end_character,
    }
}

fn location(wire: &pb::Location, infos: usize) -> Result<Location, InvalidDefinition> {
    let bad = InvalidDefinition::SourceIndex(wire.source_index);
    let source = usize::try_from(wire.source_index)
        .ok()
        .filter(|&i| i < infos)
        .ok_or(bad)?;
    Ok(Location {
        source,
        ranges: wire.ranges.iter().map(decode_range).collect(),
    })
}
