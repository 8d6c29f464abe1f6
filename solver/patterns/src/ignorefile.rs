//! Reads the lines of a `.dockerignore` file into patterns. Does not check their syntax.

use crate::clean;

/// The patterns of an ignore file in order. Lines that start with `#` and empty ones are left out, as is a byte order
/// mark; leading slashes mean nothing, after `!` either.
#[must_use]
pub fn parse(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(pattern)
        .collect()
}

fn pattern(line: &str) -> String {
    match line.strip_prefix('!') {
        Some(exception) => format!("!{}", relative(exception.trim())),
        None => relative(line),
    }
}

fn relative(path: &str) -> String {
    if path.is_empty() {
        return String::new();
    }
    let path = clean(path);
    match path.strip_prefix('/') {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blanks_and_slashes_are_dropped() {
        let text =
            "\u{feff}test1\n/test2\n# comment\n\n  /a/file/here \n! /inverted\n!\n ./x/../y\n/\n";
        let expected = ["test1", "test2", "a/file/here", "!inverted", "!", "y", "/"];
        assert_eq!(parse(text), expected);
    }
}
