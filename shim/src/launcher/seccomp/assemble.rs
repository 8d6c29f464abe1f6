//! Assembles a system call filter: what is decided about each call becomes a short program of the kernel's classic BPF.
//! Neighbouring calls with the same verdict share a branch, since each step has its filter checked, compiled and tried
//! by the kernel anew. It knows neither names nor profiles.

use std::collections::BTreeMap;

use libc::sock_filter;

/// What the kernel does with a call: a `SECCOMP_RET_*` value with its data.
pub(super) type Verdict = u32;

/// Where the parts of `struct seccomp_data` are.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// How an argument is compared, as unsigned 64-bit numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    AtMost,
    AtLeast,
    Greater,
    /// Equal under this mask.
    Masked(u64),
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u32,
    pub(super) comparison: Comparison,
    pub(super) value: u64,
}

/// A verdict for where all conditions hold.
pub(super) type Rule = (Vec<Condition>, Verdict);

/// What is decided about one call: the first rule whose conditions hold counts, without one the default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rules(pub(super) Vec<Rule>);

/// The calls of one architecture.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Architecture {
    /// By number; all others have the default verdict.
    pub(super) calls: BTreeMap<u32, Rules>,
    /// Numbers from here on are another architecture's.
    pub(super) foreign_from: Option<u32>,
}

/// Assembles the program of these architectures, by `AUDIT_ARCH_*`; `foreign` is the verdict on calls of all others.
pub(super) fn assemble(
    architectures: &BTreeMap<u32, Architecture>,
    default: Verdict,
    foreign: Verdict,
) -> Vec<sock_filter> {
    let mut program = Program::default();
    let mut next = program.verdict(foreign);
    for (token, architecture) in architectures.iter().rev() {
        let own = program.calls(architecture, default, foreign);
        next = program.branch(IF_EQUAL, *token, own, next);
    }
    program.load(ARCHITECTURE, next);
    program.finish()
}

/// A place in the program, counted from its end: jumps only lead forward, so what is jumped to is there first.
type Place = usize;

/// The program, its last instruction first.
#[derive(Debug, Default)]
struct Program {
    reversed: Vec<sock_filter>,
    /// The last jump to a place that is out of a branch's reach.
    jumps: BTreeMap<Place, Place>,
}

impl Program {
    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> Place {
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// How many instructions the next one has to skip to get there.
    fn distance(&self, to: Place) -> usize {
        self.reversed.len() - 1 - to
    }

    /// Returns a verdict.
    fn verdict(&mut self, verdict: Verdict) -> Place {
        self.push(RETURN, verdict, 0, 0)
    }

    /// Goes on at `next`, which must come right after: a jump is added where it does not.
    fn before(&mut self, next: Place) {
        let distance = self.distance(next);
        if distance > 0 {
            let k = u32::try_from(distance).expect("a filter is short");
            self.push(JUMP, k, 0, 0);
        }
    }

    /// Loads a word and goes on.
    fn load(&mut self, offset: u32, next: Place) -> Place {
        self.before(next);
        self.push(LOAD, offset, 0, 0)
    }

    /// Goes on at `then` if the loaded word compares so with `k`, else at `otherwise`.
    fn branch(&mut self, code: u16, k: u32, then: Place, otherwise: Place) -> Place {
        let then = self.near(then, 1);
        let otherwise = self.near(otherwise, 0);
        let short = |distance: usize| u8::try_from(distance).expect("made near before");
        // A jump that was added for `otherwise` lies between.
        let (jt, jf) = (self.distance(then), self.distance(otherwise));
        self.push(code, k, short(jt), short(jf))
    }

    /// A place that the branch after `more` further instructions can reach: the place itself, or a jump to it.
    fn near(&mut self, to: Place, more: usize) -> Place {
        let reached = |program: &Self, place| program.distance(place) + more <= u8::MAX.into();
        if reached(self, to) {
            return to;
        }
        if let Some(jump) = self.jumps.get(&to)
            && reached(self, *jump)
        {
            return *jump;
        }
        let k = u32::try_from(self.distance(to)).expect("a filter is short");
        let jump = self.push(JUMP, k, 0, 0);
        self.jumps.insert(to, jump);
        jump
    }

    /// Decides about the calls of one architecture.
    fn calls(&mut self, architecture: &Architecture, default: Verdict, foreign: Verdict) -> Place {
        let foreign = [(Vec::new(), foreign)];
        let mut ranges = vec![(0, &[][..])];
        for (number, rules) in &architecture.calls {
            from(&mut ranges, *number, &rules.0);
            if let Some(after) = number.checked_add(1) {
                from(&mut ranges, after, &[]);
            }
        }
        if let Some(first) = architecture.foreign_from {
            from(&mut ranges, first, &foreign);
            // That is no call: a tracer has cancelled one.
            from(&mut ranges, u32::MAX, &[]);
        }
        let mut leaves = Vec::new();
        let mut known: Vec<(&[Rule], Place)> = Vec::new();
        for (first, rules) in ranges {
            let place = known.iter().find(|(same, _)| *same == rules);
            let place = place.map(|(_, place)| *place);
            let place = place.unwrap_or_else(|| {
                let place = self.rules(rules, default);
                known.push((rules, place));
                place
            });
            leaves.push((first, place));
        }
        let tree = self.tree(&leaves);
        self.load(NUMBER, tree)
    }

    /// Finds the range that the loaded number is in, by halving.
    fn tree(&mut self, leaves: &[(u32, Place)]) -> Place {
        let [(_, only)] = leaves else {
            let (lower, upper) = leaves.split_at(leaves.len() / 2);
            let (first, below, above) = (upper[0].0, self.tree(lower), self.tree(upper));
            return self.branch(IF_AT_LEAST, first, above, below);
        };
        *only
    }

    fn rules(&mut self, rules: &[Rule], default: Verdict) -> Place {
        let mut otherwise = self.verdict(default);
        for (conditions, verdict) in rules.iter().rev() {
            let mut holds = self.verdict(*verdict);
            for condition in conditions.iter().rev() {
                holds = self.condition(condition, holds, otherwise);
            }
            otherwise = holds;
        }
        otherwise
    }

    fn condition(&mut self, condition: &Condition, then: Place, otherwise: Place) -> Place {
        let value = condition.value;
        let (upper, lower) = (high(value), low(value));
        match condition.comparison {
            Comparison::Equal => self.equal(condition.argument, u64::MAX, value, then, otherwise),
            Comparison::NotEqual => {
                self.equal(condition.argument, u64::MAX, value, otherwise, then)
            }
            Comparison::Masked(mask) => {
                self.equal(condition.argument, mask, value, then, otherwise)
            }
            Comparison::Greater => self.order(
                IF_GREATER,
                condition.argument,
                (upper, lower),
                then,
                otherwise,
            ),
            Comparison::AtMost => self.order(
                IF_GREATER,
                condition.argument,
                (upper, lower),
                otherwise,
                then,
            ),
            Comparison::AtLeast => self.order(
                IF_AT_LEAST,
                condition.argument,
                (upper, lower),
                then,
                otherwise,
            ),
            Comparison::Less => self.order(
                IF_AT_LEAST,
                condition.argument,
                (upper, lower),
                otherwise,
                then,
            ),
        }
    }

    fn equal(
        &mut self,
        argument: u32,
        mask: u64,
        value: u64,
        then: Place,
        otherwise: Place,
    ) -> Place {
        let lower = self.equal_word(low_half(argument), low(mask), low(value), then, otherwise);
        self.equal_word(
            high_half(argument),
            high(mask),
            high(value),
            lower,
            otherwise,
        )
    }

    fn equal_word(
        &mut self,
        offset: u32,
        mask: u32,
        value: u32,
        then: Place,
        otherwise: Place,
    ) -> Place {
        let mut place = self.branch(IF_EQUAL, value, then, otherwise);
        if mask != u32::MAX {
            place = self.push(AND, mask, 0, 0);
        }
        self.load(offset, place)
    }

    /// Compares the upper halves, and where they are the same the lower ones by `code`.
    fn order(
        &mut self,
        code: u16,
        argument: u32,
        (upper, lower): (u32, u32),
        then: Place,
        otherwise: Place,
    ) -> Place {
        let place = self.branch(code, lower, then, otherwise);
        let lower_halves = self.load(low_half(argument), place);
        let same = self.branch(IF_EQUAL, upper, lower_halves, otherwise);
        let place = self.branch(IF_GREATER, upper, then, same);
        self.load(high_half(argument), place)
    }

    fn finish(mut self) -> Vec<sock_filter> {
        self.reversed.reverse();
        self.reversed
    }
}

/// Says what is decided from a number on. Neighbours with the same rules are one range.
fn from<'a>(ranges: &mut Vec<(u32, &'a [Rule])>, number: u32, rules: &'a [Rule]) {
    match ranges.last_mut() {
        Some(last) if last.0 == number => last.1 = rules,
        _ => ranges.push((number, rules)),
    }
    if let [.., before, last] = &ranges[..]
        && before.1 == last.1
    {
        ranges.pop();
    }
}

const fn low_half(argument: u32) -> u32 {
    ARGUMENTS + 8 * argument + if cfg!(target_endian = "big") { 4 } else { 0 }
}

const fn high_half(argument: u32) -> u32 {
    ARGUMENTS + 8 * argument + if cfg!(target_endian = "big") { 0 } else { 4 }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).expect("32 bits are left of it")
}

fn high(value: u64) -> u32 {
    low(value >> 32)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the kernel's interpreter makes of a program, for a call with these arguments.
    pub(in super::super) fn verdict_of(
        program: &[sock_filter],
        architecture: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> Verdict {
        let mut data = Vec::new();
        data.extend(number.to_ne_bytes());
        data.extend(architecture.to_ne_bytes());
        data.extend(0u64.to_ne_bytes());
        data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
        let (mut at, mut word) = (0, 0u32);
        loop {
            let instruction = program[at];
            at += 1;
            let k = instruction.k;
            let holds = match instruction.code {
                LOAD => {
                    let from = usize::try_from(k).unwrap();
                    word = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
                    continue;
                }
                AND => {
                    word &= k;
                    continue;
                }
                JUMP => {
                    at += usize::try_from(k).unwrap();
                    continue;
                }
                RETURN => return k,
                IF_EQUAL => word == k,
                IF_GREATER => word > k,
                IF_AT_LEAST => word >= k,
                other => panic!("no such instruction: {other:#x}"),
            };
            let skipped = if holds {
                instruction.jt
            } else {
                instruction.jf
            };
            at += usize::from(skipped);
        }
    }

    fn holds(condition: &Condition, arguments: [u64; 6]) -> bool {
        let argument = arguments[usize::try_from(condition.argument).unwrap()];
        let value = condition.value;
        match condition.comparison {
            Comparison::Equal => argument == value,
            Comparison::NotEqual => argument != value,
            Comparison::Less => argument < value,
            Comparison::AtMost => argument <= value,
            Comparison::AtLeast => argument >= value,
            Comparison::Greater => argument > value,
            Comparison::Masked(mask) => argument & mask == value,
        }
    }

    #[test]
    fn a_program_decides_as_its_rules_say() {
        let values = [0, 1, 5, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005, u64::MAX];
        let comparisons = [
            Comparison::Equal,
            Comparison::NotEqual,
            Comparison::Less,
            Comparison::AtMost,
            Comparison::AtLeast,
            Comparison::Greater,
            Comparison::Masked(0xf_0000_000f),
        ];
        let mut architecture = Architecture::default();
        let mut number = 3;
        for comparison in comparisons {
            for value in values {
                let one = |argument| Condition {
                    argument,
                    comparison,
                    value,
                };
                let rules = vec![(vec![one(0), one(5)], 1), (vec![one(2)], 2)];
                architecture.calls.insert(number, Rules(rules));
                // Gaps, neighbours, and far apart.
                number += 1 + number % 3 * 7;
            }
        }
        for number in 2000..3000 {
            let verdict = 10 + number / 2 % 2;
            let rules = Rules(vec![(Vec::new(), verdict)]);
            architecture.calls.insert(number, rules);
        }
        architecture.foreign_from = Some(1 << 30);
        let architectures =
            BTreeMap::from([(7, architecture.clone()), (9, Architecture::default())]);
        let program = assemble(&architectures, 100, 200);
        let expected = |token, number, arguments| match token {
            9 => 100,
            7 if number == u32::MAX => 100,
            7 if number < 1 << 30 => {
                let rules = architecture.calls.get(&number);
                let mut rules = rules.iter().flat_map(|rules| &rules.0);
                let first = rules.find(|(conditions, _)| {
                    conditions
                        .iter()
                        .all(|condition| holds(condition, arguments))
                });
                first.map_or(100, |(_, verdict)| *verdict)
            }
            _ => 200,
        };
        let numbers = (0..3010).chain([(1 << 30) - 1, 1 << 30, u32::MAX - 1, u32::MAX]);
        for number in numbers {
            for (token, first) in [7, 8, 9].into_iter().flat_map(|t| values.map(|v| (t, v))) {
                for second in values {
                    let arguments = [first, 0, second, 0, 0, first];
                    let decided = verdict_of(&program, token, number, arguments);
                    let wanted = expected(token, number, arguments);
                    assert_eq!(decided, wanted, "{token} {number} {arguments:?}");
                }
            }
        }
    }

    #[test]
    fn calls_in_a_row_cost_one_branch() {
        let allowed = Rules(vec![(Vec::new(), 1)]);
        let calls = (0..400).filter(|number| number % 100 != 0);
        let calls = calls.map(|number| (number, allowed.clone())).collect();
        let architecture = Architecture {
            calls,
            foreign_from: None,
        };
        let program = assemble(&BTreeMap::from([(7, architecture)]), 100, 200);
        assert!(program.len() < 20, "{}", program.len());
    }
}
