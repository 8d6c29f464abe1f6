//! Reads one word: quotes, escapes and `$` forms, in one pass over its characters.

use super::{Env, Expanded, Quotes, Shell, ShellError, Unset, pattern};
use std::iter::Peekable;
use std::str::Chars;

/// Nested `${a:-${b:-…}}` beyond this is refused: input is hostile and the reader recurses.
const MAX_NESTING: usize = 100;

/// Text and words.
type Read = (String, Vec<String>);

/// What the word becomes, and the names that were looked up even if it becomes nothing.
pub(super) fn expand(
    shell: Shell,
    word: &str,
    env: &dyn Env,
    mut words: Words,
) -> (Result<Read, ShellError>, Expanded) {
    if !word.contains(['\'', '"', '<', '$', shell.escape]) {
        // Nothing in it means anything but itself.
        words.split(word);
        let read = (word.to_owned(), words.finish());
        return (Ok(read), Expanded::default());
    }
    let mut reader = Reader {
        shell,
        env,
        chars: word.chars().peekable(),
        raw_escapes: shell.raw_escapes,
        depth: 0,
        names: Expanded::default(),
    };
    let text = reader.until(None, &mut words);
    (text.map(|text| (text, words.finish())), reader.names)
}

struct Reader<'a> {
    shell: Shell,
    env: &'a dyn Env,
    chars: Peekable<Chars<'a>>,
    raw_escapes: bool,
    depth: usize,
    names: Expanded,
}

impl Reader<'_> {
    /// Reads up to `stop` (which is consumed) or to the end when there is none.
    fn until(&mut self, stop: Option<char>, words: &mut Words) -> Result<String, ShellError> {
        // What is nested may be short and come often.
        let expected = if stop.is_none() {
            self.chars.size_hint().0
        } else {
            0
        };
        let mut text = String::with_capacity(expected);
        while let Some(&ch) = self.chars.peek() {
            if Some(ch) == stop {
                self.chars.next();
                return Ok(text);
            }
            self.token(ch, &mut text, words)?;
        }
        match stop {
            None => Ok(text),
            Some('/') => Err(ShellError::MissingSlash),
            Some(_) => Err(ShellError::MissingBrace),
        }
    }

    /// Reads what begins with `ch`: something quoted, a variable, a heredoc's sign, or one character.
    fn token(&mut self, ch: char, text: &mut String, words: &mut Words) -> Result<(), ShellError> {
        let token = match ch {
            '\'' if self.shell.quotes != Quotes::Ignore => self.single()?,
            '"' if self.shell.quotes != Quotes::Ignore => self.double()?,
            '<' => self.angle(),
            '$' => {
                let value = self.dollar()?;
                words.split(&value);
                text.push_str(&value);
                return Ok(());
            }
            _ => {
                self.plain(text, words);
                return Ok(());
            }
        };
        words.raw(&token);
        text.push_str(&token);
        Ok(())
    }

    fn plain(&mut self, text: &mut String, words: &mut Words) {
        let Some(ch) = self.chars.next() else { return };
        if ch != self.shell.escape {
            words.push(ch);
            text.push(ch);
            return;
        }
        if self.raw_escapes {
            words.raw_char(ch);
            text.push(ch);
        }
        // An escape at the very end stands for nothing.
        if let Some(escaped) = self.chars.next() {
            words.raw_char(escaped);
            text.push(escaped);
        }
    }

    fn single(&mut self) -> Result<String, ShellError> {
        let mut text = String::new();
        self.quote(&mut text);
        loop {
            match self.chars.next() {
                None => return Err(ShellError::Unterminated("single-quote")),
                Some('\'') => break,
                Some(ch) => text.push(ch),
            }
        }
        if self.shell.quotes == Quotes::Keep {
            text.push('\'');
        }
        Ok(text)
    }

    fn double(&mut self) -> Result<String, ShellError> {
        let mut text = String::new();
        self.quote(&mut text);
        loop {
            match self.chars.peek() {
                None => return Err(ShellError::Unterminated("double-quote")),
                Some('"') => {
                    self.quote(&mut text);
                    return Ok(text);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    text.push_str(&value);
                }
                Some(_) => self.in_double(&mut text),
            }
        }
    }

    /// One character between double quotes: only `"`, `$` and the escape itself can be escaped.
    fn in_double(&mut self, text: &mut String) {
        let Some(mut ch) = self.chars.next() else {
            return;
        };
        if ch == self.shell.escape {
            if self.raw_escapes {
                text.push(ch);
            }
            match self.chars.peek() {
                None => return,
                Some(&next) if next == '"' || next == '$' || next == self.shell.escape => {
                    self.chars.next();
                    ch = next;
                }
                Some(_) => {}
            }
        }
        text.push(ch);
    }

    fn quote(&mut self, text: &mut String) {
        if let Some(ch) = self.chars.next()
            && self.shell.quotes == Quotes::Keep
        {
            text.push(ch);
        }
    }

    /// `<<` swallows the blanks behind it, so that `<< EOF` stays one word.
    fn angle(&mut self) -> String {
        self.chars.next();
        if self.chars.next_if_eq(&'<').is_none() {
            return "<".into();
        }
        let mut token = String::from("<<");
        while let Some(blank) = self.chars.next_if(|c| matches!(c, '\t' | '\r' | ' ')) {
            token.push(blank);
        }
        token
    }

    fn dollar(&mut self) -> Result<String, ShellError> {
        self.chars.next();
        if self.chars.next_if_eq(&'{').is_some() {
            self.depth += 1;
            let value = self.braced();
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".into());
        }
        Ok(match self.look_up(&name) {
            None if self.shell.unset == Unset::Keep => format!("${name}"),
            value => value.unwrap_or_default(),
        })
    }

    fn braced(&mut self) -> Result<String, ShellError> {
        if self.depth > MAX_NESTING {
            return Err(ShellError::BadSubstitution);
        }
        match self.chars.peek() {
            None => return Err(ShellError::MissingBrace),
            Some('{' | '}' | ':') => return Err(ShellError::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.chars.next() {
            Some('}') => Ok(match self.look_up(&name) {
                None if self.shell.unset == Unset::Keep => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => {
                let operator = self.chars.next();
                self.operator(&name, true, operator)
            }
            Some('/') => self.replace(&name),
            None => Err(ShellError::MissingBrace),
            operator => self.operator(&name, false, operator),
        }
    }

    /// `${name<operator>word}`; `colon` makes an empty value count as unset.
    fn operator(
        &mut self,
        name: &str,
        colon: bool,
        operator: Option<char>,
    ) -> Result<String, ShellError> {
        let written: String = colon.then_some(':').into_iter().chain(operator).collect();
        let cut = matches!(operator, Some('#' | '%'));
        let known = cut || matches!(operator, Some('+' | '-' | '?'));
        if (colon && cut) || !known {
            return Err(ShellError::Modifier(written));
        }
        let word = self.nested('}', cut)?;
        let value = self.look_up(name);
        if value.is_none() && self.shell.unset == Unset::Keep {
            return Ok(format!("${{{name}{written}{word}}}"));
        }
        let usable = value.clone().filter(|v| !(colon && v.is_empty()));
        match operator {
            Some('-') => Ok(usable.unwrap_or(word)),
            Some('+') => Ok(if usable.is_some() {
                word
            } else {
                String::new()
            }),
            Some('?') => usable.ok_or_else(|| required(name, value.is_some(), word)),
            Some(end) => pattern::trim(end, &word, &value.unwrap_or_default()),
            None => Err(ShellError::Modifier(written)),
        }
    }

    /// `${name/pattern/replacement}` and `${name//pattern/replacement}`.
    fn replace(&mut self, name: &str) -> Result<String, ShellError> {
        let all = self.chars.next_if_eq(&'/').is_some();
        let pattern = self.nested('/', true)?;
        let replacement = self.nested('}', true)?;
        match self.look_up(name) {
            None if self.shell.unset == Unset::Keep => {
                Ok(format!("${{{name}/{pattern}/{replacement}}}"))
            }
            value => pattern::replace(&pattern, &replacement, &value.unwrap_or_default(), all),
        }
    }

    fn nested(&mut self, stop: char, raw_escapes: bool) -> Result<String, ShellError> {
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let word = self.until(Some(stop), &mut Words::new(false));
        self.raw_escapes = outer;
        word
    }

    /// A name, a positional number or one special parameter; empty when none of these follows.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.chars.peek() {
            Some(c) if c.is_numeric() => {
                while let Some(digit) = self.chars.next_if(|c| c.is_numeric()) {
                    name.push(digit);
                }
                return name;
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                name.extend(self.chars.next());
                return name;
            }
            _ => {}
        }
        while let Some(ch) = self.chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
            name.push(ch);
        }
        name
    }

    fn look_up(&mut self, name: &str) -> Option<String> {
        let value = self.env.get(name).map(str::to_owned);
        let seen = if value.is_some() {
            &mut self.names.matched
        } else {
            &mut self.names.unmatched
        };
        seen.insert(name.to_owned());
        value
    }
}

fn required(name: &str, empty: bool, word: String) -> ShellError {
    let message = match (word.is_empty(), empty) {
        (false, _) => word,
        (true, false) => "is not allowed to be unset".into(),
        (true, true) => "is not allowed to be empty".into(),
    };
    ShellError::Required {
        name: name.to_owned(),
        message,
    }
}

/// Collects words; blanks end a word only where they are neither quoted nor escaped.
pub(super) struct Words {
    /// Nobody asks for them otherwise.
    wanted: bool,
    done: Vec<String>,
    current: String,
}

impl Words {
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            done: Vec::new(),
            current: String::new(),
        }
    }

    fn push(&mut self, ch: char) {
        if !self.wanted {
            return;
        }
        if !ch.is_whitespace() {
            self.current.push(ch);
        } else if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    fn split(&mut self, text: &str) {
        if self.wanted {
            text.chars().for_each(|ch| self.push(ch));
        }
    }

    fn raw(&mut self, text: &str) {
        if self.wanted {
            self.current.push_str(text);
        }
    }

    fn raw_char(&mut self, ch: char) {
        if self.wanted {
            self.current.push(ch);
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}
