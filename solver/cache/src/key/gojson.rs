//! JSON as Go's `encoding/json` writes structs: declared order, no spaces, empty members left out, `<`, `>` and `&`
//! escaped. It knows no operation.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// An object under construction. Members whose name ends in nothing special are left out where they are empty, as
/// `omitempty` has it, unless the method says otherwise.
pub(crate) struct Object {
    text: String,
}

impl Object {
    pub(crate) fn new() -> Self {
        Self {
            text: String::from("{"),
        }
    }

    pub(crate) fn end(mut self) -> String {
        self.text.push('}');
        self.text
    }

    /// A member that is already JSON; always there.
    pub(crate) fn raw(mut self, name: &str, json: &str) -> Self {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        self.text.push_str(&string(name));
        self.text.push(':');
        self.text.push_str(json);
        self
    }

    /// A member that is already JSON, or absent.
    pub(crate) fn optional(self, name: &str, json: Option<String>) -> Self {
        match json {
            Some(json) => self.raw(name, &json),
            None => self,
        }
    }

    /// A text that is there even where it is empty.
    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.raw(name, &string(value))
    }

    pub(crate) fn string(self, name: &str, value: &str) -> Self {
        self.optional(name, (!value.is_empty()).then(|| string(value)))
    }

    pub(crate) fn int(self, name: &str, value: impl Into<i64>) -> Self {
        let value = value.into();
        self.optional(name, (value != 0).then(|| value.to_string()))
    }

    pub(crate) fn bool(self, name: &str, value: bool) -> Self {
        self.optional(name, value.then(|| "true".to_owned()))
    }

    pub(crate) fn strings(self, name: &str, values: &[String]) -> Self {
        self.list(name, values.iter().map(|value| string(value)))
    }

    pub(crate) fn bytes(self, name: &str, value: &[u8]) -> Self {
        self.optional(name, (!value.is_empty()).then(|| bytes(value)))
    }

    pub(crate) fn list(self, name: &str, items: impl Iterator<Item = String>) -> Self {
        let items = list(items);
        self.optional(name, (items != "[]").then_some(items))
    }
}

pub(crate) fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    format!("[{}]", items.join(","))
}

/// Go writes bytes as base64.
pub(crate) fn bytes(value: &[u8]) -> String {
    string(&STANDARD.encode(value))
}

pub(crate) fn string(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a string takes all text");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
