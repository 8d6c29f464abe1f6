//! What a frontend gives back: lazy results by platform, and metadata such as image configurations.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shipway_attest::Head;
use shipway_model::Platform;

use crate::Ref;

/// Results of a frontend.
#[derive(Debug, Clone, Default)]
pub struct FrontendResult {
    /// The results.
    pub refs: Refs,
    /// `containerimage.config`, `refs.platforms`, `result.json`, …
    pub metadata: BTreeMap<String, Bytes>,
    /// What is said of the results, by their platforms' keys.
    pub attestations: BTreeMap<String, Vec<Attestation>>,
}

/// Something that is said of a result.
#[derive(Debug, Clone)]
pub struct Attestation {
    /// What it is.
    pub head: Head,
    /// The result that holds it.
    pub content: Option<Ref>,
}

/// One result, or one by platform. `None` is the empty filesystem.
#[derive(Debug, Clone)]
pub enum Refs {
    /// One result.
    Single(Option<Ref>),
    /// By key, as `refs.platforms` lists them.
    Map(Vec<(String, Option<Ref>)>),
}

impl Default for Refs {
    fn default() -> Self {
        Self::Single(None)
    }
}

/// Metadata key of an image's configuration; `/<platform key>` is appended for one of several.
pub const CONFIG_KEY: &str = "containerimage.config";
/// Metadata key of the configuration of the image that a result was built upon.
pub const BASE_CONFIG_KEY: &str = "containerimage.base.config";
/// Metadata key of the list of platforms, JSON of [`Platforms`].
pub const PLATFORMS_KEY: &str = "refs.platforms";

/// Value of [`PLATFORMS_KEY`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Platforms {
    /// In the order asked for.
    pub platforms: Vec<PlatformEntry>,
}

/// One platform of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformEntry {
    /// Key in the result map.
    #[serde(rename = "ID")]
    pub id: String,
    /// The platform.
    #[serde(rename = "Platform")]
    pub platform: Platform,
}

impl FrontendResult {
    /// Every result, and then those that hold attestations.
    pub fn every_ref(&self) -> impl Iterator<Item = &Ref> {
        let (single, map): (Option<&Ref>, &[(String, Option<Ref>)]) = match &self.refs {
            Refs::Single(single) => (single.as_ref(), &[]),
            Refs::Map(map) => (None, map),
        };
        let of_map = map.iter().filter_map(|(_, of)| of.as_ref());
        let attestations = self.attestations.values().flatten();
        let content = attestations.filter_map(|attestation| attestation.content.as_ref());
        single.into_iter().chain(of_map).chain(content)
    }

    /// The list of platforms, where there is one and it is readable.
    #[must_use]
    pub fn platforms(&self) -> Option<Platforms> {
        self.metadata
            .get(PLATFORMS_KEY)
            .and_then(|json| serde_json::from_slice(json).ok())
    }

    /// Metadata of one platform: `key/<platform key>`, else plain `key`.
    #[must_use]
    pub fn metadata_of(&self, key: &str, platform: &str) -> Option<&Bytes> {
        self.metadata
            .get(&format!("{key}/{platform}"))
            .or_else(|| self.metadata.get(key))
    }
}
