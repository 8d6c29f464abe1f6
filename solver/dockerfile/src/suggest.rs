//! "Did you mean …?": the nearest of the words that would have been right. Case may be ignored, and is then imitated.

use std::borrow::Cow;

/// Words at this edit distance or further are no suggestion.
const LIMIT: usize = 3;
/// Longer words are never compared: the work is quadratic.
const LONGEST: usize = 64;

/// Whether case counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    Exact,
    Ignore,
}

/// The option nearest to `word`; none if `word` is one of them, or if none is near.
pub(crate) fn nearest<'a>(
    word: &str,
    options: impl IntoIterator<Item = &'a str>,
    case: Case,
) -> Option<String> {
    fn fold(text: &str, case: Case) -> Cow<'_, str> {
        match case {
            Case::Exact => text.into(),
            Case::Ignore => text.to_lowercase().into(),
        }
    }
    let wanted = fold(word, case);
    let mut best: Option<(usize, Cow<'_, str>)> = None;
    for option in options {
        let option = fold(option, case);
        if option == wanted {
            return None;
        }
        if let Some(distance) = distance(&wanted, &option)
            && best.as_ref().is_none_or(|(least, _)| distance < *least)
        {
            best = Some((distance, option));
        }
    }
    // A nameless option is near every short word, and of no help.
    let best = best.filter(|(_, option)| !option.is_empty());
    best.map(|(_, option)| match case {
        Case::Ignore if word == word.to_uppercase() => option.to_uppercase(),
        _ => option.into_owned(),
    })
}

/// Levenshtein's distance where it is below the limit.
fn distance(a: &str, b: &str) -> Option<usize> {
    if a.is_ascii() && b.is_ascii() {
        return between(a.as_bytes(), b.as_bytes());
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    between(&a, &b)
}

fn between<T: PartialEq>(a: &[T], b: &[T]) -> Option<usize> {
    if a.len().max(b.len()) > LONGEST || a.len().abs_diff(b.len()) >= LIMIT {
        return None;
    }
    let mut row: [usize; LONGEST + 1] = std::array::from_fn(|at| at);
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        let mut least = row[0];
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
            least = least.min(row[j + 1]);
        }
        // No row's least is below that of the row before.
        if least >= LIMIT {
            return None;
        }
    }
    Some(row[b.len()]).filter(|&distance| distance < LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested() {
        let options = ["COPY", "RUN", "FROM"];
        let cases = [
            ("COPPY", Case::Ignore, Some("COPY")),
            ("copi", Case::Ignore, Some("copy")),
            ("RUN", Case::Ignore, None),
            ("WORKDIR", Case::Ignore, None),
            ("FRM", Case::Exact, Some("FROM")),
        ];
        for (word, case, want) in cases {
            assert_eq!(nearest(word, options, case).as_deref(), want, "{word}");
        }
    }
}
