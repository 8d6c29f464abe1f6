//! What a downloaded file is called. Only a plain name ever comes out: no path, no control characters.

/// Name where nothing better is known.
const DEFAULT: &str = "download";

/// The name that was asked for, or the one that the server gives, or the last part of the URL's path.
pub(crate) fn file_name(url: &str, wanted: &str, disposition: Option<&str>) -> String {
    if !wanted.is_empty() {
        return safe(wanted);
    }
    if let Some(given) = disposition.and_then(given_name)
        && !given.is_empty()
        && !given.ends_with('/')
    {
        return safe(&given);
    }
    safe(&decoded(path_of(url)))
}

/// The path of a URL, still encoded.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    rest.find('/').map_or("", |slash| &rest[slash..])
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = (first == b'%').then(|| after.get(..2)).flatten();
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        if let Some(byte) = byte {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The parameter `filename*` or `filename` of a `Content-Disposition` header.
fn given_name(header: &str) -> Option<String> {
    let mut plain = None;
    for (name, value) in parameters(header) {
        match name.as_str() {
            "filename*" => {
                let encoded = value.splitn(3, '\'').nth(2)?;
                return Some(decoded(encoded));
            }
            "filename" => plain = Some(value),
            _ => {}
        }
    }
    plain
}

/// `name=value` pairs behind the first `;`, names in lower case, quotes resolved.
fn parameters(header: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = header.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((name, value)) = rest.split_once('=') {
        let name = name.trim_matches([' ', '\t', ';']).to_ascii_lowercase();
        let value = value.trim_start();
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            unquoted(quoted)
        } else {
            let end = value.find(';').unwrap_or(value.len());
            (value[..end].trim_end().to_owned(), &value[end..])
        };
        found.push((name, value));
        rest = after;
    }
    found
}

/// The text up to a closing quote, and what is behind that.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

fn safe(name: &str) -> String {
    let name = name.trim().trim_end_matches('/');
    let base = name.rsplit('/').next().unwrap_or_default();
    if matches!(base, "" | "." | "..") || base.chars().any(char::is_control) {
        return DEFAULT.to_owned();
    }
    base.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_wish_then_the_server_then_the_url() {
        let url = "https://h/a/b%20c.txt?x=/y#z";
        for (wanted, disposition, name) in [
            ("w/x", Some("attachment; filename=s"), "x"),
            (
                "",
                Some("attachment; filename=\"a \\\"q\\\".txt\"; size=3"),
                "a \"q\".txt",
            ),
            ("", Some("attachment; filename=../../etc/passwd"), "passwd"),
            (
                "",
                Some("attachment; filename*=UTF-8''n%C3%A4me; filename=x"),
                "näme",
            ),
            ("", Some("attachment; filename=\"dir/\""), "b c.txt"),
            ("", Some("inline"), "b c.txt"),
            ("", None, "b c.txt"),
            ("..", None, "download"),
            ("a\u{7}", None, "download"),
        ] {
            assert_eq!(
                file_name(url, wanted, disposition),
                name,
                "{wanted:?} {disposition:?}"
            );
        }
        assert_eq!(file_name("http://h", "", None), "download");
        assert_eq!(file_name("http://h/", "", None), "download");
    }
}
