//! The caches that a frontend's options ask for: `cache-imports`, and `cache-from` of older clients. It decides nothing
//! about them.

use std::collections::BTreeMap;

use serde::Deserialize;
use shipway_model::{CacheEntry, Failure};

/// Option with a JSON list of caches.
const IMPORTS: &str = "cache-imports";
/// Option with a list of references, separated by commas.
const FROM: &str = "cache-from";

#[derive(Deserialize)]
struct Listed {
    #[serde(alias = "Type", rename = "type", default)]
    kind: String,
    #[serde(alias = "Attrs", default)]
    attrs: Option<BTreeMap<String, String>>,
}

/// The caches to import.
pub fn cache_imports(options: &BTreeMap<String, String>) -> Result<Vec<CacheEntry>, Failure> {
    let mut imports = Vec::new();
    if let Some(text) = options.get(IMPORTS).filter(|text| !text.is_empty()) {
        let listed: Option<Vec<Listed>> = serde_json::from_str(text).map_err(|e| {
            Failure::from_error(&e).context(format!("failed to unmarshal {IMPORTS} ({text:?})"))
        })?;
        imports.extend(
            listed
                .unwrap_or_default()
                .into_iter()
                .map(|each| CacheEntry {
                    kind: each.kind,
                    attrs: each.attrs.unwrap_or_default(),
                }),
        );
    }
    if let Some(text) = options.get(FROM).filter(|text| !text.is_empty()) {
        imports.extend(text.split(',').map(|reference| CacheEntry {
            kind: "registry".to_owned(),
            attrs: BTreeMap::from([("ref".to_owned(), reference.to_owned())]),
        }));
    }
    Ok(imports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(key: &str, text: &str) -> Result<Vec<CacheEntry>, Failure> {
        cache_imports(&BTreeMap::from([(key.to_owned(), text.to_owned())]))
    }

    #[test]
    fn imports_are_read_from_both_options() {
        let json = r#"[{"Type":"local","Attrs":{"src":"/c"}},{"type":"registry"}]"#;
        let listed = imports(IMPORTS, json).unwrap();
        assert_eq!(listed[0].kind, "local");
        assert_eq!(listed[0].attrs["src"], "/c");
        assert_eq!(listed[1].kind, "registry");
        let refs = imports(FROM, "a/b,c/d:1").unwrap();
        assert_eq!(refs[1].attrs["ref"], "c/d:1");
        assert!(imports(IMPORTS, "{").is_err());
        assert!(imports(IMPORTS, "").unwrap().is_empty());
    }
}
