//! Compiles one pattern to tokens and runs them over a path, in time linear in both. Knows nothing about lists of
//! patterns or about parents.

use crate::InvalidPattern;

/// One element of a compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This very character.
    Char(char),
    /// One character other than a slash.
    One,
    /// Any number of characters other than a slash.
    Many,
    /// Nothing, or anything that ends in a slash.
    Dirs,
    /// Anything.
    Rest,
    /// One character of (or, negated, outside) these ranges.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Glob {
    tokens: Vec<Token>,
    /// The literal characters at the start, compared first.
    prefix: String,
}

/// Whether `**` crosses path elements or is two `*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DoubleStar {
    Crosses,
    IsTwoStars,
}

/// Matches `name` against a shell pattern without `**`, as one path element after the other.
///
/// # Errors
/// [`InvalidPattern::Syntax`] names the pattern.
pub fn glob_match(pattern: &str, name: &str) -> Result<bool, InvalidPattern> {
    Ok(Glob::compile(pattern, DoubleStar::IsTwoStars)?.matches(name))
}

impl Glob {
    pub(crate) fn compile(pattern: &str, double: DoubleStar) -> Result<Self, InvalidPattern> {
        let mut parser = Parser {
            rest: pattern,
            double,
        };
        let mut tokens = Vec::new();
        while let Some(token) = parser
            .token()
            .map_err(|Syntax| InvalidPattern::Syntax(pattern.to_owned()))?
        {
            // Two of these say what one says.
            let again = matches!(token, Token::Many | Token::Dirs) && tokens.last() == Some(&token);
            if !again {
                tokens.push(token);
            }
        }
        let literal = |token: &Token| match token {
            Token::Char(c) => Some(*c),
            _ => None,
        };
        let prefix: String = tokens.iter().map_while(literal).collect();
        Ok(Self {
            tokens: tokens.split_off(prefix.chars().count()),
            prefix,
        })
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        self.run(path, false)
    }

    /// Matches the path or one of its parents, all of them in one pass.
    pub(crate) fn matches_upwards(&self, path: &str) -> bool {
        self.run(path, true)
    }

    fn run(&self, path: &str, upwards: bool) -> bool {
        let Some(rest) = path.strip_prefix(&self.prefix) else {
            return false;
        };
        let mut states = States::new(self.tokens.len());
        states.enter(&self.tokens, 0);
        let mut next = States::new(self.tokens.len());
        for c in rest.chars() {
            if upwards && c == '/' && states.0[self.tokens.len()] {
                return true;
            }
            next.clear();
            states.step(&self.tokens, c, &mut next);
            std::mem::swap(&mut states, &mut next);
        }
        states.0[self.tokens.len()]
    }
}

/// Which positions in the pattern the path read so far may have reached.
struct States(Vec<bool>);

impl States {
    fn new(tokens: usize) -> Self {
        Self(vec![false; tokens + 1])
    }

    fn clear(&mut self) {
        self.0.fill(false);
    }

    /// Reaches a position, and those behind it that need no character.
    fn enter(&mut self, tokens: &[Token], mut position: usize) {
        loop {
            self.0[position] = true;
            match tokens.get(position) {
                Some(Token::Many | Token::Dirs | Token::Rest) => position += 1,
                _ => return,
            }
        }
    }

    fn step(&self, tokens: &[Token], c: char, next: &mut Self) {
        for (position, token) in tokens.iter().enumerate().filter(|(at, _)| self.0[*at]) {
            match token.take(c) {
                Taken::No => {}
                Taken::Staying => next.0[position] = true,
                Taken::Again => next.enter(tokens, position),
                Taken::Whole => next.enter(tokens, position + 1),
                Taken::PerhapsWhole => {
                    next.0[position] = true;
                    next.enter(tokens, position + 1);
                }
            }
        }
    }
}

/// What a token makes of one character.
enum Taken {
    /// It does not match.
    No,
    /// It goes on, and can't end here.
    Staying,
    /// It goes on, and may end here.
    Again,
    /// It is over.
    Whole,
    /// It goes on, or it is over.
    PerhapsWhole,
}

impl Token {
    fn take(&self, c: char) -> Taken {
        let matches = match self {
            Self::Many if c == '/' => return Taken::No,
            Self::Many | Self::Rest => return Taken::Again,
            Self::Dirs if c == '/' => return Taken::PerhapsWhole,
            Self::Dirs => return Taken::Staying,
            Self::Char(expected) => *expected == c,
            Self::One => c != '/',
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        };
        if matches { Taken::Whole } else { Taken::No }
    }
}

struct Syntax;

struct Parser<'a> {
    rest: &'a str,
    double: DoubleStar,
}

impl Parser<'_> {
    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn eat(&mut self, expected: char) -> bool {
        let rest = self.rest.strip_prefix(expected);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn token(&mut self) -> Result<Option<Token>, Syntax> {
        let Some(c) = self.take() else {
            return Ok(None);
        };
        Ok(Some(match c {
            '*' => self.star(),
            '?' => Token::One,
            '[' => self.class()?,
            '\\' => Token::Char(self.take().ok_or(Syntax)?),
            other => Token::Char(other),
        }))
    }

    fn star(&mut self) -> Token {
        if self.double == DoubleStar::IsTwoStars || !self.eat('*') {
            return Token::Many;
        }
        // A slash behind `**` belongs to it, so that `**/a` also matches `a`.
        self.eat('/');
        if self.rest.is_empty() {
            Token::Rest
        } else {
            Token::Dirs
        }
    }

    fn class(&mut self) -> Result<Token, Syntax> {
        let negated = self.eat('^');
        let mut ranges = Vec::new();
        while ranges.is_empty() || !self.eat(']') {
            let low = self.class_char()?;
            let high = if self.eat('-') {
                self.class_char()?
            } else {
                low
            };
            ranges.push((low, high));
        }
        Ok(Token::Class { negated, ranges })
    }

    fn class_char(&mut self) -> Result<char, Syntax> {
        match self.take() {
            Some('\\') => self.take().ok_or(Syntax),
            None | Some('-' | ']') => Err(Syntax),
            Some(other) => Ok(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shell_patterns_stay_within_an_element() {
        for (pattern, name, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "aäb", true),
            ("a?b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[x\\-]", "-", true),
            ("**", "a/b", false),
        ] {
            assert_eq!(glob_match(pattern, name), Ok(expected), "{pattern} {name}");
        }
    }

    #[test]
    fn broken_patterns_are_named() {
        for pattern in ["[]a]", "[-]", "[x-]", "[", "[^", "a[", "a\\", "[a-]", "[a"] {
            let expected = Err(InvalidPattern::Syntax(pattern.to_owned()));
            assert_eq!(glob_match(pattern, "a"), expected, "{pattern}");
        }
    }

    /// What the tokens mean, written as plain recursion.
    fn model(tokens: &[Token], text: &[char]) -> bool {
        let Some((token, rest)) = tokens.split_first() else {
            return text.is_empty();
        };
        let splits = |ok: &dyn Fn(&[char]) -> bool| {
            (0..=text.len()).any(|n| ok(&text[..n]) && model(rest, &text[n..]))
        };
        match token {
            Token::Char(c) => text.first() == Some(c) && model(rest, &text[1..]),
            Token::One => text.first().is_some_and(|c| *c != '/') && model(rest, &text[1..]),
            Token::Many => splits(&|part| !part.contains(&'/')),
            Token::Rest => splits(&|_| true),
            Token::Dirs => splits(&|part| part.is_empty() || part.last() == Some(&'/')),
            Token::Class { .. } => unreachable!("the strategy makes no classes"),
        }
    }

    #[test]
    fn long_patterns_and_deep_paths_take_time_linear_in_both() {
        for (pattern, path) in [
            ("*".repeat(3000), "a".repeat(3000)),
            ("*/".repeat(2000), "a/".repeat(2000)),
        ] {
            let glob = Glob::compile(&format!("{pattern}b"), DoubleStar::IsTwoStars).unwrap();
            assert!(!glob.matches_upwards(&path));
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_plain_recursion(pattern in "[ab/*?]{0,8}", text in "[ab/]{0,8}") {
            let glob = Glob::compile(&pattern, DoubleStar::Crosses).unwrap();
            let mut tokens: Vec<_> = glob.prefix.chars().map(Token::Char).collect();
            tokens.extend(glob.tokens.clone());
            let chars: Vec<_> = text.chars().collect();
            prop_assert_eq!(glob.matches(&text), model(&tokens, &chars));
        }

        #[test]
        fn a_path_matches_upwards_where_it_or_a_parent_matches(pattern in "[ab/*?]{0,8}", text in "[ab/]{0,8}") {
            let glob = Glob::compile(&pattern, DoubleStar::Crosses).unwrap();
            let parent = text.match_indices('/').any(|(at, _)| glob.matches(&text[..at]));
            prop_assert_eq!(glob.matches_upwards(&text), parent || glob.matches(&text));
        }

        #[test]
        fn no_pattern_panics(pattern in ".{0,12}", text in ".{0,12}") {
            let _matched = glob_match(&pattern, &text);
        }
    }
}
