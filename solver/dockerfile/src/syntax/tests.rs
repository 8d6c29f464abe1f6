//! How text becomes instructions: one row for each rule of the Dockerfile's grammar.

use super::*;
use crate::error::Error;
use crate::lint::{Checks, Linter, Rule};
use proptest::prelude::*;

fn read(text: &str) -> Result<Dockerfile, Error> {
    parse(text.as_bytes(), &Linter::silent())
}

/// The instructions of a one-stage Dockerfile.
fn instructions(body: &str) -> Vec<Instruction> {
    read(&format!("FROM x\n{body}"))
        .unwrap()
        .stages
        .remove(0)
        .instructions
}

fn only(body: &str) -> InstructionKind {
    let [one] = <[Instruction; 1]>::try_from(instructions(body)).unwrap();
    one.kind
}

fn run(body: &str) -> Run {
    match only(body) {
        InstructionKind::Run(run) => *run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn lines_join_and_comments_vanish() {
    let cases = [
        ("RUN a", "a"),
        ("RUN x\\\ny", "xy"),
        ("RUN x \\ \t\n  y", "x   y"),
        ("RUN a \\\n# c\n  # d \\\n b", "a  b"),
        ("RUN 'a\\\nb'", "'ab'"),
        ("run \\\r\na\r\n", "a"),
        ("  RUN a", "a"),
        ("RUN a\\\\", "a\\\\"),
        ("RUN a \\", "a"),
        ("RUN\ta", "a"),
    ];
    for (text, want) in cases {
        assert_eq!(run(text).command.args, [want], "{text:?}");
    }
}

#[test]
fn directives_count_only_at_the_top() {
    let escape = |text: &str| read(text).unwrap().escape;
    assert_eq!(escape("# escape=`\nFROM x"), '`');
    assert_eq!(escape("\u{feff}#ESCAPE = `\nFROM x"), '`');
    assert_eq!(escape("\n# escape=`\nFROM x"), '\\');
    assert_eq!(escape("# c\n# escape=`\nFROM x"), '\\');
    assert_eq!(escape("# k=v\n# escape=`\nFROM x"), '\\');
    assert_eq!(escape("FROM x\n# escape=`"), '\\');
    assert_eq!(escape("# syntax=a\n# escape=`\n# escape\nFROM x"), '`');
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn mistakes_have_texts_and_lines() {
    let cases: [(&str, &str, u32); 42] = [
        ("", "the Dockerfile cannot be empty", 0),
        ("# c\n", "file with no instructions", 1),
        (
            "# escape=x\nFROM a",
            "invalid escape token 'x' does not match ` or \\",
            1,
        ),
        (
            "# escape=`\n# escape=`\nFROM a",
            "only one escape parser directive can be used",
            2,
        ),
        ("RUN a", "no build stage in current context", 1),
        ("ARG a", "dockerfile contains no stages to build", 0),
        (
            "FROM",
            "dockerfile parse error on line 1: FROM requires either one or three arguments",
            1,
        ),
        (
            "FROM a b",
            "dockerfile parse error on line 1: FROM requires either one or three arguments",
            1,
        ),
        (
            "FROM a AS 1",
            "dockerfile parse error on line 1: invalid name for build stage: \"1\", name can't start with a number or contain symbols",
            1,
        ),
        (
            "FROM --plat=x a",
            "dockerfile parse error on line 1: unknown flag: --plat",
            1,
        ),
        (
            "FROM a\nCOPPY a b",
            "dockerfile parse error on line 2: unknown instruction: COPPY (did you mean COPY?)",
            2,
        ),
        (
            "FROM a\nrunn b",
            "dockerfile parse error on line 2: unknown instruction: runn (did you mean run?)",
            2,
        ),
        ("FROM a\nENV a", "ENV must have two arguments", 2),
        (
            "FROM a\nENV",
            "dockerfile parse error on line 2: ENV requires at least one argument",
            2,
        ),
        (
            "FROM a\nENV =b",
            "dockerfile parse error on line 2: ENV names can not be blank",
            2,
        ),
        (
            "FROM a\nENV a=b c",
            "Syntax error - can't find = in \"c\". Must be of the form: name=value",
            2,
        ),
        ("FROM a\nLABEL a", "LABEL must have two arguments", 2),
        (
            "FROM a\nADD a",
            "dockerfile parse error on line 2: ADD requires at least two arguments, but only one was provided. Destination could not be determined",
            2,
        ),
        (
            "FROM a\nCOPY --lnk a b",
            "dockerfile parse error on line 2: unknown flag: --lnk (did you mean link?)",
            2,
        ),
        (
            "FROM a\nCOPY --link=maybe a b",
            "dockerfile parse error on line 2: expecting boolean value for flag --link, not: maybe",
            2,
        ),
        (
            "FROM a\nCOPY --link= a b",
            "dockerfile parse error on line 2: missing a value on flag: --link",
            2,
        ),
        (
            "FROM a\nCOPY --from a b",
            "dockerfile parse error on line 2: missing a value on flag: --from",
            2,
        ),
        (
            "FROM a\nCOPY --chown=1 --chown=2 a b",
            "dockerfile parse error on line 2: duplicate flag specified: --chown",
            2,
        ),
        (
            "FROM a\nCOPY <<EOF <<E2\nEOF\nE2",
            "dockerfile parse error on line 2: COPY cannot accept a heredoc as a destination",
            2,
        ),
        ("FROM a\nCOPY <<EOF /x\nb", "unterminated heredoc", 2),
        (
            "FROM a\nRUN [\"a\",1]",
            "when using JSON array syntax, arrays must be comprised of strings only",
            2,
        ),
        (
            "FROM a\nSHELL a",
            "dockerfile parse error on line 2: SHELL requires the arguments to be in JSON form",
            2,
        ),
        (
            "FROM a\nSHELL []",
            "dockerfile parse error on line 2: SHELL requires at least one argument",
            2,
        ),
        (
            "FROM a\nONBUILD ONBUILD RUN a",
            "dockerfile parse error on line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            2,
        ),
        (
            "FROM a\nONBUILD from a",
            "dockerfile parse error on line 2: FROM isn't allowed as an ONBUILD trigger",
            2,
        ),
        (
            "FROM a\nHEALTHCHECK NONE x",
            "dockerfile parse error on line 2: HEALTHCHECK NONE takes no arguments",
            2,
        ),
        (
            "FROM a\nHEALTHCHECK CMD",
            "dockerfile parse error on line 2: Missing command after HEALTHCHECK CMD",
            2,
        ),
        (
            "FROM a\nHEALTHCHECK x",
            "dockerfile parse error on line 2: Unknown type \"X\" in HEALTHCHECK (try CMD)",
            2,
        ),
        (
            "FROM a\nHEALTHCHECK --interval=1ns CMD a",
            "dockerfile parse error on line 2: Interval \"interval\" cannot be less than 1ms",
            2,
        ),
        (
            "FROM a\nHEALTHCHECK --timeout=x CMD a",
            "dockerfile parse error on line 2: time: invalid duration \"x\"",
            2,
        ),
        (
            "FROM a\nHEALTHCHECK --retries=-1 CMD a",
            "dockerfile parse error on line 2: --retries cannot be negative (-1)",
            2,
        ),
        (
            "FROM a\nRUN --network=x a",
            "dockerfile parse error on line 2: invalid network mode \"x\"",
            2,
        ),
        (
            "FROM a\nRUN --security=x a",
            "dockerfile parse error on line 2: security \"x\" is not valid",
            2,
        ),
        (
            "FROM a\nRUN --mount=from=$x a",
            "dockerfile parse error on line 2: 'from' doesn't support variable expansion, define alias stage instead",
            2,
        ),
        (
            "FROM a\nWORKDIR",
            "dockerfile parse error on line 2: WORKDIR requires exactly one argument",
            2,
        ),
        (
            "FROM a\nVOLUME [\" \"]",
            "dockerfile parse error on line 2: VOLUME specified can not be an empty string",
            2,
        ),
        (
            "FROM a\nEXPOSE",
            "dockerfile parse error on line 2: EXPOSE requires at least one argument",
            2,
        ),
    ];
    for (text, want, line) in cases {
        let error = read(text).unwrap_err();
        assert_eq!(error.to_string(), want, "{text:?}");
        let got = error.locations.first().map_or(0, |lines| lines.first);
        assert_eq!(got, line, "{text:?}");
    }
}

#[test]
fn json_counts_only_as_an_array_of_strings() {
    let cases: [(&str, &[&str], bool); 7] = [
        ("RUN [\"a\", \"b c\"]", &["a", "b c"], false),
        ("RUN [ 'a' ]", &["[ 'a' ]"], true),
        ("RUN [\"a\"] b", &["[\"a\"] b"], true),
        ("RUN []", &[], false),
        ("RUN", &[], true),
        ("RUN \"a\"", &["\"a\""], true),
        ("RUN [\"a\\tb\"]", &["a\tb"], false),
    ];
    for (text, args, shell) in cases {
        let command = run(text).command;
        assert_eq!(command.args, args, "{text}");
        assert_eq!(command.shell, shell, "{text}");
    }
}

#[test]
fn copies_have_flags_sources_and_a_destination() {
    let text =
        "COPY --from=a --link=FALSE --parents --chown='1:2' --exclude=x --exclude=\"y z\" -e f /";
    let InstructionKind::Copy(copy) = only(text) else {
        panic!("a copy")
    };
    assert_eq!((copy.from.as_str(), copy.chown.as_str()), ("a", "1:2"));
    assert_eq!((copy.link, copy.parents), (false, true));
    assert_eq!(copy.exclude, ["x", "y z"]);
    assert_eq!(copy.files.paths, ["-e", "f"]);
    assert_eq!(copy.files.dest, "/");
    let InstructionKind::Copy(copy) = only("COPY -- --x y") else {
        panic!("a copy")
    };
    assert_eq!(copy.files.paths, ["--x"]);
    let InstructionKind::Copy(copy) = only("COPY [\"a b\", \"c\"]") else {
        panic!("a copy")
    };
    assert_eq!(
        (copy.files.paths, copy.files.dest),
        (vec!["a b".to_owned()], "c".to_owned())
    );
}

#[test]
fn heredocs_follow_their_line() {
    let command = run("RUN <<EOF\na\r\n b\nEOF\n").command;
    assert_eq!(command.args, ["<<EOF"]);
    assert_eq!(command.files[0].content, "a\r\n b\n");
    let command = run("RUN cat <<A <<-'B' # x\n1\nA\r\n\t2\n\tB\n").command;
    let names: Vec<_> = command
        .files
        .iter()
        .map(|f| (f.name.as_str(), f.expand, f.content.as_str()))
        .collect();
    assert_eq!(names, [("A", true, "1\n"), ("B", false, "\t2\n")]);
    let InstructionKind::Copy(copy) = only("COPY <<a x <<-b /d/\n$v\na\n\t\ty\n\tb") else {
        panic!("a copy")
    };
    assert_eq!(copy.files.paths, ["x"]);
    let bodies: Vec<_> = copy
        .files
        .contents
        .iter()
        .map(|f| f.content.as_str())
        .collect();
    assert_eq!(bodies, ["$v\n", "y\n"]);
    let all = instructions("ONBUILD COPY <<E /\nb\nE\nRUN [\"<<E\"]\nCMD <<E");
    assert_eq!(all.len(), 3);
    assert_eq!(
        all[0].kind,
        InstructionKind::OnBuild("COPY <<E /\nb\nE".into())
    );
    assert_eq!(all[0].lines, crate::Lines { first: 2, last: 4 });
}

#[test]
fn pairs_have_two_forms() {
    type Pairs = &'static [(&'static str, &'static str, bool)];
    let cases: [(&str, Pairs); 5] = [
        (
            "ENV a=b c=\"d e\" f=",
            &[("a", "b", false), ("c", "\"d e\"", false), ("f", "", false)],
        ),
        ("ENV a b  c ", &[("a", "b  c", true)]),
        ("ENV a   b", &[("a", "b", true)]),
        (r"ENV a=b\ c", &[("a", r"b\ c", false)]),
        ("ENV a b=c", &[("a", "b=c", true)]),
    ];
    for (text, want) in cases {
        let InstructionKind::Env(pairs) = only(text) else {
            panic!("an env")
        };
        let got: Vec<_> = pairs
            .iter()
            .map(|p| (p.key.as_str(), p.value.as_str(), p.legacy))
            .collect();
        assert_eq!(got, want, "{text}");
    }
}

#[test]
fn other_instructions_keep_their_arguments() {
    use InstructionKind as Kind;
    let text = |t: &str| t.to_owned();
    let health = HealthConfig {
        test: vec![text("CMD-SHELL"), text("a b")],
        interval: 1_500_000_000,
        retries: 3,
        ..HealthConfig::default()
    };
    let cases = [
        ("MAINTAINER a b", Kind::Maintainer(text("a b"))),
        ("USER \"a\"", Kind::User(text("\"a\""))),
        ("WORKDIR a b", Kind::Workdir(text("a b"))),
        ("STOPSIGNAL 9", Kind::StopSignal(text("9"))),
        (
            "EXPOSE 9 80/tcp",
            Kind::Expose(vec![text("80/tcp"), text("9")]),
        ),
        ("VOLUME a  b", Kind::Volume(vec![text("a"), text("b")])),
        ("VOLUME [\"a b\"]", Kind::Volume(vec![text("a b")])),
        ("SHELL [\"a\"]", Kind::Shell(vec![text("a")])),
        ("ONBUILD  RUN a", Kind::OnBuild(text("RUN a"))),
        (
            "HEALTHCHECK --interval=1.5s --retries=3 CMD a b",
            Kind::Healthcheck(health),
        ),
    ];
    for (body, want) in cases {
        assert_eq!(only(body), want, "{body}");
    }
    let InstructionKind::Healthcheck(health) = only("HEALTHCHECK cmd [\"a\"]") else {
        panic!()
    };
    assert_eq!(health.test, ["CMD", "a"]);
}

#[test]
fn args_have_defaults_and_descriptions() {
    let file = read("# a about a\nARG a b=\"c d\"\n\n# e about e\nFROM x AS E").unwrap();
    let args: Vec<_> = file
        .global_args
        .iter()
        .map(|a| {
            (
                a.def.key.as_str(),
                a.def.value.as_deref(),
                a.def.doc.as_str(),
            )
        })
        .collect();
    assert_eq!(args, [("a", None, "about a"), ("b", Some("\"c d\""), "")]);
    assert_eq!(
        (file.stages[0].name.as_str(), file.stages[0].doc.as_str()),
        ("e", "about e")
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn mounts_have_types_and_defaults() {
    let mount = |text: &str| {
        let run = run(&format!("RUN --mount={text} x"));
        run.mounts[0].expand(&mut |value| Ok(value.to_owned()))
    };
    let got = mount("type=cache,target=/c,sharing=locked,id=i,uid=5,mode=0700").unwrap();
    assert_eq!(
        (got.kind, got.sharing),
        (MountType::Cache, Some(Sharing::Locked))
    );
    assert_eq!(
        (got.uid, got.mode, got.readonly),
        (Some(5), Some(0o700), false)
    );
    assert!(mount("target=/c").unwrap().readonly);
    assert!(!mount("target=/c,rw").unwrap().readonly);
    assert_eq!(mount("type=tmpfs,target=/t,size=1m").unwrap().size, 1 << 20);
    assert_eq!(
        mount("type=secret,id=s,env=E,required")
            .unwrap()
            .env
            .as_deref(),
        Some("E")
    );
    let cases = [
        (
            "type=bnd",
            "unsupported mount type \"bnd\" (did you mean bind?)",
        ),
        ("x", "invalid field 'x' must be a key=value pair"),
        (
            "tpe=x",
            "unexpected key 'tpe' in 'tpe=x' (did you mean type?)",
        ),
        (
            "required",
            "unexpected key 'required' for mount type 'bind'",
        ),
        ("size=1", "unexpected key 'size' for mount type 'bind'"),
        ("type=tmpfs,size=x", "invalid value for size: x"),
        ("uid=1", "uid not allowed for \"bind\" type mounts"),
        ("mode=9", "invalid value 9 for mode"),
        ("ro=x", "invalid value for ro: x"),
        ("sharing=locked", "invalid cache sharing set for bind mount"),
        (
            "type=cache,sharing=lock",
            "unsupported sharing value \"lock\" (did you mean locked?)",
        ),
        (
            "type=secret",
            "invalid secret mount. one of source, target required",
        ),
        (
            "type=secret,id=a,from=b",
            "secret mount should not have a from",
        ),
        ("type=secret,id=a,src=b", "both source and id can't be set"),
        (
            "type=secret,id=a,sharing=locked",
            "secret mount should not define sharing",
        ),
    ];
    for (text, want) in cases {
        assert_eq!(mount(text).unwrap_err().to_string(), want, "{text}");
    }
}

#[test]
fn devices_have_names() {
    let device = |text: &str| run(&format!("RUN --device={text} x")).devices.remove(0);
    let want = |name: &str, required| Device {
        name: name.into(),
        required,
    };
    assert_eq!(device("v.io/d=foo"), want("v.io/d=foo", false));
    assert_eq!(device("v.io/d=foo,required"), want("v.io/d=foo", true));
    assert_eq!(
        device("name=v.io/d=foo,required=false"),
        want("v.io/d=foo", false)
    );
}

#[test]
fn questionable_texts_are_reported() {
    let cases = [
        ("FROM a AS Big", Rule::StageNameCasing, 1),
        ("FROM a as big", Rule::FromAsCasing, 1),
        ("FROM a\nRUN x \\\n\n y", Rule::NoEmptyContinuation, 4),
        ("FROM a\nMAINTAINER x", Rule::MaintainerDeprecated, 2),
        (
            "# check=experimental=all\n\n# x\nARG a\nFROM b",
            Rule::InvalidDefinitionDescription,
            4,
        ),
    ];
    for (text, rule, line) in cases {
        let (lint, findings) = Linter::new(Checks::of_file(text.as_bytes()).unwrap());
        parse(text.as_bytes(), &lint).unwrap();
        let got: Vec<_> = findings
            .take()
            .iter()
            .map(|w| (w.rule, w.lines.first))
            .collect();
        assert_eq!(got, [(rule, line)], "{text:?}");
    }
}

#[test]
fn reading_takes_linear_time() {
    let line = "RUN echo \\\n  $HOME 'a b' <<X\nbody\nX\nENV a=\"b c\" d=e\n";
    let text = format!("FROM x\n{}", line.repeat((2 << 20) / line.len()));
    assert!(read(&text).unwrap().stages[0].instructions.len() > 40_000);
    let text = format!("FROM x\nRUN {}", "a \\\n".repeat(1 << 20));
    assert_eq!(read(&text).unwrap().stages[0].instructions.len(), 1);
}

proptest! {
    #[test]
    fn no_text_panics(text in "(FROM a\n)?((RUN|COPY|ENV|ONBUILD|ARG|HEALTHCHECK|LABEL|ADD|#|) ?[-<>=\\[\\]\"'$\\\\a-e \t{}#!]{0,20}\n){0,8}") {
        drop(read(&text));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(parse(&bytes, &Linter::silent()));
    }
}
