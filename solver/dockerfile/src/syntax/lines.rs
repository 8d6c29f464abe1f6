//! Physical lines become statements: comments gone, continuations joined, heredoc bodies attached.

use super::directive::Directives;
use super::heredoc::{self, Heredoc};
use super::instruction::KeyValue;
use super::words;
use crate::error::{Error, SyntaxError};
use crate::span::Lines;
use std::sync::Arc;

/// One statement before its instruction is known to exist.
#[derive(Debug)]
pub(super) struct Statement {
    /// The instruction's name as written.
    pub(super) name: String,
    /// The whole logical line.
    pub(super) text: String,
    pub(super) flags: Vec<String>,
    pub(super) args: Args,
    pub(super) heredocs: Vec<Heredoc>,
    pub(super) lines: Lines,
    pub(super) comments: Arc<[String]>,
}

/// Arguments in the shape that the instruction's name gives them.
#[derive(Debug)]
pub(super) enum Args {
    Words {
        words: Vec<String>,
        json: bool,
    },
    Pairs(Vec<KeyValue>),
    /// ONBUILD's statement.
    Statement(Option<Box<Statement>>),
    /// The name is not known.
    Unknown,
}

/// A file as statements.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) statements: Vec<Statement>,
    pub(super) escape: char,
    /// Last lines of statements that have an empty line inside.
    pub(super) empty_continuations: Vec<Lines>,
}

/// Reads a whole file.
pub(super) fn parse(text: &str) -> Result<Parsed, Error> {
    let mut reader = Reader {
        lines: text.split_inclusive('\n'),
        line: 0,
        escape: '\\',
        directives: Directives::new("#"),
        comments: Vec::new(),
        parsed: Parsed {
            statements: Vec::new(),
            escape: '\\',
            empty_continuations: Vec::new(),
        },
    };
    while let Some(line) = reader.next() {
        let line = if reader.line == 1 {
            line.trim_start_matches('\u{feff}')
        } else {
            line
        };
        reader.statement(line)?;
    }
    let Reader {
        line,
        escape,
        mut parsed,
        ..
    } = reader;
    if parsed.statements.is_empty() {
        return Err(Error::at(Lines::one(line), SyntaxError::NoInstructions));
    }
    parsed.escape = escape;
    Ok(parsed)
}

struct Reader<'a> {
    lines: std::str::SplitInclusive<'a, char>,
    /// Number of the line that was read last.
    line: u32,
    escape: char,
    directives: Directives,
    comments: Vec<String>,
    parsed: Parsed,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let line = self.lines.next()?;
        self.line = self.line.saturating_add(1);
        Some(line)
    }

    /// Reads the statement that starts with `line`, if it is neither blank nor a comment.
    fn statement(&mut self, line: &str) -> Result<(), Error> {
        let line = line.trim_end_matches(['\r', '\n']).trim_start();
        if self.directive(line)? || self.comment(line) {
            return Ok(());
        }
        let first = self.line;
        let (part, mut complete) = self.continuation(line);
        if complete && part.is_empty() {
            return Ok(());
        }
        let mut text = part.to_owned();
        let mut empty = false;
        while !complete {
            let Some(line) = self.next() else { break };
            let line = line.trim_end_matches(['\r', '\n']);
            match line.trim_start().chars().next() {
                None => empty = true,
                Some('#') => {}
                Some(_) => {
                    let part;
                    (part, complete) = self.continuation(line);
                    text.push_str(part);
                }
            }
        }
        if empty {
            self.parsed.empty_continuations.push(Lines::one(self.line));
        }
        self.finish(text, first)
    }

    fn directive(&mut self, line: &str) -> Result<bool, Error> {
        let here = Lines::one(self.line);
        let Some(directive) = self.directives.line(line).map_err(|e| Error::at(here, e))? else {
            return Ok(false);
        };
        if directive.name == "escape" {
            self.escape = match directive.value.as_str() {
                "`" => '`',
                "\\" => '\\',
                other => return Err(Error::at(here, SyntaxError::EscapeToken(other.to_owned()))),
            };
        }
        Ok(true)
    }

    /// Remembers a comment; an empty one parts what follows from what came before.
    fn comment(&mut self, line: &str) -> bool {
        let Some(comment) = line.strip_prefix('#') else {
            return false;
        };
        let comment = comment.trim();
        if comment.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(comment.to_owned());
        }
        true
    }

    /// The line without its continuation mark, and whether the statement ends here. The mark is an escape character,
    /// not itself escaped, with at most blanks behind it.
    fn continuation<'l>(&self, line: &'l str) -> (&'l str, bool) {
        let trimmed = line.trim_end_matches([' ', '\t']);
        match trimmed.strip_suffix(self.escape) {
            Some(part) if !part.ends_with(self.escape) => (part, false),
            _ => (line, true),
        }
    }

    fn finish(&mut self, text: String, first: u32) -> Result<(), Error> {
        let here = Lines {
            first,
            last: self.line,
        };
        let located = |error: Error| error.located(here);
        let mut statement = statement(text, self.escape).map_err(located)?;
        if takes_heredocs(&statement) && statement.text.contains("<<") {
            let announced = heredoc::in_line(&statement.text).map_err(|e| Error::at(here, e))?;
            for heredoc in announced {
                let heredoc = self.body(heredoc, first)?;
                statement.heredocs.push(heredoc);
            }
        }
        statement.lines = Lines {
            first,
            last: self.line,
        };
        statement.comments = std::mem::take(&mut self.comments).into();
        self.parsed.statements.push(statement);
        Ok(())
    }

    fn body(&mut self, mut heredoc: Heredoc, first: u32) -> Result<Heredoc, Error> {
        while let Some(line) = self.next() {
            let end = line.trim_end_matches(['\r', '\n']);
            let end = if heredoc.chomp {
                end.trim_start_matches('\t')
            } else {
                end
            };
            if end == heredoc.name {
                return Ok(heredoc);
            }
            heredoc.content.push_str(line);
        }
        let here = Lines {
            first,
            last: self.line,
        };
        Err(Error::at(here, SyntaxError::UnterminatedHeredoc))
    }
}

/// Splits one logical line.
fn statement(text: String, escape: char) -> Result<Statement, Error> {
    let (name, flags, rest) = words::split(&text, escape);
    let args = args(&name.to_ascii_lowercase(), rest, escape)?;
    Ok(Statement {
        name: name.to_owned(),
        flags,
        args,
        heredocs: Vec::new(),
        lines: Lines::default(),
        comments: Arc::default(),
        text,
    })
}

fn args(name: &str, rest: &str, escape: char) -> Result<Args, Error> {
    let text = || {
        if rest.is_empty() {
            Vec::new()
        } else {
            vec![rest.to_owned()]
        }
    };
    let plain = |words| Args::Words { words, json: false };
    Ok(match name {
        "add" | "copy" | "volume" => match words::json(rest)? {
            Some(words) => Args::Words { words, json: true },
            None => plain(words::plain_words(rest)),
        },
        "cmd" | "entrypoint" | "run" | "shell" => match words::json(rest)? {
            Some(words) => Args::Words { words, json: true },
            None => plain(text()),
        },
        "arg" => plain(words::quoted_words(rest, escape)),
        "env" => Args::Pairs(words::pairs(rest, "ENV", escape)?),
        "label" => Args::Pairs(words::pairs(rest, "LABEL", escape)?),
        "expose" | "from" => plain(words::plain_words(rest)),
        "maintainer" | "stopsignal" | "user" | "workdir" => plain(text()),
        "healthcheck" => healthcheck(rest)?,
        "onbuild" if rest.is_empty() => Args::Statement(None),
        "onbuild" => Args::Statement(Some(Box::new(nested(rest, escape)?))),
        _ => Args::Unknown,
    })
}

/// ONBUILD's statement; one more ONBUILD is refused later, so there is no need to look into it.
fn nested(text: &str, escape: char) -> Result<Statement, Error> {
    let (name, flags, rest) = words::split(text, escape);
    let args = match name.to_ascii_lowercase().as_str() {
        "onbuild" => Args::Unknown,
        name => args(name, rest, escape)?,
    };
    Ok(Statement {
        name: name.to_owned(),
        text: text.to_owned(),
        flags,
        args,
        heredocs: Vec::new(),
        lines: Lines::default(),
        comments: Arc::default(),
    })
}

/// The type, then a command.
fn healthcheck(rest: &str) -> Result<Args, Error> {
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if kind.is_empty() {
        return Ok(Args::Words {
            words: Vec::new(),
            json: false,
        });
    }
    let command = command.trim_start();
    let json = words::json(command)?;
    let is_json = json.is_some();
    let command = json.unwrap_or_else(|| match command {
        "" => Vec::new(),
        text => vec![text.to_owned()],
    });
    let words = std::iter::once(kind.to_owned()).chain(command).collect();
    Ok(Args::Words {
        words,
        json: is_json,
    })
}

fn takes_heredocs(statement: &Statement) -> bool {
    let statement = match &statement.args {
        Args::Statement(Some(inner)) => inner,
        _ => statement,
    };
    let name = statement.name.to_ascii_lowercase();
    let json = matches!(statement.args, Args::Words { json: true, .. });
    matches!(name.as_str(), "add" | "copy" | "run") && !json
}
