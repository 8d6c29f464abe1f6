//! The `key=value,…` lists inside flags: one record of comma-separated values, quoted where a value holds a comma.

use std::collections::BTreeMap;

use crate::error::Error;

/// Splits one record of comma-separated values; a field in double quotes may hold commas and doubled quotes.
///
/// # Errors
/// Says which quote is missing or misplaced.
pub fn fields(record: &str) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let mut rest = record;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted, record)?,
            None => plain_field(rest, record)?,
        };
        found.push(field);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(found),
        }
    }
}

fn plain_field<'a>(text: &'a str, record: &str) -> Result<(String, &'a str), String> {
    let (field, after) = text.split_at(text.find(',').unwrap_or(text.len()));
    if field.contains('"') {
        return Err(format!("bare \" in {record:?}"));
    }
    Ok((field.to_owned(), after))
}

fn quoted_field<'a>(mut text: &'a str, record: &str) -> Result<(String, &'a str), String> {
    let mut field = String::new();
    loop {
        let Some((part, after)) = text.split_once('"') else {
            return Err(format!("missing \" in {record:?}"));
        };
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                text = more;
            }
            None if after.is_empty() || after.starts_with(',') => return Ok((field, after)),
            None => return Err(format!("extraneous \" in {record:?}")),
        }
    }
}

/// The pairs of a record with their keys in lower case; a later one replaces an earlier one.
///
/// # Errors
/// Names the flag and the field that is no pair.
pub fn pairs(flag: &'static str, record: &str) -> Result<BTreeMap<String, String>, Error> {
    let mut pairs = BTreeMap::new();
    for field in fields(record).map_err(|reason| Error::flag(flag, reason))? {
        let Some((key, value)) = field.split_once('=') else {
            return Err(Error::flag(
                flag,
                format!("{field:?} must be a key=value pair"),
            ));
        };
        pairs.insert(key.to_lowercase(), value.to_owned());
    }
    Ok(pairs)
}

/// `key=value` flags given once per pair.
///
/// # Errors
/// Names the flag and the value that is no pair.
pub fn attributes(flag: &'static str, given: &[String]) -> Result<BTreeMap<String, String>, Error> {
    given
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Error::flag(flag, format!("{pair:?}, expected key=value"))),
        })
        .collect()
}

/// A boolean as Go reads it.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_fields_may_hold_commas_and_quotes() {
        assert_eq!(
            fields(r#"type=image,"name=a,b",x="#).unwrap(),
            ["type=image", "name=a,b", "x="]
        );
        assert_eq!(fields(r#""a""b""#).unwrap(), [r#"a"b"#]);
        assert_eq!(fields("").unwrap(), [""]);
        for broken in [r#""a"#, r#"a"b"#, r#""a"b"#] {
            assert!(fields(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn keys_are_lowered_and_values_kept() {
        let found = pairs("--output", "Type=Image,NAME=A=B").unwrap();
        assert_eq!(found["type"], "Image");
        assert_eq!(found["name"], "A=B");
        assert!(pairs("--output", "x").is_err());
    }

    proptest::proptest! {
        #[test]
        fn quoting_a_field_keeps_it(written in proptest::collection::vec("[a-z\",= ]{0,6}", 1..4)) {
            let quoted: Vec<_> =
                written.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
            proptest::prop_assert_eq!(fields(&quoted.join(",")).unwrap(), written);
        }
    }
}
