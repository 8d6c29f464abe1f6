//! Domain values become wire messages. Ops that came from outside keep their bytes; new ops are marshalled the way
//! BuildKit's client does, so that equal graphs have equal digests.

mod exec;
mod file;

use prost::Message;
use shipway_model::definition::{LinuxResources, SourceInfo};
use shipway_model::op::{BuildOp, DiffOp, ExecOp, MergeOp, Op, PassthroughOp, SourceOp};
use shipway_model::{Definition, Digest, Edge, Platform, SourceMaps, SourceRange, VertexMeta};
use shipway_proto::pb;
use std::collections::BTreeMap;

pub use exec::encode_mount;

/// Writes a definition. The empty one becomes the empty message.
#[must_use]
pub fn encode(definition: &Definition) -> pb::Definition {
    let Some(target) = definition.target else {
        return pb::Definition::default();
    };
    let vertices = &definition.vertices;
    let mut wire = pb::Definition {
        def: vertices
            .iter()
            .map(|vertex| vertex.bytes.to_vec().into())
            .collect(),
        metadata: vertices
            .iter()
            .map(|vertex| (vertex.digest.to_string(), encode_meta(&vertex.meta)))
            .collect(),
        source: Some(encode_sources(&definition.source_maps)),
    };
    let input = encode_input(vertices[target.vertex].digest, target);
    let terminal = pb::Op {
        inputs: vec![input],
        ..pb::Op::default()
    }
    .encode_to_vec();
    wire.metadata.insert(
        Digest::of(&terminal).to_string(),
        terminal_meta(&wire.metadata),
    );
    wire.def.push(terminal.into());
    wire
}

/// The result vertex names the capabilities that the metadata of the others stands for.
fn terminal_meta(metadata: &BTreeMap<String, pb::OpMetadata>) -> pb::OpMetadata {
    let mut caps = BTreeMap::from([
        ("constraints".to_owned(), true),
        ("platform".to_owned(), true),
    ]);
    for meta in metadata.values() {
        let used = [
            ("meta.ignorecache", meta.ignore_cache),
            ("meta.description", !meta.description.is_empty()),
            ("meta.exportcache", meta.export_cache.is_some()),
        ];
        caps.extend(
            used.iter()
                .filter(|(_, on)| *on)
                .map(|(cap, _)| ((*cap).to_owned(), true)),
        );
    }
    pb::OpMetadata {
        caps,
        ..pb::OpMetadata::default()
    }
}

/// A definition as the bytes of its message.
#[must_use]
pub fn encode_bytes(definition: &Definition) -> Vec<u8> {
    prost::Message::encode_to_vec(&encode(definition))
}

/// Marshals one op. `inputs` are in the op's order; each edge's digest is that of its vertex.
#[must_use]
pub fn encode_op(
    op: &Op,
    inputs: &[(Digest, usize)],
    platform: Option<&Platform>,
    constraints: &[String],
) -> Vec<u8> {
    let body = match op {
        Op::Exec(exec) => return encode_exec(exec, frame(inputs, platform, constraints)),
        Op::Source(source) => pb::op::Op::Source(encode_source(source)),
        Op::File(file) => pb::op::Op::File(file::encode(file)),
        Op::Build(build) => return encode_build(build, frame(inputs, platform, constraints)),
        Op::Merge(merge) => pb::op::Op::Merge(encode_merge(merge)),
        Op::Diff(diff) => pb::op::Op::Diff(encode_diff(diff)),
        Op::Passthrough(pass) => pb::op::Op::Passthrough(encode_passthrough(pass)),
    };
    let body = pb::Op {
        op: Some(body),
        ..pb::Op::default()
    };
    let mut bytes = frame(inputs, platform, constraints);
    bytes.reserve(body.encoded_len());
    body.encode_raw(&mut bytes);
    bytes
}

/// Writes a process behind `frame`. Its variables are written by hand, since many processes have many: as a message they
/// would all be copied once more.
fn encode_exec(exec: &ExecOp, mut frame: Vec<u8>) -> Vec<u8> {
    let (before, after) = exec::encode_meta(&exec.meta);
    let variables = exec.meta.env.iter();
    let variables_len: usize = variables
        .clone()
        .map(|variable| prost::encoding::string::encoded_len(ENV, variable))
        .sum();
    let meta_len = before.encoded_len() + variables_len + after.encoded_len();
    let rest = exec::encode(exec);
    let meta_field = prost::encoding::key_len(META)
        + prost::encoding::encoded_len_varint(meta_len as u64)
        + meta_len;
    let exec_len = meta_field + rest.encoded_len();
    frame.reserve(exec_len + 2 * 11);
    begin(EXEC, exec_len, &mut frame);
    begin(META, meta_len, &mut frame);
    before.encode_raw(&mut frame);
    for variable in variables {
        field(ENV, variable.as_bytes(), &mut frame);
    }
    after.encode_raw(&mut frame);
    rest.encode_raw(&mut frame);
    frame
}

/// Number of an op's field that is a process.
const EXEC: u32 = 2;
/// Number of a process's field that describes how it is started.
const META: u32 = 1;
/// Number of that description's field that is a variable.
const ENV: u32 = 2;

/// All of an op but what it does. Go writes a oneof behind all other fields, and digests are made of what Go writes.
fn frame(
    inputs: &[(Digest, usize)],
    platform: Option<&Platform>,
    constraints: &[String],
) -> Vec<u8> {
    let frame = pb::Op {
        platform: platform.map(encode_platform),
        constraints: Some(pb::WorkerConstraints {
            filter: constraints.to_vec(),
        }),
        ..pb::Op::default()
    };
    // An input takes less than 100 bytes, and most of what follows a frame is short.
    let mut bytes = Vec::with_capacity(100 * inputs.len() + frame.encoded_len() + 256);
    for &(digest, index) in inputs {
        put_input(digest, index, &mut bytes);
    }
    frame.encode_raw(&mut bytes);
    bytes
}

/// Writes an input by hand, since graphs have many: as a message each would be a text and a list of its own.
fn put_input(digest: Digest, index: usize, to: &mut Vec<u8>) {
    let digits = digest.digits();
    let index = position(Some(index));
    let index_len = if index == 0 {
        0
    } else {
        prost::encoding::int64::encoded_len(INPUT_INDEX, &index)
    };
    let digest_len = ALGORITHM.len() + digits.len();
    let digest_field = prost::encoding::key_len(INPUT_DIGEST)
        + prost::encoding::encoded_len_varint(digest_len as u64)
        + digest_len;
    begin(INPUT, digest_field + index_len, to);
    begin(INPUT_DIGEST, digest_len, to);
    to.extend_from_slice(ALGORITHM);
    to.extend_from_slice(&digits);
    if index != 0 {
        prost::encoding::int64::encode(INPUT_INDEX, &index, to);
    }
}

/// Number of an op's field that is an input, and of the input's fields.
const INPUT: u32 = 1;
const INPUT_DIGEST: u32 = 1;
const INPUT_INDEX: u32 = 2;
/// What stands before the digits of a digest.
const ALGORITHM: &[u8] = b"sha256:";

/// A platform as an op carries it.
#[must_use]
pub fn encode_platform(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

/// What describes a vertex without being part of it.
#[must_use]
pub fn encode_meta(meta: &VertexMeta) -> pb::OpMetadata {
    let limits = |l: &LinuxResources| pb::LinuxResources {
        memory: l.memory,
        memory_swap: l.memory_swap,
        cpu_shares: l.cpu_shares,
        cpu_period: l.cpu_period,
        cpu_quota: l.cpu_quota,
        cpuset_cpus: l.cpuset_cpus.clone(),
        cpuset_mems: l.cpuset_mems.clone(),
    };
    pb::OpMetadata {
        ignore_cache: meta.ignore_cache,
        description: meta.description.clone(),
        export_cache: meta.export_cache.map(|value| pb::ExportCache { value }),
        caps: meta.caps.clone(),
        progress_group: meta.progress_group.as_ref().map(|group| pb::ProgressGroup {
            id: group.id.clone(),
            name: group.name.clone(),
            weak: group.weak,
        }),
        linux_resources: meta.linux_resources.as_deref().map(limits),
    }
}

/// Source files and the lines of each vertex.
#[must_use]
pub fn encode_sources(maps: &SourceMaps) -> pb::Source {
    let location = |location: &shipway_model::definition::Location| pb::Location {
        source_index: i32::try_from(location.source).unwrap_or(i32::MAX),
        ranges: location.ranges.iter().map(encode_range).collect(),
    };
    // An empty message in a map is left out of its entry, and BuildKit refuses the entry then.
    let located = maps.locations.iter().filter(|(_, all)| !all.is_empty());
    let locations = located.map(|(digest, locations)| {
        let locations = locations.iter().map(location).collect();
        (digest.to_string(), pb::Locations { locations })
    });
    pb::Source {
        locations: locations.collect(),
        infos: maps.infos.iter().map(encode_info).collect(),
    }
}

/// A definition without places that name no lines: an empty message in a map is left out of its entry, and BuildKit
/// refuses the entry then.
fn without_empty_locations(mut definition: pb::Definition) -> pb::Definition {
    if let Some(source) = &mut definition.source {
        source.locations.retain(|_, all| !all.locations.is_empty());
        for info in &mut source.infos {
            info.definition = info.definition.take().map(without_empty_locations);
        }
    }
    definition
}

/// One source file.
#[must_use]
pub fn encode_info(info: &SourceInfo) -> pb::SourceInfo {
    let definition = info.definition.as_ref();
    pb::SourceInfo {
        filename: info.filename.clone(),
        data: info.data.clone().into(),
        // Only ever holds what `decode_info` or a caller of this crate encoded.
        definition: definition
            .and_then(|bytes| pb::Definition::decode(bytes.as_slice()).ok())
            .map(without_empty_locations),
        language: info.language.clone(),
    }
}

/// One range.
#[must_use]
pub fn encode_range(range: &SourceRange) -> pb::Range {
    pb::Range {
        start: Some(pb::Position {
            line: range.start_line,
            character: range.start_character,
        }),
        end: Some(pb::Position {
            line: range.end_line,
            character: range.end_character,
        }),
    }
}

fn encode_input(digest: Digest, edge: Edge) -> pb::Input {
    pb::Input {
        digest: digest.to_string(),
        index: position(Some(edge.output)),
    }
}

/// -1 stands for none.
pub(crate) fn position(index: Option<usize>) -> i64 {
    index.map_or(-1, |index| i64::try_from(index).unwrap_or(i64::MAX))
}

fn encode_source(source: &SourceOp) -> pb::SourceOp {
    pb::SourceOp {
        identifier: source.identifier.clone(),
        attrs: source.attrs.clone(),
    }
}

/// Writes a build op behind `frame`, its inputs by hand: the first input is an empty message, which prost leaves out of a
/// map's entry, and BuildKit's daemon ends itself over such an entry.
fn encode_build(build: &BuildOp, mut frame: Vec<u8>) -> Vec<u8> {
    let around = |builder: i64, attrs: &BTreeMap<String, String>| {
        let op = pb::BuildOp {
            builder,
            attrs: attrs.clone(),
            ..pb::BuildOp::default()
        };
        op.encode_to_vec()
    };
    let mut body = around(position(build.builder), &BTreeMap::new());
    for (name, &index) in &build.inputs {
        let input = pb::BuildInput {
            input: position(Some(index)),
        };
        let mut entry = Vec::new();
        field(1, name.as_bytes(), &mut entry);
        field(2, &input.encode_to_vec(), &mut entry);
        field(2, &entry, &mut body);
    }
    body.extend(around(0, &build.attrs));
    field(5, &body, &mut frame);
    frame
}

/// A field of bytes, empty or not.
fn field(number: u32, value: &[u8], to: &mut Vec<u8>) {
    begin(number, value.len(), to);
    to.extend_from_slice(value);
}

/// What stands before the `len` bytes of a field.
fn begin(number: u32, len: usize, to: &mut Vec<u8>) {
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, to);
    prost::encoding::encode_varint(len as u64, to);
}

fn encode_merge(merge: &MergeOp) -> pb::MergeOp {
    let input = |&index: &usize| pb::MergeInput {
        input: position(Some(index)),
    };
    pb::MergeOp {
        inputs: merge.inputs.iter().map(input).collect(),
    }
}

fn encode_diff(diff: &DiffOp) -> pb::DiffOp {
    pb::DiffOp {
        lower: Some(pb::LowerDiffInput {
            input: position(diff.lower),
        }),
        upper: Some(pb::UpperDiffInput {
            input: position(diff.upper),
        }),
    }
}

fn encode_passthrough(pass: &PassthroughOp) -> pb::PassthroughOp {
    let output = |&input: &Option<usize>| position(Some(input.unwrap_or(0)));
    pb::PassthroughOp {
        id: pass.id.clone(),
        outputs: pass.outputs.iter().map(output).collect(),
    }
}
