//! What a frontend gives back: one result, or one for each platform, and what is said about them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use shipway_model::Platform;
use shipway_proto::gateway as wire;
use shipway_proto::gateway::llb_bridge_client::LlbBridgeClient;
use tonic::transport::Channel;

use crate::{Error, Reference};

/// What a frontend gives back.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    single: Option<Reference>,
    by_platform: Vec<(Platform, Option<Reference>)>,
    metadata: BTreeMap<String, Bytes>,
}

/// Metadata key of an image's configuration.
const CONFIG: &str = "containerimage.config";

impl Answer {
    /// One result; `None` is the empty filesystem.
    #[must_use]
    pub fn new(result: Option<Reference>) -> Self {
        Self {
            single: result,
            ..Self::default()
        }
    }

    /// Says something about the result. Keys are the exporters' business.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// The configuration of the image that the result becomes.
    #[must_use]
    pub fn config(self, config: &Value) -> Self {
        self.metadata(CONFIG, config.to_string())
    }

    /// A result for one platform of several, with its configuration.
    #[must_use]
    pub fn platform(
        mut self,
        platform: &Platform,
        result: Option<Reference>,
        config: &Value,
    ) -> Self {
        self.by_platform.push((platform.clone(), result));
        let key = format!("{CONFIG}/{}", platform.key());
        self.metadata(key, config.to_string())
    }

    fn into_wire(self) -> wire::Result {
        let reference = |of: Option<Reference>| of.map_or_else(wire::Ref::default, Reference::wire);
        let mut metadata = self.metadata;
        let result = if self.by_platform.is_empty() {
            wire::result::Result::Ref(reference(self.single))
        } else {
            let listed = self.by_platform.iter().map(|(platform, _)| {
                let key = platform.key();
                json!({"ID": key, "Platform": platform})
            });
            let listed = json!({"Platforms": listed.collect::<Vec<_>>()});
            metadata.insert("refs.platforms".to_owned(), listed.to_string().into());
            let each = self.by_platform.into_iter();
            let refs = each.map(|(platform, of)| (platform.key(), reference(of)));
            wire::result::Result::Refs(wire::RefMap {
                refs: refs.collect(),
            })
        };
        wire::Result {
            result: Some(result),
            metadata,
            attestations: BTreeMap::new(),
        }
    }
}

/// Gives the daemon the answer, or the error.
pub(crate) async fn give_back(
    bridge: &mut LlbBridgeClient<Channel>,
    answer: Result<Answer, Error>,
) -> Result<(), Error> {
    let message = match answer {
        Ok(answer) => wire::ReturnRequest {
            result: Some(answer.into_wire()),
            error: None,
        },
        Err(error) => wire::ReturnRequest {
            result: None,
            error: Some(error.to_wire()),
        },
    };
    let returned = bridge.r#return(message).await;
    returned
        .map(drop)
        .map_err(Error::call("returning the result"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_listed_with_their_results() {
        let (amd, arm) = (
            Platform::new("linux", "amd64", ""),
            Platform::new("linux", "arm64", ""),
        );
        let answer = Answer::default();
        let answer = answer
            .platform(&amd, None, &json!({}))
            .platform(&arm, None, &json!({}));
        let wire = answer.into_wire();
        let listed: Value = serde_json::from_slice(&wire.metadata["refs.platforms"]).unwrap();
        assert_eq!(listed["Platforms"][1]["ID"], "linux/arm64");
        assert!(
            wire.metadata
                .contains_key("containerimage.config/linux/amd64")
        );
        assert!(
            matches!(wire.result, Some(wire::result::Result::Refs(refs)) if refs.refs.len() == 2)
        );
    }
}
