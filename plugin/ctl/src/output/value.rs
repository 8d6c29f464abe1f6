//! Values as templates see them: fields have a name in Go, which templates use, and one in JSON.

use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// A value that a template can look into or print.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Text.
    Text(String),
    /// Values in a row.
    List(Vec<Value>),
    /// Values by key.
    Map(BTreeMap<String, Value>),
    /// Named fields in their order.
    Record(Vec<Field>),
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    go: &'static str,
    json: &'static str,
    value: Value,
}

/// A record; each field with its names in Go and in JSON. An empty value under a JSON name that ends in `?` is left out of
/// the JSON form.
pub(crate) fn record(fields: Vec<(&'static str, &'static str, Value)>) -> Value {
    Value::Record(
        fields
            .into_iter()
            .map(|(go, json, value)| Field { go, json, value })
            .collect(),
    )
}

impl Value {
    /// Text by keys; nothing if there are none, as an absent map has it in Go.
    pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Self {
        if labels.is_empty() {
            return Self::Null;
        }
        let text = |(key, value): (&String, &String)| (key.clone(), Self::Text(value.clone()));
        Self::Map(labels.iter().map(text).collect())
    }

    /// Texts in a row; nothing if there are none, as an absent slice has it in Go.
    pub(crate) fn texts(texts: &[String]) -> Self {
        if texts.is_empty() {
            return Self::Null;
        }
        Self::List(texts.iter().cloned().map(Self::Text).collect())
    }

    /// The field or entry of that name.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Record(fields) => fields
                .iter()
                .find(|field| field.go == name)
                .map(|f| &f.value),
            Self::Map(entries) => Some(entries.get(name).unwrap_or(&Self::Null)),
            _ => None,
        }
    }

    /// What `if` takes for false.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(value) => !value,
            Self::Int(number) => *number == 0,
            Self::Text(text) => text.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Map(map) => map.is_empty(),
            Self::Record(_) => false,
        }
    }

    /// The value as Go's templates print it.
    pub(super) fn plain(&self) -> String {
        let spaced = |parts: Vec<String>| parts.join(" ");
        match self {
            Self::Null => "<no value>".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Int(number) => number.to_string(),
            Self::Text(text) => text.clone(),
            Self::List(list) => format!("[{}]", spaced(list.iter().map(Self::plain).collect())),
            Self::Map(map) => {
                let pairs = map
                    .iter()
                    .map(|(key, value)| format!("{key}:{}", value.plain()));
                format!("map[{}]", spaced(pairs.collect()))
            }
            Self::Record(fields) => {
                format!(
                    "{{{}}}",
                    spaced(fields.iter().map(|field| field.value.plain()).collect())
                )
            }
        }
    }

    /// The value as one line of JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("keys are strings")
    }
}

impl Field {
    fn is_left_out(&self) -> bool {
        self.json.ends_with('?') && self.value.is_empty()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_none(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(number) => serializer.serialize_i64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => {
                let mut seq = serializer.serialize_seq(Some(list.len()))?;
                list.iter()
                    .try_for_each(|value| seq.serialize_element(value))?;
                seq.end()
            }
            Self::Map(map) => serializer.collect_map(map),
            Self::Record(fields) => {
                let mut map = serializer.serialize_map(None)?;
                let present = fields.iter().filter(|field| !field.is_left_out());
                for field in present {
                    map.serialize_entry(field.json.trim_end_matches('?'), &field.value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_their_order_and_drop_what_may_be_empty() {
        let value = record(vec![
            ("Zed", "zed", Value::Int(1)),
            ("Os", "os?", Value::Text(String::new())),
            ("Labels", "labels", Value::labels(&BTreeMap::new())),
        ]);
        assert_eq!(value.json(), r#"{"zed":1,"labels":null}"#);
        assert_eq!(value.get("Zed"), Some(&Value::Int(1)));
        assert_eq!(value.get("zed"), None);
    }
}
