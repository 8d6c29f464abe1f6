//! `--chmod`: octal, or symbolic as chmod(1) has it. Applying it is done where files are.

use crate::error::InstructionError;
use shipway_llb::build::Chmod;

/// Reads a `--chmod` value; empty keeps modes.
pub(super) fn parse(text: &str) -> Result<Chmod, InstructionError> {
    if text.is_empty() {
        return Ok(Chmod::Keep);
    }
    if let Ok(bits) = u32::from_str_radix(text, 8)
        && !text.starts_with('+')
    {
        let allowed = bits <= 0o7777;
        return allowed
            .then_some(Chmod::Octal(bits))
            .ok_or(InstructionError::Chmod(text.into()));
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(InstructionError::Chmod(text.to_owned()));
    }
    if !text.split(',').all(is_clause) {
        return Err(InstructionError::ChmodSyntax(text.to_owned()));
    }
    Ok(Chmod::Symbolic(text.to_owned()))
}

/// `[ugoa]*` and at least one of `[+-=][rwxXstugo]*`.
fn is_clause(clause: &str) -> bool {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    actions.starts_with(['+', '-', '=']) && actions.chars().all(|c| "+-=rwxXstugo".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_or_symbolic() {
        assert_eq!(parse("0644"), Ok(Chmod::Octal(0o644)));
        for text in [
            "u+x",
            "go-r,u=rw",
            "a+X",
            "u=rwX,go=rX",
            "+t",
            "u+s",
            "g=u-w",
            "u=",
        ] {
            assert_eq!(parse(text), Ok(Chmod::Symbolic(text.into())), "{text}");
        }
        for text in ["888", "10000", "9"] {
            assert_eq!(
                parse(text),
                Err(InstructionError::Chmod(text.into())),
                "{text}"
            );
        }
        for text in ["rw", "u", "x+u", "u+x,", "-1"] {
            let error = Err(InstructionError::ChmodSyntax(text.into()));
            assert_eq!(parse(text), error, "{text}");
        }
    }
}
