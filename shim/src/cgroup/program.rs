//! Translates device rules into the BPF program by which cgroup v2 judges each use of a device. It never loads anything
//! but that.

use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use super::devices::DeviceRule;
use crate::sys::{BpfInstruction, attach_device_program, load_device_program};

// Registers.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Operation codes.
const LOAD_WORD: u8 = 0x61;
const MOVE_NUMBER: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND_NUMBER: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_UNLESS_EQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// Attaches the rules to the group at `directory`.
pub(super) fn attach(directory: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    let group = open(
        directory,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let program = load_device_program(&compile(rules))?;
    attach_device_program(&group, &program)
}

/// The last rule that matches decides, so the rules are tried from the last. Without a match nothing is allowed.
fn compile(rules: &[DeviceRule]) -> Vec<BpfInstruction> {
    let mut program = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        instruction(AND_NUMBER, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let judged = judge(rule);
        let unconditional = judged.len() == VERDICT;
        program.extend(judged);
        if unconditional {
            // The kernel refuses a program with instructions that are never reached.
            return program;
        }
    }
    program.push(instruction(MOVE_NUMBER, RESULT, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

/// How many instructions a verdict takes.
const VERDICT: usize = 2;

/// One rule: conditions that jump behind it, then its verdict.
fn judge(rule: &DeviceRule) -> Vec<BpfInstruction> {
    let mut conditions = Vec::new();
    match rule.kind {
        'b' => conditions.push(instruction(JUMP_UNLESS_EQUAL, KIND, 0, 0, 1)),
        'c' => conditions.push(instruction(JUMP_UNLESS_EQUAL, KIND, 0, 0, 2)),
        _ => {}
    }
    let granted = access_bits(&rule.access);
    if granted != 7 {
        // An allowing rule must grant all that is asked; a denying one is enough with a part of it.
        conditions.push(instruction(MOVE_REGISTER, CONTEXT, ACCESS, 0, 0));
        conditions.push(instruction(AND_NUMBER, CONTEXT, 0, 0, granted));
        if rule.allow {
            conditions.push(instruction(
                JUMP_UNLESS_EQUAL_REGISTER,
                CONTEXT,
                ACCESS,
                0,
                0,
            ));
        } else {
            conditions.push(instruction(JUMP_IF_EQUAL, CONTEXT, 0, 0, 0));
        }
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            conditions.push(instruction(
                JUMP_UNLESS_EQUAL,
                register,
                0,
                0,
                number.cast_signed(),
            ));
        }
    }
    let verdict: [BpfInstruction; VERDICT] = [
        instruction(MOVE_NUMBER, RESULT, 0, 0, i32::from(rule.allow)),
        instruction(EXIT, 0, 0, 0, 0),
    ];
    let total = conditions.len() + verdict.len();
    for (at, condition) in conditions.iter_mut().enumerate() {
        if is_jump(condition.code) {
            condition.offset = i16::try_from(total - at - 1).expect("a rule has few instructions");
        }
    }
    conditions.into_iter().chain(verdict).collect()
}

const JUMP_IF_EQUAL: u8 = 0x15;

fn is_jump(code: u8) -> bool {
    [JUMP_UNLESS_EQUAL, JUMP_UNLESS_EQUAL_REGISTER, JUMP_IF_EQUAL].contains(&code)
}

/// The kernel's bits: make 1, read 2, write 4.
fn access_bits(access: &str) -> i32 {
    access.chars().fold(0, |bits, letter| {
        bits | match letter {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            _ => 0,
        }
    })
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> BpfInstruction {
    BpfInstruction {
        code,
        registers: from << 4 | to,
        offset,
        number,
    }
}

#[cfg(test)]
mod tests {
    use super::super::devices::default_rules;
    use super::*;

    /// Interprets the few operations that `compile` uses.
    fn run(program: &[BpfInstruction], context: [u32; 3]) -> i32 {
        let mut registers = [0i64; 6];
        let mut at = 0;
        loop {
            let step = program[at];
            let (to, from) = (
                usize::from(step.registers & 15),
                usize::from(step.registers >> 4),
            );
            at += 1;
            let jump = match step.code {
                LOAD_WORD => {
                    registers[to] = i64::from(context[usize::try_from(step.offset / 4).unwrap()]);
                    false
                }
                MOVE_NUMBER => {
                    registers[to] = i64::from(step.number);
                    false
                }
                MOVE_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                AND_NUMBER => {
                    registers[to] &= i64::from(step.number);
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= step.number;
                    false
                }
                JUMP_UNLESS_EQUAL => registers[to] != i64::from(step.number),
                JUMP_UNLESS_EQUAL_REGISTER => registers[to] != registers[from],
                JUMP_IF_EQUAL => registers[to] == i64::from(step.number),
                _ => return i32::try_from(registers[0]).unwrap(),
            };
            if jump {
                at += usize::try_from(step.offset).unwrap();
            }
        }
    }

    #[test]
    fn the_program_judges_as_the_rules_say() {
        let program = compile(&default_rules());
        let (block, char_device) = (1, 2);
        let (make, read_write) = (1 << 16, 6 << 16);
        assert_eq!(
            run(&program, [char_device | read_write, 1, 3]),
            1,
            "/dev/null is open to all"
        );
        assert_eq!(
            run(&program, [char_device | read_write, 1, 1]),
            0,
            "/dev/mem is not"
        );
        assert_eq!(
            run(&program, [block | read_write, 8, 0]),
            0,
            "nor is a disk"
        );
        assert_eq!(
            run(&program, [block | make, 8, 0]),
            1,
            "but its file may be made"
        );
        assert_eq!(
            run(&program, [char_device | read_write, 136, 77]),
            1,
            "any terminal is fine"
        );
        assert_eq!(run(&compile(&[]), [char_device | read_write, 1, 3]), 0);
    }
}
