//! Bytes of a key store's rows. It decides the layout on disk and nothing else.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shipway_model::Digest;

use crate::link::{KeyId, KeyParts, Link, LinkRow};
use crate::record::{ResultId, ResultInfo, ResultUsage};

const LINK: u8 = b'l';
const BACKLINK: u8 = b'b';
const RECORD: u8 = b'r';
const KEY_OF: u8 = b'k';
pub(crate) const USAGE: u8 = b'u';
const PARTS: u8 = b'p';

fn keyed(kind: u8, key: &KeyId) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + 32 + 4 + 32 + 33 + 32);
    row.push(kind);
    row.extend_from_slice(key.as_bytes());
    row
}

fn push_link(row: &mut Vec<u8>, link: &Link) {
    row.extend_from_slice(&link.input.to_be_bytes());
    row.extend_from_slice(link.step.as_bytes());
    row.push(u8::from(link.selector.is_some()));
    row.extend_from_slice(&link.selector.map_or([0; 32], |s| *s.as_bytes()));
}

pub(crate) fn links_from(from: &KeyId) -> Vec<u8> {
    keyed(LINK, from)
}

pub(crate) fn targets(from: &KeyId, link: &Link) -> Vec<u8> {
    let mut row = links_from(from);
    push_link(&mut row, link);
    row
}

pub(crate) fn link(of: &LinkRow) -> Vec<u8> {
    let mut row = targets(&of.from, &of.link);
    row.extend_from_slice(of.to.as_bytes());
    row
}

pub(crate) fn backlinks(to: &KeyId) -> Vec<u8> {
    keyed(BACKLINK, to)
}

pub(crate) fn backlink(of: &LinkRow) -> Vec<u8> {
    let mut row = backlinks(&of.to);
    row.extend_from_slice(of.from.as_bytes());
    push_link(&mut row, &of.link);
    row
}

pub(crate) fn decode_backlink(row: &[u8]) -> Option<(KeyId, Link)> {
    let (_, row) = row.split_at_checked(1 + 32)?;
    let (from, row) = row.split_first_chunk::<32>()?;
    let (input, row) = row.split_first_chunk::<4>()?;
    let (step, row) = row.split_first_chunk::<32>()?;
    let (&selected, row) = row.split_first()?;
    let selector = row.first_chunk::<32>()?;
    let link = Link {
        input: u32::from_be_bytes(*input),
        step: Digest::from_bytes(*step),
        selector: (selected == 1).then(|| Digest::from_bytes(*selector)),
    };
    Some((KeyId::from_bytes(*from), link))
}

pub(crate) fn last_key(row: &[u8]) -> Option<KeyId> {
    row.last_chunk::<32>().copied().map(KeyId::from_bytes)
}

pub(crate) fn records(key: &KeyId) -> Vec<u8> {
    keyed(RECORD, key)
}

pub(crate) fn record(key: &KeyId, result: &ResultId) -> Vec<u8> {
    let mut row = records(key);
    row.extend_from_slice(result.as_str().as_bytes());
    row
}

pub(crate) fn result_of_record(row: &[u8]) -> Option<ResultId> {
    std::str::from_utf8(row.get(33..)?).ok().map(ResultId::new)
}

/// Names are followed by a byte that no UTF-8 text contains, so that no name is another's prefix.
pub(crate) fn keys_of(result: &ResultId) -> Vec<u8> {
    let mut row = vec![KEY_OF];
    row.extend_from_slice(result.as_str().as_bytes());
    row.push(0xff);
    row
}

pub(crate) fn key_of(result: &ResultId, key: &KeyId) -> Vec<u8> {
    let mut row = keys_of(result);
    row.extend_from_slice(key.as_bytes());
    row
}

pub(crate) fn usage(result: &ResultId) -> Vec<u8> {
    let mut row = vec![USAGE];
    row.extend_from_slice(result.as_str().as_bytes());
    row
}

pub(crate) fn result_of_usage(row: &[u8]) -> Option<ResultId> {
    std::str::from_utf8(row.get(1..)?).ok().map(ResultId::new)
}

pub(crate) fn parts(key: &KeyId) -> Vec<u8> {
    keyed(PARTS, key)
}

pub(crate) fn decode_time(value: &[u8]) -> Option<Timestamp> {
    let nanos = i128::from_be_bytes(value.try_into().ok()?);
    Timestamp::from_nanosecond(nanos).ok()
}

#[derive(Serialize, Deserialize)]
struct StoredUsage {
    created_at: Timestamp,
    description: String,
    kind: String,
    last_used_at: Option<Timestamp>,
    usage_count: u64,
}

pub(crate) fn encode_usage(usage: &ResultUsage) -> Vec<u8> {
    let stored = StoredUsage {
        created_at: usage.info.created_at,
        description: usage.info.description.clone(),
        kind: usage.info.kind.clone(),
        last_used_at: usage.last_used_at,
        usage_count: usage.usage_count,
    };
    serde_json::to_vec(&stored).expect("a struct of texts and numbers is JSON")
}

pub(crate) fn decode_usage(result: ResultId, value: &[u8]) -> Option<ResultUsage> {
    let stored: StoredUsage = serde_json::from_slice(value).ok()?;
    Some(ResultUsage {
        result,
        info: ResultInfo {
            created_at: stored.created_at,
            description: stored.description,
            kind: stored.kind,
        },
        last_used_at: stored.last_used_at,
        usage_count: stored.usage_count,
    })
}

pub(crate) fn encode_parts(parts: &KeyParts) -> Vec<u8> {
    serde_json::to_vec(&parts.0).expect("pairs of texts are JSON")
}

pub(crate) fn decode_parts(value: &[u8]) -> Option<KeyParts> {
    serde_json::from_slice(value).ok().map(KeyParts)
}
