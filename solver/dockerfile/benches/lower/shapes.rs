//! Dockerfiles of 10,000 instructions, and of many bytes: whatever might cost more than its length. Nothing is measured here.

/// A Dockerfile with the name of its shape.
type Shape = (&'static str, String);

const COUNT: usize = 10_000;
const HALF: usize = COUNT / 2;

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

fn repeated(line: impl Fn(usize) -> String) -> String {
    format!("FROM alpine\n{}", lines(COUNT, line))
}

fn halves(first: impl Fn(usize) -> String, second: impl Fn(usize) -> String) -> String {
    format!("FROM alpine\n{}{}", lines(HALF, first), lines(HALF, second))
}

fn mixed(number: usize) -> String {
    match number % 3 {
        0 => format!("ENV K{}=v{number}\n", number % 50),
        1 => format!("RUN echo {number} $A\n"),
        _ => format!("COPY a{number} /x/\n"),
    }
}

/// Stages of which each continues the one before, each with one more line.
fn chain(stages: usize, line: impl Fn(usize) -> String) -> String {
    lines(stages, |n| match n.checked_sub(1) {
        None => format!("FROM alpine AS s0\n{}", line(0)),
        Some(base) => format!("FROM s{base} AS s{n}\n{}", line(n)),
    })
}

/// Files of 10,000 instructions.
pub(crate) fn small() -> Vec<Shape> {
    let mut all = one_stage();
    all.extend(many_stages());
    all
}

fn one_stage() -> Vec<Shape> {
    let env = |n| format!("ENV K{n}=v\n");
    let unset = |n| format!("LABEL k{n}=$K{n}\n");
    let workdir = |n| format!("WORKDIR d{}\n", n % 10).replace("d0", "/");
    vec![
        ("mixed", repeated(mixed)),
        ("RUN", repeated(|_| "RUN echo hi\n".to_owned())),
        ("RUN, each its own", repeated(|n| format!("RUN echo {n}\n"))),
        (
            "RUN with a heredoc",
            repeated(|n| format!("RUN <<E\necho {n}\nE\n")),
        ),
        ("COPY", repeated(|n| format!("COPY a{n} /x/\n"))),
        (
            "COPY --link",
            repeated(|n| format!("COPY --link a{n} /x/\n")),
        ),
        ("ENV", repeated(env)),
        ("ENV set again", halves(env, env)),
        ("ARG", repeated(|n| format!("ARG K{n}=v\n"))),
        (
            "ARG, then unset variables",
            halves(|n| format!("ARG K{n}\n"), unset),
        ),
        (
            "ENV, then unknown variables",
            halves(env, |n| format!("LABEL k{n}=$N{n}\n")),
        ),
        ("LABEL", repeated(|n| format!("LABEL k{n}=v\n"))),
        ("WORKDIR", repeated(workdir)),
        ("EXPOSE", repeated(|n| format!("EXPOSE {n}\n"))),
        ("ONBUILD", repeated(|n| format!("ONBUILD RUN echo {n}\n"))),
    ]
}

fn many_stages() -> Vec<Shape> {
    let from = |n: usize| match n.checked_sub(1) {
        None => "RUN a\n".to_owned(),
        Some(from) => format!("COPY --from=s{from} /a{n} /\n"),
    };
    let global = lines(HALF, |n| format!("ARG G{n}=v\n"));
    let apart = lines(HALF, |n| format!("FROM scratch AS s{n}\n"));
    vec![
        ("stages", chain(COUNT, |_| String::new())),
        (
            "stages with RUN",
            chain(HALF, |n| format!("RUN echo {n}\n")),
        ),
        ("stages with ENV", chain(HALF, |n| format!("ENV K{n}=v\n"))),
        ("stages with ARG", chain(HALF, |n| format!("ARG K{n}=v\n"))),
        (
            "stages with LABEL",
            chain(HALF, |n| format!("LABEL k{n}=v\n")),
        ),
        ("stages with COPY --from", chain(HALF, from)),
        ("global ARG, then stages", format!("{global}{apart}")),
    ]
}

/// Files of about so many bytes.
pub(crate) fn large(bytes: usize) -> Vec<Shape> {
    let filled = |line: &str| line.repeat(bytes / line.len());
    let stage = |lines: String| format!("FROM a\n{lines}\n");
    let kinds = "RUN echo \\\n  'a b' $X <<E\nbody\nE\nENV a=\"b c\" d=e\n";
    let heredocs = bytes / "<<A A\n".len();
    vec![
        ("instructions", stage(filled("RUN a b\n"))),
        ("all kinds", stage(filled(kinds))),
        ("one line", stage(format!("RUN {}", filled("a b $C ")))),
        ("one line of ENV", stage(format!("ENV {}", filled("a=b ")))),
        (
            "one line of JSON",
            stage(format!("RUN [\"a\"{}]", filled(", \"b\""))),
        ),
        (
            "one line of flags",
            stage(format!("RUN {} a", filled("--mount=target=/a "))),
        ),
        (
            "continued",
            stage(format!("RUN a \\\n{}", filled("  b c \\\n"))),
        ),
        (
            "continued by comments",
            stage(format!("RUN a \\\n{} b", filled("# c\n"))),
        ),
        (
            "continued by blank lines",
            stage(format!("RUN a \\\n{} b", filled("\n"))),
        ),
        ("comments", format!("{}FROM a\n", filled("# a comment\n"))),
        ("blank lines", format!("{}FROM a\n", filled("\n"))),
        ("heredocs", stage(filled("COPY <<A <<B /\na\nA\nb\nB\n"))),
        (
            "one heredoc",
            stage(format!("RUN <<E\n{}E", filled("some $text\n"))),
        ),
        (
            "one line of heredocs",
            stage(format!(
                "RUN {}\n{}",
                "<<A ".repeat(heredocs),
                "A\n".repeat(heredocs)
            )),
        ),
        ("quotes", stage(format!("ENV a={}", filled("'\"'\"'\"")))),
        ("escapes", stage(format!("ENV a={}", filled("\\\\")))),
    ]
}
