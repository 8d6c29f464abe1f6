//! The wildcard patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?` and `\` only, no bracket classes.

use super::ShellError;
use regex::Regex;

/// Removes a matching prefix (`#`) or suffix (`%`); a doubled sign takes the longest match.
pub(super) fn trim(end: char, word: &str, value: &str) -> Result<String, ShellError> {
    let longest = word.starts_with(end);
    let pattern = if longest {
        &word[end.len_utf8()..]
    } else {
        word
    };
    if end == '#' {
        let regex = compile(pattern, pattern, longest, true)?;
        let cut = regex.find(value).map_or(0, |m| m.end());
        return Ok(value[cut..].to_owned());
    }
    // The shortest match at the end is the shortest match at the start of both texts reversed.
    let regex = compile(&reversed_pattern(pattern), pattern, longest, true)?;
    let value: String = value.chars().rev().collect();
    let cut = regex.find(&value).map_or(0, |m| m.end());
    Ok(value[cut..].chars().rev().collect())
}

/// Replaces the first or every longest match.
pub(super) fn replace(
    pattern: &str,
    replacement: &str,
    value: &str,
    all: bool,
) -> Result<String, ShellError> {
    let regex = compile(pattern, pattern, true, false)?;
    if all {
        return Ok(regex.replace_all(value, replacement).into_owned());
    }
    Ok(match regex.find(value) {
        Some(m) => format!("{}{replacement}{}", &value[..m.start()], &value[m.end()..]),
        None => value.to_owned(),
    })
}

fn compile(
    pattern: &str,
    written: &str,
    greedy: bool,
    anchored: bool,
) -> Result<Regex, ShellError> {
    let bad = |reason: String| ShellError::Pattern {
        pattern: written.to_owned(),
        reason,
    };
    let mut source = String::from(if anchored { "^" } else { "" });
    let mut chars = pattern.chars().peekable();
    while let Some(ch) = chars.next() {
        match ch {
            '*' => source.push_str(if greedy { ".*" } else { ".*?" }),
            '?' => source.push('.'),
            // `\}` and `\/` only protect from the expansion's own syntax.
            '\\' if matches!(chars.peek(), Some('}' | '/')) => {}
            '\\' => match chars.next() {
                Some(escaped @ ('*' | '?' | '\\')) => {
                    source.push('\\');
                    source.push(escaped);
                }
                Some(other) => return Err(bad(format!("invalid escape '\\{other}'"))),
                None => return Err(bad("invalid escape at the end".into())),
            },
            _ => source.push_str(&regex::escape(ch.encode_utf8(&mut [0; 4]))),
        }
    }
    Regex::new(&source).map_err(|e| bad(e.to_string()))
}

/// Reverses a pattern but keeps each escape in front of what it escapes.
fn reversed_pattern(pattern: &str) -> String {
    let mut units: Vec<String> = Vec::new();
    let mut chars = pattern.chars();
    while let Some(ch) = chars.next() {
        let mut unit = String::from(ch);
        if ch == '\\' {
            unit.extend(chars.next());
        }
        units.push(unit);
    }
    units.into_iter().rev().collect()
}
