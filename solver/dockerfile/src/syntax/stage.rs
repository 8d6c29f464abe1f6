//! Instructions gathered into stages, and the checks that need only the text.

use super::instruction::{ArgDef, Instruction, InstructionKind};
use super::lines::{self, Args, Statement};
use super::typed;
use crate::error::{Error, SyntaxError};
use crate::lint::{Linter, Rule};
use crate::span::Lines;
use std::sync::Arc;

/// A whole Dockerfile.
#[derive(Debug, Clone)]
pub struct Dockerfile {
    /// Escape character.
    pub escape: char,
    /// ARG instructions before the first FROM.
    pub global_args: Vec<GlobalArg>,
    /// In order; never empty.
    pub stages: Vec<Stage>,
}

/// One variable of an ARG instruction before the first FROM.
#[derive(Debug, Clone)]
pub struct GlobalArg {
    /// The variable.
    pub def: ArgDef,
    /// Its instruction's lines.
    pub lines: Lines,
}

/// FROM and what follows it.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Lower-cased name; empty for none.
    pub name: String,
    /// What it starts from, as written.
    pub base: String,
    /// `--platform`, as written; empty for none.
    pub platform: String,
    /// FROM as written, such as `from`.
    pub from: String,
    /// Text of the FROM instruction.
    pub code: String,
    /// Lines of the FROM instruction.
    pub lines: Lines,
    /// Comments before the FROM instruction.
    pub comments: Arc<[String]>,
    /// The comment that describes the stage.
    pub doc: String,
    /// The rest.
    pub instructions: Vec<Instruction>,
}

/// Reads a Dockerfile; what is questionable goes to `lint`.
///
/// # Errors
/// The first mistake in the text.
pub fn parse(bytes: &[u8], lint: &Linter) -> Result<Dockerfile, Error> {
    if bytes.is_empty() {
        return Err(SyntaxError::Empty.into());
    }
    let parsed = lines::parse(&String::from_utf8_lossy(bytes))?;
    for &lines in &parsed.empty_continuations {
        lint.warn(
            &Rule::NoEmptyContinuation,
            lines,
            "Empty continuation line".into(),
        );
    }
    let mut dockerfile = Dockerfile {
        escape: parsed.escape,
        global_args: Vec::new(),
        stages: Vec::new(),
    };
    for statement in &parsed.statements {
        dockerfile.add(statement, lint)?;
    }
    if dockerfile.stages.is_empty() {
        return Err(SyntaxError::NoStages.into());
    }
    Ok(dockerfile)
}

/// Reads the one instruction of an ONBUILD trigger, which counts as standing on `lines`.
pub(crate) fn parse_trigger(text: &str, lines: Lines) -> Result<Instruction, Error> {
    let parsed = lines::parse(text)?;
    let [statement] = &parsed.statements[..] else {
        return Err(SyntaxError::OnBuildSingle.into());
    };
    let mut instruction = instruction(statement)?;
    instruction.lines = lines;
    Ok(instruction)
}

impl Dockerfile {
    fn add(&mut self, statement: &Statement, lint: &Linter) -> Result<(), Error> {
        let wrong = |error: Error| error.in_instruction(statement.lines);
        let lint = lint.for_comments(&statement.comments);
        if statement.name.eq_ignore_ascii_case("from") {
            self.stages.push(stage(statement, &lint).map_err(wrong)?);
            return Ok(());
        }
        if statement.name.eq_ignore_ascii_case("maintainer") {
            let text = "Maintainer instruction is deprecated in favor of using label";
            lint.warn(&Rule::MaintainerDeprecated, statement.lines, text.into());
        }
        let instruction = instruction(statement).map_err(wrong)?;
        if let InstructionKind::Arg(args) = &instruction.kind {
            let names: Vec<&str> = args.iter().map(|arg| arg.key.as_str()).collect();
            check_description("ARG", &names, statement, &lint);
        }
        match (self.stages.last_mut(), instruction.kind) {
            (None, InstructionKind::Arg(args)) => {
                let lines = instruction.lines;
                self.global_args
                    .extend(args.into_iter().map(|def| GlobalArg { def, lines }));
                Ok(())
            }
            (None, _) => Err(Error::at(statement.lines, SyntaxError::NoStage)),
            (Some(stage), kind) => {
                stage.instructions.push(Instruction {
                    kind,
                    ..instruction
                });
                Ok(())
            }
        }
    }
}

fn instruction(statement: &Statement) -> Result<Instruction, Error> {
    Ok(Instruction {
        kind: typed::kind(statement)?,
        name: statement.name.clone(),
        code: statement.text.trim().to_owned(),
        lines: statement.lines,
        comments: Arc::clone(&statement.comments),
    })
}

fn stage(statement: &Statement, lint: &Linter) -> Result<Stage, Error> {
    if let Args::Words { words, .. } = &statement.args {
        check_from_casing(&statement.name, words, statement.lines, lint);
    }
    let from = typed::from(statement)?;
    if !from.name.is_empty() {
        check_description("FROM", &[&from.name], statement, lint);
    }
    Ok(Stage {
        doc: typed::doc_comment(&statement.comments, &from.name),
        name: from.name,
        base: from.base,
        platform: from.platform,
        from: statement.name.clone(),
        code: statement.text.trim().to_owned(),
        lines: statement.lines,
        comments: Arc::clone(&statement.comments),
        instructions: Vec::new(),
    })
}

fn check_from_casing(from: &str, words: &[String], lines: Lines, lint: &Linter) {
    if let [_, _, name] = words
        && *name != name.to_lowercase()
    {
        lint.warn(
            &Rule::StageNameCasing,
            lines,
            format!("Stage name '{name}' should be lowercase"),
        );
    }
    let [_, keyword, _, ..] = words else { return };
    let lower = from == from.to_lowercase();
    // A mixed-case FROM is reported by itself.
    let expected = match (lower, from == from.to_uppercase()) {
        (true, _) => keyword.to_lowercase(),
        (false, true) => keyword.to_uppercase(),
        (false, false) => return,
    };
    if *keyword != expected {
        let text = format!("'{keyword}' and '{from}' keywords' casing do not match");
        lint.warn(&Rule::FromAsCasing, lines, text);
    }
}

/// A comment right before a definition should describe it: `# NAME text`.
fn check_description(instruction: &str, names: &[&str], statement: &Statement, lint: &Linter) {
    let Some(comment) = statement.comments.last() else {
        return;
    };
    let Some(first) = names.first() else { return };
    if names.contains(&comment.split(' ').next().unwrap_or_default()) {
        return;
    }
    let example = if names.len() > 1 { "<arg_key>" } else { first };
    let text =
        format!("Comment for {instruction} should follow the format: `# {example} <description>`");
    lint.warn(&Rule::InvalidDefinitionDescription, statement.lines, text);
}
