//! What a CNI configuration says: which plugins run, in which order, with which input. Pure.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::NetworkError;

/// The version that a configuration means which names none.
const OLDEST: &str = "0.1.0";

/// A network: the plugins that make it, in the order of their running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkList {
    /// Its name; plugins keep their state under it.
    name: String,
    /// Version of the protocol.
    version: String,
    plugins: Vec<Map<String, Value>>,
}

impl NetworkList {
    /// Reads a configuration: a list of plugins (`.conflist`) or a single one.
    ///
    /// # Errors
    /// Names what is missing in the file at `path`.
    pub fn read(path: &Path) -> Result<Self, NetworkError> {
        let text = std::fs::read_to_string(path)
            .map_err(NetworkError::file("reading CNI configuration", path))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The network of BuildKit's mode `bridge`: a bridge with masquerading, and addresses from `subnet`.
    #[must_use]
    pub fn bridge(bridge: &str, subnet: &str) -> Self {
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]});
        let plugins = [
            json!({"type": "bridge", "bridge": bridge, "isDefaultGateway": true, "ipMasq": true, "ipam": ipam}),
            json!({"type": "firewall", "ingressPolicy": "same-bridge"}),
        ];
        let object = |plugin: Value| match plugin {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        Self {
            name: "buildkit".to_owned(),
            version: "1.0.0".to_owned(),
            plugins: plugins.map(object).into(),
        }
    }

    pub(crate) fn parse(text: &str, origin: &str) -> Result<Self, NetworkError> {
        let wrong = |why: String| NetworkError::Configuration {
            origin: origin.to_owned(),
            why,
        };
        let mut file: Map<String, Value> =
            serde_json::from_str(text).map_err(|source| NetworkError::Json {
                origin: origin.to_owned(),
                source,
            })?;
        let text_of = |key: &str| file.get(key).and_then(Value::as_str).map(str::to_owned);
        let name = text_of("name").filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| wrong("it has no name".to_owned()))?;
        let version = text_of("cniVersion").unwrap_or_else(|| OLDEST.to_owned());
        let plugins = match file.remove("plugins") {
            None => vec![file],
            Some(plugins) => serde_json::from_value(plugins).map_err(|source| {
                let origin = origin.to_owned();
                NetworkError::Json { origin, source }
            })?,
        };
        let list = Self {
            name,
            version,
            plugins,
        };
        if list.plugins.is_empty() {
            return Err(wrong("it names no plugin".to_owned()));
        }
        let senseless = |kind: &&str| kind.is_empty() || kind.contains('/') || *kind == "..";
        if let Some(kind) = list.types().find(senseless) {
            return Err(wrong(format!("{kind:?} is no plugin's type")));
        }
        Ok(list)
    }

    /// The plugins' types, which are names of programs.
    pub(crate) fn types(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        let kind = |plugin| -> Option<&str> { Map::get(plugin, "type").and_then(Value::as_str) };
        self.plugins
            .iter()
            .map(move |p| kind(p).unwrap_or_default())
    }

    /// What the plugin at `index` reads: its own part, the network's name and version, and the result so far.
    pub(crate) fn input(&self, index: usize, previous: Option<&Value>) -> Value {
        let mut input = self.plugins[index].clone();
        input.insert("name".to_owned(), self.name.clone().into());
        input.insert("cniVersion".to_owned(), self.version.clone().into());
        // What the runtime may pass on is its own key's; there is nothing to pass.
        input.remove("capabilities");
        if let Some(previous) = previous {
            input.insert("prevResult".to_owned(), previous.clone());
        }
        input.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_and_a_single_plugin_are_read() {
        let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"},{"type":"firewall"}]}"#;
        let list = NetworkList::parse(list, "f").unwrap();
        assert_eq!(list.types().collect::<Vec<_>>(), ["bridge", "firewall"]);
        let single = r#"{"name":"n","type":"ptp","mtu":1400}"#;
        let single = NetworkList::parse(single, "f").unwrap();
        assert_eq!(
            single.input(0, Some(&json!({"ips": []}))),
            json!({"name": "n", "type": "ptp", "mtu": 1400, "cniVersion": "0.1.0", "prevResult": {"ips": []}})
        );
    }

    #[test]
    fn what_means_nothing_is_named() {
        for (text, said) in [
            ("{", "reading CNI configuration f"),
            (
                r#"{"type":"bridge"}"#,
                "CNI configuration f: it has no name",
            ),
            (
                r#"{"name":"n","plugins":[]}"#,
                "CNI configuration f: it names no plugin",
            ),
            (
                r#"{"name":"n","type":"../sh"}"#,
                "CNI configuration f: \"../sh\" is no plugin's type",
            ),
        ] {
            let error = NetworkList::parse(text, "f").unwrap_err();
            assert_eq!(error.to_string(), said);
        }
    }

    #[test]
    fn the_bridge_of_buildkit_survives_its_record() {
        let list = NetworkList::bridge("buildkit0", "10.10.0.0/16");
        let text = serde_json::to_string(&list).unwrap();
        assert_eq!(serde_json::from_str::<NetworkList>(&text).unwrap(), list);
        assert_eq!(list.types().collect::<Vec<_>>(), ["bridge", "firewall"]);
    }
}
