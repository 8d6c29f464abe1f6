//! Reads `WWW-Authenticate` headers (RFC 9110, 11.6.1; the distribution specification's "Token Authentication"). Pure.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// What a registry wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token from `realm`.
    Bearer {
        realm: String,
        service: String,
        /// What the registry says that the token must allow; may be empty.
        scopes: Vec<String>,
    },
    /// A name and a password.
    Basic,
}

/// The strongest challenge among a response's headers.
pub(crate) fn parse(headers: &HeaderMap) -> Option<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE);
    let texts = values.iter().filter_map(|value| value.to_str().ok());
    let mut basic = None;
    for (scheme, parameters) in texts.flat_map(split) {
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => {
                if let Some(bearer) = bearer(&parameters) {
                    return Some(bearer);
                }
            }
            "basic" => basic = Some(Challenge::Basic),
            _ => {}
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

fn bearer(parameters: &Parameters) -> Option<Challenge> {
    let all = |key: &str| {
        let of_key = parameters
            .iter()
            .filter(move |(name, _)| name.eq_ignore_ascii_case(key));
        of_key.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let scopes = all("scope");
    let scopes = scopes
        .iter()
        .flat_map(|scope| scope.split_whitespace())
        .map(str::to_owned);
    Some(Challenge::Bearer {
        realm: all("realm").pop()?,
        service: all("service").pop().unwrap_or_default(),
        scopes: scopes.collect(),
    })
}

/// The challenges of one header: `scheme key=value, key="value", scheme2 …`.
fn split(header: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            // Nothing that a challenge consists of: what was understood so far counts.
            return challenges;
        }
        if let Some(value) = after.trim_start().strip_prefix('=')
            && let Some((_, parameters)) = challenges.last_mut()
        {
            let (value, after) = value_of(value.trim_start());
            parameters.push((word.to_owned(), value));
            rest = after;
        } else {
            challenges.push((word.to_owned(), Vec::new()));
            rest = after;
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)))
        .unwrap_or(text.len());
    text.split_at(end)
}

fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        parse(&headers)
    }

    fn bearer_of(realm: &str, service: &str, scopes: &[&str]) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.into(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let hub = r#"Bearer realm="https://a/token",service="r",scope="repository:x:pull,push""#;
        for (values, expected) in [
            (
                vec![hub],
                Some(bearer_of(
                    "https://a/token",
                    "r",
                    &["repository:x:pull,push"],
                )),
            ),
            (
                vec!["Basic realm=\"x\"", "bearer realm=\"t\""],
                Some(bearer_of("t", "", &[])),
            ),
            (
                vec!["Basic realm=\"x, y\", Bearer realm=t, scope=\"a b\""],
                Some(bearer_of("t", "", &["a", "b"])),
            ),
            (vec!["basic"], Some(Challenge::Basic)),
            (vec!["Negotiate abc"], None),
            (vec!["Bearer service=x"], None),
            (
                vec![r#"Bearer realm="a\"b"#],
                Some(bearer_of("a\"b", "", &[])),
            ),
            (vec![], None),
        ] {
            assert_eq!(of(&values), expected, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(text in "[ -~]{0,80}") {
            let _challenge = of(&[&text]);
        }

        #[test]
        fn a_quoted_realm_is_read_back(realm in "[ -~]{0,40}") {
            let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{quoted}\"");
            prop_assert_eq!(of(&[&header]), Some(bearer_of(&realm, "", &[])));
        }
    }
}
