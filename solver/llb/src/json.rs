//! Ops and source maps as JSON, in protobuf's own mapping: what people and programs look at when a frontend is asked to
//! convert instead of build, and what debuggers read out of a failure. Decides nothing about their meaning, and is never
//! read back here. The other form, that of Go's structs, is [`crate::op_json`]'s.
//!
//! Goes by the messages' bytes and a table of their fields (BuildKit's `ops.proto`): proto3 leaves out what has its default
//! value, and so does the mapping, which makes what is there what is shown.

use serde_json::{Map, Value};
use shipway_model::Definition;

/// What a field holds.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Bytes,
    Bool,
    /// Up to 32 bits: a number.
    Small,
    /// 64 bits: a string, as JavaScript's numbers can't hold them.
    Large,
    Enum(&'static [&'static str]),
    Message(&'static [Field]),
    /// From strings to something.
    Map(&'static Kind),
}

/// A field: number, name in JSON, kind, and whether there are several of it.
struct Field(u64, &'static str, Kind, bool);

const fn one(number: u64, name: &'static str, kind: Kind) -> Field {
    Field(number, name, kind, false)
}

const fn many(number: u64, name: &'static str, kind: Kind) -> Field {
    Field(number, name, kind, true)
}

use Kind::{Bool, Bytes, Enum, Large, Message, Small, Text};

const OP: &[Field] = &[
    many(
        1,
        "inputs",
        Message(&[one(1, "digest", Text), one(2, "index", Large)]),
    ),
    one(2, "exec", Message(EXEC)),
    one(
        3,
        "source",
        Message(&[
            one(1, "identifier", Text),
            one(2, "attrs", Kind::Map(&Text)),
        ]),
    ),
    one(
        4,
        "file",
        Message(&[many(2, "actions", Message(FILE_ACTION))]),
    ),
    one(5, "build", Message(BUILD)),
    one(6, "merge", Message(&[many(1, "inputs", Message(INPUT))])),
    one(
        7,
        "diff",
        Message(&[
            one(1, "lower", Message(INPUT)),
            one(2, "upper", Message(INPUT)),
        ]),
    ),
    one(
        8,
        "passthrough",
        Message(&[one(1, "id", Text), many(2, "outputs", Large)]),
    ),
    one(10, "platform", Message(PLATFORM)),
    one(11, "constraints", Message(&[many(1, "filter", Text)])),
];
const INPUT: &[Field] = &[one(1, "input", Large)];
const PLATFORM: &[Field] = &[
    one(1, "Architecture", Text),
    one(2, "OS", Text),
    one(3, "Variant", Text),
    one(4, "OSVersion", Text),
    many(5, "OSFeatures", Text),
];
const EXEC: &[Field] = &[
    one(1, "meta", Message(META)),
    many(2, "mounts", Message(MOUNT)),
    one(3, "network", Enum(&["UNSET", "HOST", "NONE"])),
    one(4, "security", Enum(&["SANDBOX", "INSECURE"])),
    many(
        5,
        "secretenv",
        Message(&[
            one(1, "ID", Text),
            one(2, "name", Text),
            one(3, "optional", Bool),
        ]),
    ),
    many(
        6,
        "cdiDevices",
        Message(&[one(1, "name", Text), one(2, "optional", Bool)]),
    ),
];
const META: &[Field] = &[
    many(1, "args", Text),
    many(2, "env", Text),
    one(3, "cwd", Text),
    one(4, "user", Text),
    one(5, "proxyEnv", Message(PROXY)),
    many(
        6,
        "extraHosts",
        Message(&[one(1, "Host", Text), one(2, "IP", Text)]),
    ),
    one(7, "hostname", Text),
    many(
        9,
        "ulimit",
        Message(&[
            one(1, "Name", Text),
            one(2, "Soft", Large),
            one(3, "Hard", Large),
        ]),
    ),
    one(10, "cgroupParent", Text),
    one(11, "removeMountStubsRecursive", Bool),
    many(12, "validExitCodes", Small),
];
const PROXY: &[Field] = &[
    one(1, "httpProxy", Text),
    one(2, "httpsProxy", Text),
    one(3, "ftpProxy", Text),
    one(4, "noProxy", Text),
    one(5, "allProxy", Text),
];
const MOUNT: &[Field] = &[
    one(1, "input", Large),
    one(2, "selector", Text),
    one(3, "dest", Text),
    one(4, "output", Large),
    one(5, "readonly", Bool),
    one(
        6,
        "mountType",
        Enum(&["BIND", "SECRET", "SSH", "CACHE", "TMPFS"]),
    ),
    one(19, "TmpfsOpt", Message(&[one(1, "size", Large)])),
    one(20, "cacheOpt", Message(CACHE)),
    one(21, "secretOpt", Message(SECRET)),
    one(22, "SSHOpt", Message(SECRET)),
    one(23, "resultID", Text),
    one(24, "contentCache", Enum(&["DEFAULT", "ON", "OFF"])),
];
const CACHE: &[Field] = &[
    one(1, "ID", Text),
    one(2, "sharing", Enum(&["SHARED", "PRIVATE", "LOCKED"])),
];
const SECRET: &[Field] = &[
    one(1, "ID", Text),
    one(2, "uid", Small),
    one(3, "gid", Small),
    one(4, "mode", Small),
    one(5, "optional", Bool),
];
const BUILD: &[Field] = &[
    one(1, "builder", Large),
    one(2, "inputs", Kind::Map(&Message(INPUT))),
    one(4, "attrs", Kind::Map(&Text)),
];
const FILE_ACTION: &[Field] = &[
    one(1, "input", Large),
    one(2, "secondaryInput", Large),
    one(3, "output", Large),
    one(4, "copy", Message(COPY)),
    one(5, "mkfile", Message(MKFILE)),
    one(6, "mkdir", Message(MKDIR)),
    one(
        7,
        "rm",
        Message(&[
            one(1, "path", Text),
            one(2, "allowNotFound", Bool),
            one(3, "allowWildcard", Bool),
        ]),
    ),
    one(8, "symlink", Message(SYMLINK)),
];
const COPY: &[Field] = &[
    one(1, "src", Text),
    one(2, "dest", Text),
    one(3, "owner", Message(OWNER)),
    one(4, "mode", Small),
    one(5, "followSymlink", Bool),
    one(6, "dirCopyContents", Bool),
    one(7, "attemptUnpackDockerCompatibility", Bool),
    one(8, "createDestPath", Bool),
    one(9, "allowWildcard", Bool),
    one(10, "allowEmptyWildcard", Bool),
    one(11, "timestamp", Large),
    many(12, "includePatterns", Text),
    many(13, "excludePatterns", Text),
    one(14, "alwaysReplaceExistingDestPaths", Bool),
    one(15, "modeStr", Text),
    many(16, "requiredPaths", Text),
];
const MKFILE: &[Field] = &[
    one(1, "path", Text),
    one(2, "mode", Small),
    one(3, "data", Bytes),
    one(4, "owner", Message(OWNER)),
    one(5, "timestamp", Large),
];
const MKDIR: &[Field] = &[
    one(1, "path", Text),
    one(2, "mode", Small),
    one(3, "makeParents", Bool),
    one(4, "owner", Message(OWNER)),
    one(5, "timestamp", Large),
];
const SYMLINK: &[Field] = &[
    one(1, "oldpath", Text),
    one(2, "newpath", Text),
    one(3, "owner", Message(OWNER)),
    one(4, "timestamp", Large),
];
const OWNER: &[Field] = &[
    one(1, "user", Message(USER)),
    one(2, "group", Message(USER)),
];
const USER: &[Field] = &[
    one(
        1,
        "byName",
        Message(&[one(1, "name", Text), one(2, "input", Large)]),
    ),
    one(2, "byID", Small),
];
const SOURCES: &[Field] = &[
    one(
        1,
        "locations",
        Kind::Map(&Message(&[many(1, "locations", Message(LOCATION))])),
    ),
    many(2, "infos", Message(INFO)),
];
const LOCATION: &[Field] = &[
    one(1, "sourceIndex", Small),
    many(
        2,
        "ranges",
        Message(&[
            one(1, "start", Message(POSITION)),
            one(2, "end", Message(POSITION)),
        ]),
    ),
];
const POSITION: &[Field] = &[one(1, "line", Small), one(2, "character", Small)];
/// Where the file itself came from is left out: how it was sent is no part of what it says.
const INFO: &[Field] = &[
    one(1, "filename", Text),
    one(2, "data", Bytes),
    one(4, "language", Text),
];

/// An encoded op, in protobuf's mapping: what debuggers read out of a failure.
#[must_use]
pub fn op_proto_json(encoded: &[u8]) -> Value {
    message(OP, encoded)
}

/// A definition as BuildKit's conversion shows it: ops and what is known of them by digest, and the source map.
#[must_use]
pub fn definition_json(definition: &Definition) -> Value {
    use prost::Message as _;
    let wire = crate::encode(definition);
    let ops = wire.def.iter().map(|bytes| {
        let digest = shipway_model::Digest::of(bytes);
        (digest.to_string(), message(OP, bytes))
    });
    let ops: Map<String, Value> = ops.collect();
    let known = wire
        .metadata
        .iter()
        .map(|(digest, known)| (digest.clone(), metadata(known)));
    let sources = wire.source.unwrap_or_default().encode_to_vec();
    serde_json::json!({
        "def": ops,
        "metadata": known.collect::<Map<String, Value>>(),
        "source": message(SOURCES, &sources),
    })
}

/// Not protobuf's mapping: BuildKit shows these as Go's structs.
fn metadata(known: &shipway_proto::pb::OpMetadata) -> Value {
    let mut shown = Map::new();
    if known.ignore_cache {
        shown.insert("ignore_cache".into(), true.into());
    }
    if !known.description.is_empty() {
        shown.insert("description".into(), serde_json::json!(known.description));
    }
    if let Some(export) = &known.export_cache {
        let value = if export.value {
            serde_json::json!({"Value": true})
        } else {
            serde_json::json!({})
        };
        shown.insert("export_cache".into(), value);
    }
    if !known.caps.is_empty() {
        shown.insert("caps".into(), serde_json::json!(known.caps));
    }
    if let Some(group) = &known.progress_group {
        let mut value = Map::new();
        for (name, text) in [("id", &group.id), ("name", &group.name)] {
            if !text.is_empty() {
                value.insert(name.into(), text.as_str().into());
            }
        }
        if group.weak {
            value.insert("weak".into(), true.into());
        }
        shown.insert("progress_group".into(), value.into());
    }
    if let Some(limits) = &known.linux_resources {
        let mut value = Map::new();
        let mut note = |name: &str, number: Value| {
            if number != 0 && number != "" {
                value.insert(name.into(), number);
            }
        };
        note("memory", limits.memory.into());
        note("memorySwap", limits.memory_swap.into());
        note("cpuShares", limits.cpu_shares.into());
        note("cpuPeriod", limits.cpu_period.into());
        note("cpuQuota", limits.cpu_quota.into());
        note("cpusetCpus", limits.cpuset_cpus.as_str().into());
        note("cpusetMems", limits.cpuset_mems.as_str().into());
        shown.insert("linux_resources".into(), value.into());
    }
    shown.into()
}

/// A value on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Takes the next field off a message that this program wrote or has decoded before.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Wire<'a>)> {
    let key = varint(bytes)?;
    let wire = match key & 7 {
        0 => Wire::Number(varint(bytes)?),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            let (value, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Wire::Bytes(value)
        }
        _ => return None,
    };
    Some((key >> 3, wire))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn message(fields: &[Field], mut bytes: &[u8]) -> Value {
    let mut shown = Map::new();
    while let Some((number, wire)) = next(&mut bytes) {
        let Some(Field(_, name, kind, several)) = fields.iter().find(|field| field.0 == number)
        else {
            continue;
        };
        if let (Kind::Map(of), Wire::Bytes(entry)) = (kind, &wire) {
            let map = shown.entry(*name).or_insert_with(|| Map::new().into());
            if let Some(map) = map.as_object_mut() {
                let (key, value) = map_entry(of, entry);
                map.insert(key, value);
            }
        } else if *several {
            let list = shown
                .entry(*name)
                .or_insert_with(|| Vec::<Value>::new().into());
            if let Some(list) = list.as_array_mut() {
                list.extend(values(*kind, &wire));
            }
        } else {
            shown.extend(value(*kind, &wire).map(|value| ((*name).to_owned(), value)));
        }
    }
    shown.into()
}

fn map_entry(of: &Kind, mut entry: &[u8]) -> (String, Value) {
    let mut pair = (
        String::new(),
        value(*of, &Wire::Bytes(&[])).unwrap_or_default(),
    );
    while let Some((number, wire)) = next(&mut entry) {
        match (number, &wire) {
            (1, Wire::Bytes(key)) => pair.0 = String::from_utf8_lossy(key).into_owned(),
            _ => pair.1 = value(*of, &wire).unwrap_or_default(),
        }
    }
    pair
}

/// The elements of a repeated field: one, or all of them where numbers are packed.
fn values(kind: Kind, wire: &Wire<'_>) -> Vec<Value> {
    let (Kind::Small | Kind::Large, &Wire::Bytes(mut packed)) = (kind, wire) else {
        return value(kind, wire).into_iter().collect();
    };
    let numbers = std::iter::from_fn(|| varint(&mut packed));
    numbers
        .filter_map(|number| value(kind, &Wire::Number(number)))
        .collect()
}

fn value(kind: Kind, wire: &Wire<'_>) -> Option<Value> {
    use base64::Engine as _;
    Some(match (kind, wire) {
        (Text, Wire::Bytes(bytes)) => String::from_utf8_lossy(bytes).into(),
        (Bytes, Wire::Bytes(bytes)) => base64::engine::general_purpose::STANDARD
            .encode(bytes)
            .into(),
        (Message(fields), Wire::Bytes(bytes)) => message(fields, bytes),
        (Bool, Wire::Number(number)) => (*number != 0).into(),
        (Small, Wire::Number(number)) => number.cast_signed().into(),
        (Large, Wire::Number(number)) => number.cast_signed().to_string().into(),
        (Enum(names), Wire::Number(number)) => {
            let name = usize::try_from(*number).ok().and_then(|at| names.get(at));
            name.map_or_else(|| (*number).into(), |name| (*name).into())
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{FileActions, MkFile, Run, RunMount, State};
    use crate::{Graph, VertexOptions};

    #[test]
    fn a_mount_is_spelled_as_buildkit_reads_it() {
        let mut graph = Graph::default();
        let cache = RunMount::Cache {
            id: "x".into(),
            sharing: shipway_model::op::CacheSharing::Locked,
            state: State::scratch(),
            source: String::new(),
            readonly: false,
        };
        let run = Run::new(["sh".to_owned()]).mount("/c", cache);
        let ran = graph.run(&State::scratch(), run, VertexOptions::default());
        let definition = graph.definition(ran.root(), None).unwrap();
        let shown = op_proto_json(&definition.vertices[0].bytes);
        let mounts = shown["exec"]["mounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["dest"] == "/c").unwrap();
        assert_eq!(
            (&mount["input"], &mount["mountType"]),
            (&"-1".into(), &"CACHE".into())
        );
        assert_eq!(
            mount["cacheOpt"],
            serde_json::json!({"ID": "x", "sharing": "LOCKED"})
        );
    }

    #[test]
    fn what_has_its_default_is_not_shown() {
        let mut graph = Graph::default();
        let file = MkFile {
            path: "/a".into(),
            mode: 0o600,
            data: b"x".to_vec(),
            ..MkFile::default()
        };
        let actions = FileActions::new().mkfile(file);
        let state = graph.file(&State::scratch(), actions, VertexOptions::named("make"));
        let ran = graph.run(
            &state,
            Run::new(["true".to_owned()]),
            VertexOptions::named("run"),
        );
        let definition = graph.definition(ran.root(), None).unwrap();
        let shown = definition_json(&definition);
        let ops: Vec<&Value> = shown["def"].as_object().unwrap().values().collect();
        let file = ops.iter().find(|op| op["file"].is_object()).unwrap();
        let action = &file["file"]["actions"][0];
        assert_eq!(action["input"], "-1");
        assert_eq!(action["mkfile"]["data"], "eA==");
        assert_eq!(action["mkfile"]["mode"], 0o600);
        assert!(action.get("output").is_none());
        let exec = ops.iter().find(|op| op["exec"].is_object()).unwrap();
        assert_eq!(exec["exec"]["meta"]["args"], serde_json::json!(["true"]));
        let named = shown["metadata"].as_object().unwrap().values();
        let named = named.filter(|known| known["description"]["llb.customname"] == "run");
        assert_eq!(named.count(), 1);
    }
}
