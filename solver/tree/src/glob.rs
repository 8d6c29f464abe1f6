//! Shell patterns over paths, with the language of Go's `path.Match`: `*` and `?` stop at slashes, classes negate with
//! `^`, a backslash escapes. It matches strings and never looks at a filesystem.

use crate::error::{Error, Result};

/// A pattern known to be well-formed.
#[derive(Debug, Clone)]
pub struct Glob(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// A byte of text that is not UTF-8.
    Byte(u8),
    Any,
    Many,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// Reads a pattern.
    pub fn new(pattern: &[u8]) -> Result<Self> {
        let bad = || Error::Pattern(String::from_utf8_lossy(pattern).into_owned());
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while !rest.is_empty() {
            let (token, len) = Self::token(rest).ok_or_else(bad)?;
            rest = &rest[len..];
            if token != Token::Many || tokens.last() != Some(&Token::Many) {
                tokens.push(token);
            }
        }
        Ok(Self(tokens))
    }

    fn token(rest: &[u8]) -> Option<(Token, usize)> {
        match rest {
            [b'*', ..] => Some((Token::Many, 1)),
            [b'?', ..] => Some((Token::Any, 1)),
            [b'[', tail @ ..] => Self::class(tail).map(|(token, len)| (token, len + 1)),
            [b'\\', tail @ ..] => (!tail.is_empty())
                .then(|| next(tail))
                .map(|(token, len)| (token, len + 1)),
            _ => Some(next(rest)),
        }
    }

    fn class(start: &[u8]) -> Option<(Token, usize)> {
        let mut at = usize::from(start.first() == Some(&b'^'));
        let negated = at == 1;
        let mut ranges = Vec::new();
        loop {
            if start.get(at) == Some(&b']') && !ranges.is_empty() {
                return Some((Token::Class { negated, ranges }, at + 1));
            }
            let (low, len) = Self::bound(start.get(at..)?)?;
            at += len;
            let mut high = low;
            if start.get(at) == Some(&b'-') {
                let (bound, len) = Self::bound(start.get(at + 1..)?)?;
                (high, at) = (bound, at + 1 + len);
            }
            ranges.push((low, high));
        }
    }

    /// One end of a range. Something must follow it.
    fn bound(rest: &[u8]) -> Option<(char, usize)> {
        let escaped = usize::from(rest.first() == Some(&b'\\'));
        if escaped == 0 && matches!(rest.first(), None | Some(b'-' | b']')) {
            return None;
        }
        let tail = rest.get(escaped..).filter(|tail| !tail.is_empty())?;
        match next(tail) {
            (Token::Char(bound), len) if tail.len() > len => Some((bound, escaped + len)),
            _ => None,
        }
    }

    /// Whether the whole path matches.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let (mut token, mut at) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        loop {
            if self.0.get(token) == Some(&Token::Many) {
                retry = Some((token, at));
                token += 1;
                continue;
            }
            if token == self.0.len() && at == path.len() {
                return true;
            }
            let step = match self.0.get(token) {
                Some(token) if at < path.len() => token.accepts(&path[at..]),
                _ => None,
            };
            if let Some(len) = step {
                (token, at) = (token + 1, at + len);
                continue;
            }
            // Let the last star take one more, unless that is a slash.
            let Some((star, from)) = retry.filter(|(_, from)| *from < path.len()) else {
                return false;
            };
            if path[from] == b'/' {
                return false;
            }
            let from = from + next(&path[from..]).1;
            retry = Some((star, from));
            (token, at) = (star + 1, from);
        }
    }
}

impl Token {
    /// Length of the character that it matches at the start of `text`.
    fn accepts(&self, text: &[u8]) -> Option<usize> {
        let (have, len) = next(text);
        let matches = match self {
            Self::Char(_) | Self::Byte(_) => *self == have,
            Self::Any => text[0] != b'/',
            Self::Class { negated, ranges } => {
                let char = match have {
                    Self::Char(char) => char,
                    _ => char::REPLACEMENT_CHARACTER,
                };
                ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&char))
                    != *negated
                    && text[0] != b'/'
            }
            Self::Many => false,
        };
        matches.then_some(len)
    }
}

/// The character that text starts with, and its length.
fn next(text: &[u8]) -> (Token, usize) {
    let len = text.len().min(4);
    for end in 1..=len {
        if let Ok(char) = std::str::from_utf8(&text[..end]) {
            return (
                char.chars()
                    .next()
                    .map_or(Token::Byte(text[0]), Token::Char),
                end,
            );
        }
    }
    (Token::Byte(text[0]), 1)
}

/// Whether a path has a character that makes it a pattern.
#[must_use]
pub fn is_pattern(path: &[u8]) -> bool {
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Splits a path at its first component that is a pattern: what stands before, and the rest.
#[must_use]
pub fn split_pattern(path: &str) -> (String, String) {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    let at = parts
        .iter()
        .position(|part| is_pattern(part.as_bytes()))
        .unwrap_or(parts.len());
    (format!("/{}", parts[..at].join("/")), parts[at..].join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        let cases = [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("*x", "xxx", true),
            ("**/w", "a/w", true),
            ("**/w", "a/b/w", false),
            ("a[[]b", "a[b", true),
        ];
        for (pattern, path, expected) in cases {
            let glob = Glob::new(pattern.as_bytes()).unwrap();
            assert_eq!(
                glob.matches(path.as_bytes()),
                expected,
                "{pattern} on {path}"
            );
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "[", "[^", "[a", "a\\", "[a-"] {
            assert!(Glob::new(pattern.as_bytes()).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_path_splits_at_its_first_pattern() {
        let split = |path| split_pattern(path);
        assert_eq!(split("/a/b*/c"), ("/a".into(), "b*/c".into()));
        assert_eq!(split("/a/b"), ("/a/b".into(), String::new()));
        assert_eq!(split("*"), ("/".into(), "*".into()));
        assert_eq!(split("/a\\*b/c"), ("/a\\*b/c".into(), String::new()));
    }
}
