//! Changes of permission bits as `chmod` writes them: octal, or symbolic (`u=rwX,go-w`), with an umask of zero.
//! It computes modes and touches no file.

use crate::error::{Error, Result};

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const STANDARD: u32 = SETUID | SETGID | 0o777;
const EXECUTE: u32 = 0o111;

/// A parsed change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change(Vec<Step>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Set(u32),
    Clear(u32),
    /// Set where the entry is a directory or had an execute bit before the whole change.
    SetIfExecutable(u32),
    /// The bits of one class, shifted to the classes in `to`.
    Copy {
        shift: u32,
        to: u32,
        clear: Clear,
        set: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clear {
    Nothing,
    Same,
    All,
}

impl Change {
    /// Reads a change.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = || Error::Mode(text.to_owned());
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8).map_err(|_| invalid())?;
            if bits & !0o7777 != 0 {
                return Err(invalid());
            }
            return Ok(Self(vec![Step::Clear(0o7777), Step::Set(bits)]));
        }
        let mut steps = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause.as_bytes(), &mut steps).ok_or_else(invalid)?;
        }
        Ok(Self(steps))
    }

    /// The bits after the change.
    #[must_use]
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let executable = is_dir || mode & EXECUTE != 0;
        self.0
            .iter()
            .fold(mode, |bits, step| step.apply(bits, executable))
    }
}

impl Step {
    fn apply(self, bits: u32, executable: bool) -> u32 {
        match self {
            Self::Set(set) => bits | set,
            Self::SetIfExecutable(set) => bits | if executable { set } else { 0 },
            Self::Clear(clear) => bits & !clear,
            Self::Copy {
                shift,
                to,
                clear,
                set,
            } => {
                let value = (((bits >> shift) & 7) * EXECUTE) & to;
                let kept = match clear {
                    Clear::Nothing => bits,
                    Clear::Same => bits & !value,
                    Clear::All => bits & !to,
                };
                if set { kept | value } else { kept }
            }
        }
    }
}

/// One clause: classes, then one or more operators each with what it does. `None` if it is neither.
fn parse_clause(clause: &[u8], steps: &mut Vec<Step>) -> Option<()> {
    let classes = clause.iter().take_while(|b| b"augo".contains(b)).count();
    let (classes, mut rest) = clause.split_at(classes);
    let who = classes.iter().fold(0, |who, class| {
        who | match class {
            b'u' => SETUID | 0o700,
            b'g' => SETGID | 0o070,
            b'o' => 0o007,
            _ => STANDARD,
        }
    });
    if rest.is_empty() {
        return None;
    }
    while let [op @ (b'+' | b'-' | b'='), tail @ ..] = rest {
        let len = tail.iter().take_while(|b| !b"+-=".contains(b)).count();
        let (what, next) = tail.split_at(len);
        parse_action(*op, who, what, steps)?;
        rest = next;
    }
    rest.is_empty().then_some(())
}

fn parse_action(op: u8, who: u32, what: &[u8], steps: &mut Vec<Step>) -> Option<()> {
    let special = who == 0 || who & !0o007 != 0;
    let (mut bits, mut sticky, mut conditional, mut copies) = (0, 0, 0, Vec::new());
    for letter in what {
        match letter {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= EXECUTE,
            b'X' if op == b'-' => bits |= EXECUTE,
            b'X' => conditional |= EXECUTE,
            b's' if special => bits |= SETUID | SETGID,
            b't' if special => sticky = STICKY,
            b's' | b't' => {}
            b'u' => copies.push(6),
            b'g' => copies.push(3),
            b'o' => copies.push(0),
            _ => return None,
        }
    }
    let classes = if who == 0 { STANDARD } else { who };
    if op == b'=' && copies.is_empty() {
        steps.push(Step::Clear(classes | sticky));
    }
    let bits = (bits & classes) | sticky;
    steps.extend((bits != 0).then_some(if op == b'-' {
        Step::Clear(bits)
    } else {
        Step::Set(bits)
    }));
    let conditional = conditional & classes;
    steps.extend((conditional != 0).then_some(Step::SetIfExecutable(conditional)));
    for shift in copies {
        let to = classes & 0o777;
        let (clear, set) = match op {
            b'+' => (Clear::Nothing, true),
            b'-' => (Clear::Same, false),
            _ => (Clear::All, true),
        };
        steps.push(Step::Copy {
            shift,
            to,
            clear,
            set,
        });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_would() {
        let cases = [
            ("u+x", 0o644, false, 0o744),
            ("go-r,u=rw", 0o755, false, 0o611),
            ("a+X", 0o640, false, 0o640),
            ("a+X", 0o740, false, 0o751),
            ("u=rwX,go=rX", 0o640, false, 0o644),
            ("u=rwX,go=rX", 0o1777, true, 0o1755),
            ("+t", 0o755, true, 0o1755),
            ("u+s", 0o755, false, 0o4755),
            ("o+t", 0o755, true, 0o755),
            ("go=u-w", 0o700, false, 0o755),
            ("go=", 0o777, false, 0o700),
            ("u=g", 0o750, false, 0o550),
            ("0755", 0o1644, false, 0o755),
            ("7777", 0, false, 0o7777),
        ];
        for (text, mode, is_dir, expected) in cases {
            let got = Change::parse(text).unwrap().apply(mode, is_dir);
            assert_eq!(got, expected, "{text} of {mode:o}: {got:o}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["", "rw", "888", "10000", "u", "u+z", "u+x,", "ux"] {
            assert!(Change::parse(text).is_err(), "{text}");
        }
    }
}
