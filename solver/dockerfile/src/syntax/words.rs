//! Splits an instruction's text: name, flags, then arguments in the shape that the instruction has.
//! Quotes are kept: expansion removes them later.

use super::instruction::KeyValue;
use crate::error::SyntaxError;

/// Blanks inside a logical line; it has no line end.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// The instruction's name, its flags, and the rest.
pub(super) fn split(line: &str, escape: char) -> (&str, Vec<String>, &str) {
    let line = line.trim();
    let Some((name, rest)) = line.split_once(is_blank) else {
        return (line, Vec::new(), "");
    };
    let (flags, rest) = flags(rest.trim_start_matches(is_blank), escape);
    (name, flags, rest.trim())
}

/// Leading words that start with `--`, quotes and escapes removed; a lone `--` ends them.
fn flags(line: &str, escape: char) -> (Vec<String>, &str) {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start();
        if !rest.starts_with("--") {
            return (words, rest);
        }
        let (word, behind) = flag_word(rest, escape);
        rest = behind;
        if word == "--" {
            return (words, rest);
        }
        words.push(word);
    }
}

fn flag_word(text: &str, escape: char) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, ch)) = chars.next() {
        match quote {
            None if ch.is_whitespace() => return (word, &text[at..]),
            None if ch == '\'' || ch == '"' => quote = Some(ch),
            Some(open) if ch == open => quote = None,
            // An escape at the very end stands for nothing.
            _ if ch == escape => word.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => word.push(ch),
        }
    }
    (word, "")
}

/// Words separated by blanks; quotes and escapes protect blanks and stay in the words.
pub(super) fn quoted_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(ch) = chars.next() {
        if quote.is_none() && ch.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        match quote {
            None if ch == '\'' || ch == '"' => quote = Some(ch),
            Some(open) if ch == open => quote = None,
            _ => {}
        }
        if ch == escape && quote != Some('\'') {
            // An escape at the very end stands for nothing.
            let Some(escaped) = chars.next() else { break };
            word.push(ch);
            word.push(escaped);
        } else {
            word.push(ch);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Words separated by blanks and nothing else.
pub(super) fn plain_words(text: &str) -> Vec<String> {
    text.split(is_blank)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The strings of a JSON array; `None` if the text is no JSON array at all.
pub(super) fn json(text: &str) -> Result<Option<Vec<String>>, SyntaxError> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(items) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Ok(None);
    };
    let strings = items.into_iter().map(|item| match item {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(SyntaxError::JsonStrings),
    });
    strings.collect::<Result<_, _>>().map(Some)
}

/// `k=v …`, or the legacy form `k the rest of the line`.
pub(super) fn pairs(
    text: &str,
    name: &'static str,
    escape: char,
) -> Result<Vec<KeyValue>, SyntaxError> {
    let words = quoted_words(text, escape);
    let Some(first) = words.first() else {
        return Ok(Vec::new());
    };
    if !first.contains('=') {
        let (key, value) = text
            .split_once(is_blank)
            .ok_or(SyntaxError::TwoArguments(name))?;
        let value = value.trim_start_matches(is_blank).to_owned();
        return Ok(vec![KeyValue {
            key: key.to_owned(),
            value,
            legacy: true,
        }]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some((key, value)) => Ok(KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
            legacy: false,
        }),
        None => Err(SyntaxError::NoEquals(word)),
    };
    words.into_iter().map(pair).collect()
}
