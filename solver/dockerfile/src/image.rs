//! The image configuration that a build makes, in the JSON form and key order that Docker's own builders write.
//! Durations are nanoseconds; times are RFC 3339 texts, kept as a base image has them.
#![expect(
    clippy::zero_sized_map_values,
    reason = "sets are written as maps to empty objects"
)]

mod env;

pub use env::Environment;

use serde::{Deserialize, Deserializer, Serialize};
use shipway_model::Platform;
use shipway_model::image::History;
use std::collections::BTreeMap;

/// The variable every image has, so that programs are found.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Comment of each history entry.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// An image configuration: OCI's with Docker's additions. Keys of a base image that are neither are dropped.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in the OCI image specification")]
pub struct Image {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub author: String,
    #[serde(default, deserialize_with = "nullable")]
    pub architecture: String,
    #[serde(default, deserialize_with = "nullable")]
    pub os: String,
    #[serde(rename = "os.version", default, deserialize_with = "nullable")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(rename = "os.features", default, deserialize_with = "nullable")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub variant: String,
    #[serde(default, deserialize_with = "nullable")]
    pub rootfs: RootFs,
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub history: Vec<History>,
    #[serde(default, deserialize_with = "nullable")]
    pub config: Config,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in the OCI image specification")]
pub struct RootFs {
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: String,
    #[serde(default)]
    pub diff_ids: Option<Vec<String>>,
}

/// How containers of the image run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "named as in the OCI image specification")]
pub struct Config {
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub exposed_ports: BTreeMap<String, Nothing>,
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "Environment::is_empty"
    )]
    pub env: Environment,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub volumes: BTreeMap<String, Nothing>,
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub stop_signal: String,
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub args_escaped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

/// The value of a set's member: `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Nothing {}

/// How a container's health is found out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "named as in Docker's image specification")]
pub struct Healthcheck {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// `null` is as good as nothing.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

impl Image {
    /// The configuration of a stage that starts from nothing.
    pub(crate) fn scratch(platform: &Platform) -> Self {
        let mut image = Self {
            rootfs: RootFs {
                kind: "layers".into(),
                diff_ids: None,
            },
            config: Config {
                working_dir: "/".into(),
                ..Config::default()
            },
            ..Self::default()
        };
        image.set_platform(platform.clone());
        if platform.os != "windows" {
            image.config.env.set("PATH", DEFAULT_PATH);
        }
        image
    }

    /// Reads a configuration.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The JSON, compact, with the escapes that Go's encoder makes.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Plain data always has a JSON form.
        let json = serde_json::to_string(self).unwrap_or_default();
        go_escaped(&json).into_bytes()
    }

    /// The platform that it says.
    pub(crate) fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            variant: self.variant.clone(),
        }
    }

    pub(crate) fn set_platform(&mut self, platform: Platform) {
        self.architecture = platform.architecture;
        self.os = platform.os;
        self.os_version = platform.os_version;
        self.os_features = platform.os_features;
        self.variant = platform.variant;
    }

    /// True where there is no layer at all.
    pub(crate) fn has_no_layers(&self) -> bool {
        let ids = self.rootfs.diff_ids.as_ref().is_none_or(Vec::is_empty);
        ids && self.history.iter().all(|entry| entry.empty_layer)
    }

    /// Adds a history entry; `epoch` in seconds since 1970 is its time, where given.
    pub(crate) fn commit(&mut self, text: String, layer: bool, epoch: Option<i64>) {
        self.history.push(History {
            created: epoch.and_then(rfc3339),
            created_by: text,
            author: String::new(),
            comment: HISTORY_COMMENT.into(),
            empty_layer: !layer,
        });
    }
}

fn rfc3339(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds)
        .ok()
        .map(|time| time.to_string())
}

/// `<`, `>` and `&` only occur inside of JSON strings.
fn go_escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        let (plain, special) = rest.split_at(at);
        escaped.push_str(plain);
        let mut behind = special.chars();
        escaped.push_str(match behind.next() {
            Some('<') => "\\u003c",
            Some('>') => "\\u003e",
            Some('&') => "\\u0026",
            Some('\u{2028}') => "\\u2028",
            _ => "\\u2029",
        });
        rest = behind.as_str();
    }
    escaped.push_str(rest);
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_with_its_known_keys() {
        let json = br#"{"architecture":"amd64","os":"linux","x":1,"config":{"Env":null,"Cmd":["sh"],"ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["NONE"]}},"rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let mut image = Image::parse(json).unwrap();
        image.config.env.set("A", "1");
        image.config.env.set("B", "2");
        image.config.env.set("A", "<3>");
        image.commit("ENV A".into(), false, Some(1));
        let want = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":null},"history":[{"created":"1970-01-01T00:00:01Z","created_by":"ENV A","comment":"buildkit.dockerfile.v0","empty_layer":true}],"config":{"ExposedPorts":{"80/tcp":{}},"Env":["A=\u003c3\u003e","B=2"],"Cmd":["sh"],"Healthcheck":{"Test":["NONE"]}}}"#;
        assert_eq!(String::from_utf8(image.to_json()).unwrap(), want);
        assert!(!image.has_no_layers() || image.history[0].empty_layer);
    }
}
