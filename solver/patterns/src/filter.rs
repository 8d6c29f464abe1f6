//! containerd's filter language: `field==value`, `!=`, `~=` (regular expression) or a bare field for presence, joined by
//! commas that mean "and"; several filters mean "or". Decides what matches, never what exists.

use regex::Regex;

/// Alternatives; none at all match everything.
#[derive(Debug)]
pub struct Filters(Vec<Vec<Selector>>);

/// Why a filter is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter {filter:?}: {why}")]
pub struct InvalidFilter {
    /// The filter.
    pub filter: String,
    /// What is wrong with it.
    pub why: &'static str,
}

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    /// `None` for an expression that does not compile: it matches nothing, as in containerd.
    Matches(Option<Regex>),
}

impl Filters {
    /// Reads filters; an empty one matches everything.
    pub fn parse<'a>(filters: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidFilter> {
        let parse = |text: &'a str| {
            Parser { rest: text }
                .selectors()
                .map_err(|why| InvalidFilter {
                    filter: text.to_owned(),
                    why,
                })
        };
        let all: Result<_, _> = filters.into_iter().map(parse).collect();
        Ok(Self(all?))
    }

    /// True where something matches whose fields `value` knows: by path, `None` for one that it does not have.
    pub fn matches(&self, value: impl Fn(&[&str]) -> Option<String>) -> bool {
        let holds = |selector: &Selector| {
            let path: Vec<&str> = selector.path.iter().map(String::as_str).collect();
            selector.holds(value(&path).as_deref())
        };
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(holds))
    }

    /// The value that a field must equal for anything to match, if the filters say so: paths are joined by dots.
    #[must_use]
    pub fn required(&self, path: &str) -> Option<&str> {
        let [only] = self.0.as_slice() else {
            return None;
        };
        only.iter().find_map(|selector| match &selector.test {
            Test::Equal(value) if selector.path.join(".") == path => Some(value.as_str()),
            _ => None,
        })
    }
}

impl Selector {
    fn holds(&self, value: Option<&str>) -> bool {
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value == Some(wanted),
            Test::NotEqual(unwanted) => value.unwrap_or_default() != unwanted,
            Test::Matches(expression) => {
                let value = value.unwrap_or_default();
                expression.as_ref().is_some_and(|e| e.is_match(value))
            }
        }
    }
}

type Parsed<T> = Result<T, &'static str>;

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn selectors(mut self) -> Parsed<Vec<Selector>> {
        let mut selectors = Vec::new();
        // containerd reads an empty filter as one that matches everything.
        if self.rest.is_empty() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            self.skip_space();
            match self.next() {
                None => return Ok(selectors),
                Some(',') => {}
                Some(_) => return Err("expected a comma"),
            }
        }
    }

    fn selector(&mut self) -> Parsed<Selector> {
        let mut path = vec![self.field()?];
        while self.eat(".") {
            path.push(self.field()?);
        }
        self.skip_space();
        if self.rest.is_empty() || self.rest.starts_with(',') {
            return Ok(Selector {
                path,
                test: Test::Present,
            });
        }
        let test = match self.operator() {
            "==" => Test::Equal(self.value(false)?),
            "!=" => Test::NotEqual(self.value(false)?),
            "~=" => Test::Matches(Regex::new(&self.value(true)?).ok()),
            _ => return Err("expected one of == != ~="),
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Parsed<String> {
        self.skip_space();
        if self.rest.starts_with('"') {
            return self.quoted();
        }
        match self.take_while(|c| c == '_' || c.is_ascii_alphanumeric()) {
            "" => Err("expected a field"),
            name => Ok(name.into()),
        }
    }

    fn operator(&mut self) -> &str {
        self.take_while(|c| matches!(c, '=' | '!' | '~'))
    }

    /// A value; a regular expression may also be quoted by slashes or bars.
    fn value(&mut self, expression: bool) -> Parsed<String> {
        self.skip_space();
        match self.rest.chars().next() {
            Some('"') => self.quoted(),
            Some('/' | '|') if expression => self.quoted(),
            Some('/' | '|') => Err("a value that starts with this must be quoted by \""),
            _ => match self.take_while(|c| c != ',' && !c.is_whitespace() && !c.is_control()) {
                "" => Err("expected a value"),
                value => Ok(value.into()),
            },
        }
    }

    /// A literal in Go's syntax.
    fn quoted(&mut self) -> Parsed<String> {
        let quote = self.next().ok_or("expected a quoted literal")?;
        let mut bytes = Vec::new();
        loop {
            match self.next().ok_or("a quoted literal is not terminated")? {
                c if c == quote => break,
                '\n' => return Err("a quoted literal is not terminated"),
                '\\' => self.escape(quote, &mut bytes)?,
                c => push(&mut bytes, c),
            }
        }
        String::from_utf8(bytes).map_err(|_| "a quoted literal is not UTF-8")
    }

    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Parsed<()> {
        let simple = match self.next().ok_or("an escape is not finished")? {
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 0x0b,
            '\\' => b'\\',
            c if c == quote => {
                push(bytes, c);
                return Ok(());
            }
            'x' => self.byte(2, 16, "")?,
            c @ '0'..='7' => self.byte(2, 8, c.encode_utf8(&mut [0; 4]))?,
            'u' => return self.code_point(4, bytes),
            'U' => return self.code_point(8, bytes),
            _ => return Err("illegal escape"),
        };
        bytes.push(simple);
        Ok(())
    }

    fn byte(&mut self, digits: usize, radix: u32, first: &str) -> Parsed<u8> {
        let text = format!("{first}{}", self.take(digits)?);
        u8::from_str_radix(&text, radix).map_err(|_| "illegal numeric escape")
    }

    fn code_point(&mut self, digits: usize, bytes: &mut Vec<u8>) -> Parsed<()> {
        let code = u32::from_str_radix(self.take(digits)?, 16).ok();
        push(
            bytes,
            code.and_then(char::from_u32)
                .ok_or("illegal numeric escape")?,
        );
        Ok(())
    }

    fn take(&mut self, len: usize) -> Parsed<&str> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or("illegal numeric escape")?;
        self.rest = rest;
        Ok(taken)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, prefix: &str) -> bool {
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused() {
        for text in [
            ",",
            "name==",
            "name=x",
            "name===x",
            "==x",
            "name==x,",
            "name x",
            "name==\"x",
            "name.",
            "name==/x/",
            "name==\"\\q\"",
            "name==\"\\xzz\"",
            "name==\"\\xff\"",
            "\"",
            "name==\"a\"b",
        ] {
            assert!(Filters::parse([text]).is_err(), "{text}");
        }
    }

    #[test]
    fn alternatives_and_conjunctions() {
        let field = |path: &[&str]| match path {
            ["type"] => Some("regular".to_owned()),
            _ => None,
        };
        for (filters, matched) in [
            (&["type==regular"][..], true),
            (&["type==regular,id==x"], false),
            (&["id==x", "type"], true),
            (&["type~=^reg"], true),
            (&[""], true),
            (&[], true),
        ] {
            let parsed = Filters::parse(filters.iter().copied()).unwrap();
            assert_eq!(parsed.matches(field), matched, "{filters:?}");
        }
    }
}
