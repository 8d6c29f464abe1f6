//! The image configuration that is exported: the frontend's, with the layers that really came out, a history that accounts
//! for each of them, and times. Unknown keys live on; top-level keys are sorted, as BuildKit writes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use shipway_model::{Digest, Failure, Platform};

/// What is known of one layer of the image.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LayerFacts {
    /// Digest of its archive.
    pub(crate) diff_id: Digest,
    /// When it was made.
    pub(crate) created: Option<Timestamp>,
    /// What made it.
    pub(crate) description: String,
}

/// `PATH` of an image without one.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an image configuration is made from.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Given<'a> {
    /// The frontend's configuration.
    pub(crate) config: Option<&'a [u8]>,
    /// Cache records.
    pub(crate) cache: Option<&'a [u8]>,
}

/// Key of the cache records in a configuration, base64.
const CACHE_KEY: &str = "moby.buildkit.cache.v0";

/// The configuration's bytes.
pub(crate) fn finish(
    given: Given<'_>,
    platform: &Platform,
    layers: &[LayerFacts],
    epoch: Option<i64>,
) -> Result<Vec<u8>, Failure> {
    let mut config = match given.config {
        Some(bytes) if bytes == b"null" => {
            return Err(Failure::new("invalid null image config for export"));
        }
        Some(bytes) => serde_json::from_slice::<Map<String, Value>>(bytes)
            .map_err(|e| Failure::from_error(&e).context("invalid image config for export"))?,
        None => default_config(platform),
    };
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.diff_id).collect();
    let diff_ids = if diff_ids.is_empty() {
        Value::Null
    } else {
        json!(diff_ids)
    };
    config.insert(
        "rootfs".into(),
        json!({"type": "layers", "diff_ids": diff_ids}),
    );
    let entries = match config.remove("history") {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    };
    let epoch = epoch.and_then(|seconds| Timestamp::from_second(seconds).ok());
    let history = history(entries, layers);
    let created = created(&config, &history, epoch);
    config.insert(
        "history".into(),
        if history.is_empty() {
            Value::Null
        } else {
            history.into()
        },
    );
    config.insert("created".into(), created);
    if let Some(cache) = given.cache {
        config.insert(CACHE_KEY.into(), STANDARD.encode(cache).into());
    }
    let mut sorted: Vec<(String, Value)> = config.into_iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let sorted: Map<String, Value> = sorted.into_iter().collect();
    serde_json::to_vec(&sorted)
        .map_err(|e| Failure::from_error(&e).context("writing the image config"))
}

fn default_config(platform: &Platform) -> Map<String, Value> {
    let mut config = Map::new();
    config.insert("architecture".into(), platform.architecture.clone().into());
    config.insert("os".into(), platform.os.clone().into());
    if !platform.variant.is_empty() {
        config.insert("variant".into(), platform.variant.clone().into());
    }
    config.insert("config".into(), json!({"Env": [PATH], "WorkingDir": "/"}));
    config
}

fn is_empty_layer(entry: &Value) -> bool {
    entry["empty_layer"].as_bool().unwrap_or(false)
}

/// One entry per layer, each with a time.
fn history(mut entries: Vec<Value>, layers: &[LayerFacts]) -> Vec<Value> {
    let mut accounted = 0;
    for entry in &mut entries {
        if is_empty_layer(entry) {
            continue;
        }
        if accounted == layers.len() {
            entry["empty_layer"] = true.into();
        } else {
            accounted += 1;
        }
    }
    for layer in &layers[accounted..] {
        entries.push(json!({
            "created_by": layer.description,
            "comment": "buildkit.exporter.image.v0",
        }));
    }
    let mut facts = layers.iter();
    for entry in entries.iter_mut().filter(|entry| !is_empty_layer(entry)) {
        let created = facts.next().and_then(|layer| layer.created);
        if entry["created"].is_null()
            && let Some(created) = created
        {
            entry["created"] = created.to_string().into();
        }
    }
    date(&mut entries);
    entries.into_iter().map(sorted_entry).collect()
}

/// Dates what has no time: before the first new layer with that layer's, later with the one before.
fn date(entries: &mut [Value]) {
    let has_time = |entry: &&Value| !entry["created"].is_null();
    let first_undated = entries.iter().position(|entry| entry["created"].is_null());
    let Some(first_undated) = first_undated else {
        return;
    };
    let after = entries[first_undated..].iter().find(has_time);
    let before = entries[..first_undated].iter().rev().find(has_time);
    let mut current = after
        .or(before)
        .map_or(Value::Null, |entry| entry["created"].clone());
    for entry in &mut entries[first_undated..] {
        if entry["created"].is_null() {
            if !current.is_null() {
                entry["created"] = current.clone();
            }
        } else {
            current = entry["created"].clone();
        }
    }
}

/// An entry with its keys in the order of the specification's structure, and without nulls.
fn sorted_entry(entry: Value) -> Value {
    let Value::Object(mut fields) = entry else {
        return entry;
    };
    let order = ["created", "created_by", "author", "comment", "empty_layer"];
    let mut sorted = Map::new();
    for key in order {
        if let Some(value) = fields.remove(key).filter(|value| !value.is_null()) {
            sorted.insert(key.into(), value);
        }
    }
    sorted.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    Value::Object(sorted)
}

/// The image's time: what the frontend set, else that of the last dated entry; the epoch only moves it back.
fn created(config: &Map<String, Value>, history: &[Value], epoch: Option<Timestamp>) -> Value {
    let last = history
        .iter()
        .rev()
        .map(|e| &e["created"])
        .find(|t| !t.is_null());
    let given = config.get("created").filter(|value| !value.is_null());
    let value = given.or(last).cloned().unwrap_or(Value::Null);
    let Some(epoch) = epoch else { return value };
    let parsed: Option<Timestamp> = value.as_str().and_then(|text| text.parse().ok());
    match parsed {
        Some(time) if time > epoch => epoch.to_string().into(),
        Some(_) => value,
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(of: &str, second: i64) -> LayerFacts {
        LayerFacts {
            diff_id: Digest::of(of),
            created: Timestamp::from_second(second).ok(),
            description: of.into(),
        }
    }

    fn given_by(config: &[u8]) -> Given<'_> {
        let config = Some(config);
        Given {
            config,
            cache: None,
        }
    }

    fn finished(given: &Value, layers: &[LayerFacts]) -> Value {
        let given = given.to_string();
        let bytes = finish(given_by(given.as_bytes()), &Platform::host(), layers, None);
        serde_json::from_slice(&bytes.unwrap()).unwrap()
    }

    #[test]
    fn layers_without_history_get_some_and_surplus_entries_become_empty() {
        let config = finished(
            &json!({"history": [{"created_by": "a"}]}),
            &[facts("x", 1), facts("y", 2)],
        );
        assert_eq!(config["history"][1]["created_by"], "y");
        assert_eq!(
            config["history"][1]["comment"],
            "buildkit.exporter.image.v0"
        );
        let config = finished(
            &json!({"history": [{"created_by": "a"}, {"created_by": "b"}]}),
            &[facts("x", 1)],
        );
        assert_eq!(config["history"][1]["empty_layer"], true);
    }

    #[test]
    fn entries_before_the_first_new_layer_take_its_time() {
        let given = json!({"history": [
            {"created": "2001-01-01T00:00:00Z", "created_by": "base"},
            {"created_by": "ENV", "empty_layer": true},
            {"created_by": "RUN"},
            {"created_by": "CMD", "empty_layer": true},
        ]});
        let config = finished(&given, &[facts("base", 0), facts("run", 5)]);
        let times: Vec<_> = config["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["created"].clone())
            .collect();
        assert_eq!(times[1], "1970-01-01T00:00:05Z");
        assert_eq!(times[3], times[1]);
        assert_eq!(config["created"], "1970-01-01T00:00:05Z");
    }

    #[test]
    fn an_image_of_nothing_has_null_layers_and_unknown_keys_live_on() {
        let config = finished(&json!({"x.y": 1}), &[]);
        assert_eq!(config["rootfs"]["diff_ids"], Value::Null);
        assert_eq!(config["history"], Value::Null);
        assert_eq!(config["x.y"], 1);
        assert!(finish(given_by(b"null"), &Platform::host(), &[], None).is_err());
    }

    #[test]
    fn cache_records_stand_in_the_configuration() {
        let given = Given {
            cache: Some(b"[]"),
            ..given_by(b"{}")
        };
        let bytes = finish(given, &Platform::host(), &[], None).unwrap();
        let config: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(config[CACHE_KEY], STANDARD.encode("[]"));
    }
}
