//! LLB from a file or standard input. Decodes definitions and single vertices; checks nothing else.

use std::io::Read;

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use shipway_proto::pb;

use crate::error::Error;

/// One vertex with its digest.
pub(crate) struct Vertex {
    pub(crate) digest: String,
    pub(crate) op: pb::Op,
}

/// Reads an encoded definition.
pub(crate) fn read(mut from: impl Read) -> Result<pb::Definition, Error> {
    let mut encoded = Vec::new();
    from.read_to_end(&mut encoded)
        .map_err(|source| Error::Stream {
            doing: "reading the definition",
            source,
        })?;
    pb::Definition::decode(encoded.as_slice())
        .map_err(|error| Error::Answer(format!("failed to parse input: {error}")))
}

/// All vertices of a definition in its order.
pub(crate) fn vertices(definition: &pb::Definition) -> Result<Vec<Vertex>, Error> {
    let decode = |encoded: &prost::bytes::Bytes| {
        let digest = digest(encoded);
        let op = pb::Op::decode(encoded.clone())
            .map_err(|error| Error::Answer(format!("failed to parse op {digest}: {error}")))?;
        Ok(Vertex { digest, op })
    };
    definition.def.iter().map(decode).collect()
}

/// Marks every vertex so that the cache does not answer it.
pub(crate) fn ignore_cache(definition: &mut pb::Definition) {
    for encoded in &definition.def {
        let metadata = definition.metadata.entry(digest(encoded)).or_default();
        metadata.ignore_cache = true;
    }
}

fn digest(encoded: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(encoded) {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cache_marks_each_vertex_under_its_digest() {
        let mut definition = pb::Definition {
            def: vec!["".into()],
            ..Default::default()
        };
        ignore_cache(&mut definition);
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(definition.metadata[empty].ignore_cache);
        assert_eq!(vertices(&definition).unwrap()[0].digest, empty);
    }
}
