//! "Did you mean …?": the nearest of the words that would have been right. Case may be ignored, and is then imitated.

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
    let fold = |text: &str| match case {
        Case::Exact => text.to_owned(),
        Case::Ignore => text.to_lowercase(),
    };
    let wanted = fold(word);
    let mut best: Option<(usize, String)> = None;
    for option in options {
        let option = fold(option);
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
        _ => option,
    })
}

/// Levenshtein's distance where it is below the limit.
fn distance(a: &str, b: &str) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().max(b.len()) > LONGEST || a.len().abs_diff(b.len()) >= LIMIT {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
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
