//! A key pair per registry that stands for the user's credentials: with it the daemon tells whether a cached token may be
//! used for this client. The key is derived from a random seed on this machine and a salt of the daemon's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use ring::{hmac, signature};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// One registry's seed as its file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Seed {
    #[serde(with = "base64_text")]
    seed: Vec<u8>,
}

mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD
            .decode(String::deserialize(from)?)
            .map_err(serde::de::Error::custom)
    }
}

/// A registry's key.
pub(super) struct Authority {
    pair: Ed25519KeyPair,
}

impl Authority {
    /// Derives the key; without credentials it depends on the salt alone, so that anonymous clients share tokens.
    pub(super) fn derive(salt: &[u8], seed: Option<&[u8]>) -> Result<Self, Error> {
        let mac = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, salt),
            seed.unwrap_or_default(),
        );
        let pair = Ed25519KeyPair::from_seed_unchecked(mac.as_ref())
            .map_err(|error| Error::Answer(format!("deriving a key: {error}")))?;
        Ok(Self { pair })
    }

    pub(super) fn public_key(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    /// The payload behind its signature.
    pub(super) fn sign(&self, payload: &[u8]) -> Vec<u8> {
        let signed: signature::Signature = self.pair.sign(payload);
        [signed.as_ref(), payload].concat()
    }
}

/// The seed of a registry, made on first use and kept beside Docker's configuration. A directory that can't be written
/// gives a seed for this process only.
pub(super) fn seed(dir: Option<PathBuf>, host: &str) -> Result<Vec<u8>, Error> {
    let Some(dir) = dir else { return new_seed() };
    let locked = lock(&dir);
    let path = dir.join(".token_seed");
    let mut seeds: BTreeMap<String, Seed> = std::fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    if let Some(known) = seeds.get(host) {
        return Ok(known.seed.clone());
    }
    let seed = new_seed()?;
    if locked.is_ok() {
        seeds.insert(host.to_owned(), Seed { seed: seed.clone() });
        let text = serde_json::to_string_pretty(&seeds).expect("seeds have a JSON form");
        // Read-only homes are fine: the seed then lives as long as the process.
        let _readonly = write_private(&path, &text);
    }
    Ok(seed)
}

fn lock(dir: &std::path::Path) -> std::io::Result<std::fs::File> {
    std::fs::create_dir_all(dir)?;
    let file = std::fs::File::create(dir.join(".token_seed.lock"))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

fn write_private(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

fn new_seed() -> Result<Vec<u8>, Error> {
    let mut seed = vec![0; 16];
    let filled = SystemRandom::new().fill(&mut seed);
    filled.map_err(|_| Error::Answer("no randomness from the system".to_owned()))?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn the_daemon_can_check_what_is_signed() {
        let authority = Authority::derive(b"salt", Some(b"seed")).unwrap();
        let signed = authority.sign(b"payload");
        let (signature, payload) = signed.split_at(64);
        assert_eq!(payload, b"payload");
        UnparsedPublicKey::new(&ED25519, authority.public_key())
            .verify(payload, signature)
            .unwrap();
        let other = Authority::derive(b"salt", None).unwrap();
        assert_ne!(other.public_key(), authority.public_key());
    }

    #[test]
    fn a_seed_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = || Some(dir.path().join("docker"));
        let first = seed(path(), "a").unwrap();
        assert_eq!(seed(path(), "a").unwrap(), first);
        assert_ne!(seed(path(), "b").unwrap(), first);
        assert_eq!(seed(path(), "a").unwrap(), first);
    }
}
