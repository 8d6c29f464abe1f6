//! Parser directives (`# syntax=`, `# escape=`, `# check=`) and the search for a syntax in files of any format.

use crate::error::SyntaxError;
use crate::span::Lines;

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// `syntax`, `escape` or `check`.
    pub name: &'static str,
    /// Everything behind the `=`, trimmed.
    pub value: String,
    /// Where it stands.
    pub lines: Lines,
}

/// Reads directives until the first line that is none.
#[derive(Debug)]
pub(crate) struct Directives {
    comment: &'static str,
    seen: Vec<&'static str>,
    line: u32,
    done: bool,
}

impl Directives {
    pub(crate) fn new(comment: &'static str) -> Self {
        Self {
            comment,
            seen: Vec::new(),
            line: 0,
            done: false,
        }
    }

    /// Reads the next line, without its line end.
    pub(crate) fn line(&mut self, line: &str) -> Result<Option<Directive>, SyntaxError> {
        self.line += 1;
        if self.done {
            return Ok(None);
        }
        let Some((name, value)) = line.strip_prefix(self.comment).and_then(name_and_value) else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&name) {
            return Err(SyntaxError::DuplicateDirective(name.to_owned()));
        }
        self.seen.push(name);
        Ok(Some(Directive {
            name,
            value: value.to_owned(),
            lines: Lines::one(self.line),
        }))
    }
}

fn name_and_value(text: &str) -> Option<(&'static str, &str)> {
    let (name, value) = text.trim_start().split_once('=')?;
    let (name, value) = (name.trim_end(), value.trim());
    let known = ["syntax", "escape", "check"];
    let name = known
        .into_iter()
        .find(|known| name.eq_ignore_ascii_case(known))?;
    (!value.is_empty()).then_some((name, value))
}

/// A directive found by [`find`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The value's first word: the image for `syntax`.
    pub word: String,
    /// The whole value.
    pub value: String,
    /// Where it stands.
    pub lines: Lines,
}

/// Looks for a `# name=value` directive.
#[must_use]
pub fn find(name: &str, bytes: &[u8]) -> Option<Found> {
    in_comments(name, &String::from_utf8_lossy(bytes), "#", 0)
}

/// Looks for the frontend that a file asks for. The file may be a Dockerfile, start with `#!`, have `//` comments, or be
/// JSON with a key `syntax`.
#[must_use]
pub fn detect_syntax(bytes: &[u8]) -> Option<Found> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let (text, skipped) = match text.split_once('\n') {
        Some((first, rest)) if first.starts_with("#!") => (rest, 1),
        _ => (text, 0),
    };
    in_comments("syntax", text, "#", skipped)
        .or_else(|| in_comments("syntax", text, "//", skipped))
        .or_else(|| in_json(text, skipped))
}

fn in_comments(name: &str, text: &str, comment: &'static str, skipped: u32) -> Option<Found> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut directives = Directives::new(comment);
    directives.line = skipped;
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        match directives.line(line) {
            Ok(Some(found)) if found.name == name => {
                let word = found.value.split(' ').next().unwrap_or_default().to_owned();
                return Some(Found {
                    word,
                    value: found.value,
                    lines: found.lines,
                });
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
    None
}

fn in_json(text: &str, skipped: u32) -> Option<Found> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let value = json.get("syntax")?.as_str()?.to_owned();
    Some(Found {
        word: value.clone(),
        value,
        lines: Lines::one(skipped),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_is_found_in_every_format() {
        let cases = [
            ("# syntax=a/b:1 x\nFROM y", Some(("a/b:1", "a/b:1 x", 1))),
            ("#!/bin/x\n# syntax = a", Some(("a", "a", 2))),
            ("\u{feff}#syntax=a\r\n", Some(("a", "a", 1))),
            ("# escape=`\n# SYNTAX=a", Some(("a", "a", 2))),
            ("// syntax=a\n", Some(("a", "a", 1))),
            ("{\"syntax\": \"a b\"}", Some(("a b", "a b", 0))),
            ("\n# syntax=a", None),
            ("# comment\n# syntax=a", None),
            ("# x=y\n# syntax=a", None),
            ("# syntax=", None),
            ("FROM a", None),
        ];
        for (text, want) in cases {
            let found = detect_syntax(text.as_bytes());
            let got = found
                .as_ref()
                .map(|f| (f.word.as_str(), f.value.as_str(), f.lines.first));
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn a_second_directive_of_a_name_is_a_mistake() {
        let mut directives = Directives::new("#");
        assert!(directives.line("# escape=`").unwrap().is_some());
        let error = directives.line("#escape=\\").unwrap_err();
        assert_eq!(
            error.to_string(),
            "only one escape parser directive can be used"
        );
    }
}
