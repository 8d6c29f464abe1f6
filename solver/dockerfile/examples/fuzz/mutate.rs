//! Damages texts: what comes out need not look like anything. Decides nothing.

use crate::random::Random;

/// What parsers look for.
const TOKENS: [&str; 40] = [
    "FROM ",
    "RUN ",
    "COPY ",
    "ONBUILD ",
    "ARG ",
    "HEALTHCHECK --interval=",
    "<<EOF",
    "<<-\"X\"",
    "EOF\n",
    "\\\n",
    "`\n",
    "# escape=`\n",
    "# syntax=x\n",
    "# check=skip=all\n",
    "--mount=type=cache,target=",
    "--from=",
    "--chmod=u+x",
    "${",
    "}",
    "${A:-",
    "${A//",
    "${A#",
    "$",
    "\"",
    "'",
    "[\"",
    "\"]",
    "[",
    "]",
    "\r\n",
    "\t",
    "\u{feff}",
    "\0",
    "../",
    "**",
    "!",
    "=",
    ",",
    "999999999999999999999",
    "-1",
];

/// Changes `text` in a few places; `others` lend parts of theirs.
pub(crate) fn mutate(random: &mut Random, text: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..random.between(1, 6) {
        once(random, text, others);
    }
    text.truncate(1 << 17);
}

fn once(random: &mut Random, text: &mut Vec<u8>, others: &[Vec<u8>]) {
    let at = random.below(text.len() + 1);
    let end = at + random.below((text.len() - at + 1).min(64));
    match random.below(8) {
        0 if at < text.len() => {
            text[at] = u8::try_from(random.below(256)).expect("it is below 256");
        }
        1 => drop(text.drain(at..end)),
        2 => drop(text.splice(at..at, random.pick(&TOKENS).bytes())),
        3 => {
            let part = text[at..end].to_vec();
            let times = [1, 2, 10, 200][random.below(4)];
            drop(text.splice(at..at, part.repeat(times)));
        }
        4 => {
            let part = text[at..end].to_vec();
            let to = random.below(text.len() + 1);
            drop(text.splice(to..to, part));
        }
        5 | 6 if !others.is_empty() => {
            let other = &others[random.below(others.len())];
            let from = random.below(other.len());
            let to = from + random.below(other.len() - from + 1);
            drop(text.splice(at..end, other[from..to].iter().copied()));
        }
        _ => {
            let token = random.pick(&TOKENS);
            let times = [1, 1, 3, 1000][random.below(4)];
            drop(text.splice(at..end, token.repeat(times).into_bytes()));
        }
    }
}
