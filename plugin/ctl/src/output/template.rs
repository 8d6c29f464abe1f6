//! The part of Go's template language that people use with `--format`: fields, `json`, `range`, `if`, `len`, `index`,
//! comparisons and pipelines. Anything else is refused by name.

use super::value::Value;
use crate::error::Error;

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Pipeline),
    Range {
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    If {
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// Commands, each fed with the result of the one before.
type Pipeline = Vec<Command>;
type Command = Vec<Operand>;

#[derive(Debug, Clone)]
enum Operand {
    /// `.` followed by names.
    Path(Vec<String>),
    /// `$` followed by names.
    Root(Vec<String>),
    Literal(Value),
    Function(String),
    /// A pipeline in parentheses, followed by names.
    Nested(Pipeline, Vec<String>),
}

impl Template {
    /// Reads a template; `json` alone means `{{json .}}`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let text = if text == "json" { "{{json .}}" } else { text };
        let mut tokens = tokens(text).map_err(Error::Template)?.into_iter();
        let (nodes, end) = block(&mut tokens).map_err(Error::Template)?;
        match end {
            None => Ok(Self { nodes }),
            Some(action) => Err(Error::Template(format!("unexpected {{{{{action}}}}}"))),
        }
    }

    /// Applies it to a value.
    pub(crate) fn apply(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        run(&self.nodes, value, value, &mut out).map_err(Error::Template)?;
        Ok(out)
    }
}

enum Token {
    Text(String),
    Action(String),
}

/// Cuts a template into text and actions; `{{-` and `-}}` trim the text beside them.
fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, behind) = after.split_once("}}").ok_or("unclosed action")?;
        let (action, trim_before) = match action.strip_prefix("- ") {
            Some(action) => (action, true),
            None => (action, false),
        };
        let before = if trim_next {
            before.trim_start()
        } else {
            before
        };
        found.push(Token::Text(
            if trim_before {
                before.trim_end()
            } else {
                before
            }
            .to_owned(),
        ));
        let (action, trim) = match action.strip_suffix(" -") {
            Some(action) => (action, true),
            None => (action, false),
        };
        trim_next = trim;
        if !action.trim().starts_with("/*") {
            found.push(Token::Action(action.trim().to_owned()));
        }
        rest = behind;
    }
    found.push(Token::Text(
        if trim_next { rest.trim_start() } else { rest }.to_owned(),
    ));
    Ok(found)
}

type Block = (Vec<Node>, Option<String>);

/// Reads nodes up to `end` or `else`, which it gives back.
fn block(tokens: &mut std::vec::IntoIter<Token>) -> Result<Block, String> {
    let mut nodes = Vec::new();
    while let Some(token) = tokens.next() {
        let action = match token {
            Token::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Token::Action(action) => action,
        };
        let (word, rest) = action
            .split_once(char::is_whitespace)
            .unwrap_or((&action, ""));
        match word {
            "end" | "else" => return Ok((nodes, Some(action))),
            "range" | "if" => {
                let head = pipeline(rest)?;
                let (body, otherwise) = branches(tokens)?;
                nodes.push(match word {
                    "range" => Node::Range {
                        over: head,
                        body,
                        otherwise,
                    },
                    _ => Node::If {
                        condition: head,
                        then: body,
                        otherwise,
                    },
                });
            }
            "with" | "define" | "template" | "block" | "break" | "continue" => {
                return Err(format!("{word:?} is not supported"));
            }
            _ => nodes.push(Node::Print(pipeline(&action)?)),
        }
    }
    Ok((nodes, None))
}

fn branches(tokens: &mut std::vec::IntoIter<Token>) -> Result<(Vec<Node>, Vec<Node>), String> {
    let (body, end) = block(tokens)?;
    match end.as_deref() {
        Some("end") => Ok((body, Vec::new())),
        Some("else") => match block(tokens)? {
            (otherwise, Some(end)) if end == "end" => Ok((body, otherwise)),
            _ => Err("missing {{end}}".to_owned()),
        },
        Some(other) => match other.strip_prefix("else ").map(str::trim) {
            Some(condition) if condition.starts_with("if ") => {
                let condition = pipeline(&condition[3..])?;
                let (then, otherwise) = branches(tokens)?;
                Ok((
                    body,
                    vec![Node::If {
                        condition,
                        then,
                        otherwise,
                    }],
                ))
            }
            _ => Err(format!("{other:?} is not supported")),
        },
        None => Err("missing {{end}}".to_owned()),
    }
}

fn pipeline(text: &str) -> Result<Pipeline, String> {
    let mut words = Words { rest: text };
    let parsed = words.pipeline()?;
    if words.rest.is_empty() {
        Ok(parsed)
    } else {
        Err(format!("unexpected {:?}", words.rest))
    }
}

/// The names in a path such as `.A.B`.
fn names(path: &str) -> Vec<String> {
    path.split('.')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Reads the inside of an action.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn pipeline(&mut self) -> Result<Pipeline, String> {
        let mut commands = vec![Vec::new()];
        loop {
            self.rest = self.rest.trim_start();
            match self.rest.chars().next() {
                None | Some(')') => break,
                Some('|') => {
                    self.rest = &self.rest[1..];
                    commands.push(Vec::new());
                }
                Some(_) => {
                    let operand = self.operand()?;
                    commands
                        .last_mut()
                        .expect("starts with one command")
                        .push(operand);
                }
            }
        }
        if commands.iter().any(Vec::is_empty) {
            return Err("missing value for command".to_owned());
        }
        Ok(commands)
    }

    fn operand(&mut self) -> Result<Operand, String> {
        if let Some(inside) = self.rest.strip_prefix('(') {
            self.rest = inside;
            let nested = self.pipeline()?;
            self.rest = self.rest.strip_prefix(')').ok_or("unclosed left paren")?;
            let behind = if self.rest.starts_with('.') {
                self.word()
            } else {
                ""
            };
            return Ok(Operand::Nested(nested, names(behind)));
        }
        if self.rest.starts_with('"') {
            return self.quoted();
        }
        let word = self.word();
        match word {
            "true" | "false" => Ok(Operand::Literal(Value::Bool(word == "true"))),
            "nil" => Ok(Operand::Literal(Value::Null)),
            path if path.starts_with('.') => Ok(Operand::Path(names(path))),
            path if path.starts_with("$.") || path == "$" => Ok(Operand::Root(names(&path[1..]))),
            variable if variable.starts_with('$') => {
                Err(format!("variable {variable:?} is not supported"))
            }
            number if number.parse::<i64>().is_ok() => Ok(Operand::Literal(Value::Int(
                number.parse().unwrap_or_default(),
            ))),
            name => Ok(Operand::Function(name.to_owned())),
        }
    }

    /// The characters up to the next space, bar or parenthesis.
    fn word(&mut self) -> &'a str {
        let ends = |c: char| c.is_whitespace() || matches!(c, '|' | '(' | ')');
        let (word, rest) = self
            .rest
            .split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn quoted(&mut self) -> Result<Operand, String> {
        let mut escaped = false;
        let end = self.rest.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let (end, _) = end.ok_or("unterminated quoted string")?;
        let (literal, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        let text: String =
            serde_json::from_str(literal).map_err(|error| format!("{literal}: {error}"))?;
        Ok(Operand::Literal(Value::Text(text)))
    }
}

fn run(nodes: &[Node], dot: &Value, root: &Value, out: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipeline) => out.push_str(&evaluate(pipeline, dot, root)?.plain()),
            Node::If {
                condition,
                then,
                otherwise,
            } => {
                let taken = if evaluate(condition, dot, root)?.is_empty() {
                    otherwise
                } else {
                    then
                };
                run(taken, dot, root, out)?;
            }
            Node::Range {
                over,
                body,
                otherwise,
            } => {
                let elements = match evaluate(over, dot, root)? {
                    Value::List(list) => list,
                    Value::Map(map) => map.into_values().collect(),
                    Value::Null => Vec::new(),
                    other => return Err(format!("range can't iterate over {}", other.plain())),
                };
                for element in &elements {
                    run(body, element, root, out)?;
                }
                if elements.is_empty() {
                    run(otherwise, dot, root, out)?;
                }
            }
        }
    }
    Ok(())
}

fn evaluate(pipeline: &Pipeline, dot: &Value, root: &Value) -> Result<Value, String> {
    let mut result = None;
    for command in pipeline {
        let (first, arguments) = command.split_first().ok_or("empty command")?;
        let mut arguments = arguments
            .iter()
            .map(|operand| operand_value(operand, dot, root))
            .collect::<Result<Vec<_>, _>>()?;
        arguments.extend(result.take());
        result = Some(match first {
            Operand::Function(name) => call(name, &arguments)?,
            operand if arguments.is_empty() => operand_value(operand, dot, root)?,
            _ => return Err("can't give argument to non-function".to_owned()),
        });
    }
    result.ok_or_else(|| "empty pipeline".to_owned())
}

fn operand_value(operand: &Operand, dot: &Value, root: &Value) -> Result<Value, String> {
    match operand {
        Operand::Path(names) => path(dot, names),
        Operand::Root(names) => path(root, names),
        Operand::Literal(value) => Ok(value.clone()),
        Operand::Function(name) => call(name, &[]),
        Operand::Nested(pipeline, names) => path(&evaluate(pipeline, dot, root)?, names),
    }
}

fn path(from: &Value, names: &[String]) -> Result<Value, String> {
    let step = |at: &Value, name: &String| {
        at.get(name)
            .cloned()
            .ok_or_else(|| format!("can't evaluate field {name}"))
    };
    names
        .iter()
        .try_fold(from.clone(), |at, name| step(&at, name))
}

fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let found = match (name, arguments) {
        ("json", [value]) => Value::Text(value.json()),
        ("len", [Value::List(list)]) => length(list.len()),
        ("len", [Value::Map(map)]) => length(map.len()),
        ("len", [Value::Text(text)]) => length(text.len()),
        ("len", [Value::Null]) => Value::Int(0),
        ("index", [Value::List(list), Value::Int(at)]) => {
            let element = usize::try_from(*at).ok().and_then(|at| list.get(at));
            element
                .cloned()
                .ok_or_else(|| format!("index out of range: {at}"))?
        }
        ("index", [Value::Map(map), Value::Text(key)]) => map
            .get(key)
            .cloned()
            .unwrap_or_else(|| Value::Text(String::new())),
        ("not", [value]) => Value::Bool(value.is_empty()),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => Value::Bool(rest.contains(first)),
        ("ne", [first, second]) => Value::Bool(first != second),
        ("and", [first, second]) => if first.is_empty() { first } else { second }.clone(),
        ("or", [first, second]) => if first.is_empty() { second } else { first }.clone(),
        ("print", values) => Value::Text(values.iter().map(Value::plain).collect()),
        ("println", values) => {
            let words: Vec<_> = values.iter().map(Value::plain).collect();
            Value::Text(format!("{}\n", words.join(" ")))
        }
        ("json" | "len" | "index" | "not" | "eq" | "ne" | "and" | "or", _) => {
            return Err(format!("wrong arguments for {name}"));
        }
        _ => return Err(format!("function {name:?} not defined")),
    };
    Ok(found)
}

fn length(len: usize) -> Value {
    Value::Int(i64::try_from(len).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::value::record;
    use super::*;

    fn sample() -> Value {
        let labels = [("a.b".to_owned(), Value::Text("<v>".into()))].into();
        let one = |id: &str| {
            record(vec![
                ("ID", "id", Value::Text(id.into())),
                ("Size", "size", Value::Int(3)),
                ("Labels", "labels", Value::Map(Clone::clone(&labels))),
            ])
        };
        Value::List(vec![one("x"), one("y")])
    }

    #[test]
    fn templates_that_people_use_work() {
        for (template, expected) in [
            (
                "json",
                r#"[{"id":"x","size":3,"labels":{"a.b":"<v>"}},{"id":"y","size":3,"labels":{"a.b":"<v>"}}]"#,
            ),
            ("{{range .}}{{.ID}} {{end}}", "x y "),
            ("{{range .}}{{println .ID .Size}}{{end}}", "x 3\ny 3\n"),
            ("{{len .}}", "2"),
            ("{{(index . 1).ID}}", "y"),
            ("{{range .}}{{index .Labels \"a.b\"}}{{end}}", "<v><v>"),
            (
                "{{range .}}{{if eq .ID \"x\"}}[{{.ID | json}}]{{else}}-{{end}}{{end}}",
                "[\"x\"]-",
            ),
            ("{{range .}}\n  {{- .ID -}}\n{{end}}", "xy"),
            ("{{/* note */}}a", "a"),
        ] {
            let parsed = Template::parse(template).unwrap();
            assert_eq!(parsed.apply(&sample()).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (template, named) in [
            ("{{with .}}{{end}}", "with"),
            ("{{.Nope}}", "Nope"),
            ("{{frobnicate .}}", "frobnicate"),
            ("{{range .}}", "{{end}}"),
            ("{{end}}", "end"),
            ("{{", "unclosed"),
        ] {
            let failed = match Template::parse(template) {
                Ok(parsed) => parsed.apply(&record(vec![])).unwrap_err(),
                Err(error) => error,
            };
            assert!(failed.to_string().contains(named), "{template}: {failed}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_template_panics(text in "(\\{\\{|\\}\\}|-|\\.ID|range|end|if|else|json| |\"|\\(|\\)|\\||\\.){0,12}") {
            if let Ok(template) = Template::parse(&text) {
                let _applied = template.apply(&sample());
            }
        }
    }
}
