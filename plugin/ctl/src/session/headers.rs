//! Values in call metadata. Non-ASCII ones arrive escaped, which a sibling key says.

use percent_encoding::percent_decode_str;
use tonic::metadata::MetadataMap;

/// All values of `key`, unescaped where `<key>-encoded` says so.
pub(crate) fn values(metadata: &MetadataMap, key: &str) -> Vec<String> {
    let encoded = metadata
        .get(format!("{key}-encoded"))
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| matches!(value, "1" | "true"));
    let raw = metadata
        .get_all(key)
        .iter()
        .filter_map(|value| value.to_str().ok());
    raw.map(|value| {
        if encoded {
            unescape(value)
        } else {
            value.to_owned()
        }
    })
    .collect()
}

/// The first value of `key`.
pub(crate) fn value(metadata: &MetadataMap, key: &str) -> Option<String> {
    values(metadata, key).into_iter().next()
}

/// Undoes the escaping of a URL's query, where `+` is a space.
fn unescape(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_values_are_read_back() {
        let mut metadata = MetadataMap::new();
        metadata.append("exclude-patterns", "a+b%C3%A9".parse().unwrap());
        assert_eq!(values(&metadata, "exclude-patterns"), ["a+b%C3%A9"]);
        metadata.insert("exclude-patterns-encoded", "1".parse().unwrap());
        assert_eq!(values(&metadata, "exclude-patterns"), ["a bé"]);
        assert_eq!(value(&metadata, "dir-name"), None);
    }
}
