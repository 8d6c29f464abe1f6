//! Heredocs: how a word announces one, and what its body becomes. Reading the body is up to the line reader.

use crate::shell::{NoEnv, Quotes, Shell, ShellError, Unset};

/// A heredoc with its body.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "two marks that are independent"
)]
pub struct Heredoc {
    /// Its delimiter, which is also its file's name.
    pub name: String,
    /// The delimiter is not quoted, so variables in the body expand.
    pub expand: bool,
    /// `<<-`: leading tabs of the body go.
    pub chomp: bool,
    /// The body, with line ends as in the file.
    pub content: String,
}

/// Heredocs that a logical line announces.
pub(super) fn in_line(line: &str) -> Result<Vec<Heredoc>, ShellError> {
    let shell = Shell::new('\\')
        .quotes(Quotes::Keep)
        .unset(Unset::Keep)
        .keep_escapes();
    // A line that cannot be split is left to its shell, and announces nothing.
    let Ok(words) = shell.words(line, &NoEnv) else {
        return Ok(Vec::new());
    };
    let found = words.iter().map(|word| from_word(word));
    found.filter_map(Result::transpose).collect()
}

/// The heredoc that one word announces: `[digits]<<[-][blanks]delimiter`.
pub(super) fn from_word(word: &str) -> Result<Option<Heredoc>, ShellError> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(rest) = rest.strip_prefix("<<") else {
        return Ok(None);
    };
    let (rest, chomp) = match rest.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let shell = Shell::new('\\').unset(Unset::Keep);
    let [name] = &shell.words(rest, &NoEnv)?[..] else {
        return Ok(None);
    };
    let raw = shell.quotes(Quotes::Keep).words(rest, &NoEnv)?.concat();
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let expand = quotes(name) == quotes(&raw);
    Ok(Some(Heredoc {
        name: name.clone(),
        expand,
        chomp,
        content: String::new(),
    }))
}

/// True where a whole command is nothing but a heredoc.
pub(crate) fn is_heredoc(text: &str) -> bool {
    from_word(text).is_ok_and(|found| found.is_some())
}

/// The body without the tabs that its lines start with.
pub(crate) fn chomp(body: &str) -> String {
    body.split_inclusive('\n')
        .map(|line| line.trim_start_matches('\t'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_announce_heredocs() {
        let cases = [
            ("<<EOF", Some(("EOF", true, false))),
            ("<<-EOF", Some(("EOF", true, true))),
            ("<<'EOF'", Some(("EOF", false, false))),
            ("<<\"E F\"", Some(("E F", false, false))),
            ("3<<E", Some(("E", true, false))),
            ("<< EOF", Some(("EOF", true, false))),
            (r"<<\EOF", Some(("EOF", true, false))),
            ("<<$x", Some(("$x", true, false))),
            ("<<", None),
            ("<<-", None),
            ("<<<EOF", None),
            ("a<<EOF", None),
            ("<<a<b", None),
        ];
        for (word, want) in cases {
            let found = from_word(word).unwrap();
            let got = found.as_ref().map(|h| (h.name.as_str(), h.expand, h.chomp));
            assert_eq!(got, want, "{word}");
        }
    }

    #[test]
    fn chomping_takes_tabs_only() {
        assert_eq!(chomp("\t\ta\n \tb\n\t\n\tc"), "a\n \tb\n\nc");
    }
}
