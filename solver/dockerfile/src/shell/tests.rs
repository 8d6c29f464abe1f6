//! The forms of the Dockerfile reference, one row each.

use super::*;
use proptest::prelude::*;

fn env() -> Vars {
    [
        ("v", "/a/b.tar.gz"),
        ("x", "X"),
        ("empty", ""),
        ("two", "80 443"),
        ("nl", "a\nb"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into_iter()
    .collect()
}

#[test]
fn every_expansion_form_has_its_value() {
    let cases = [
        ("$x", "X"),
        ("a${x}b", "aXb"),
        ("$", "$"),
        ("a$", "a$"),
        ("$$", ""),
        ("$1", ""),
        ("$nosuch-", "-"),
        ("${nosuch:-d}", "d"),
        ("${empty:-d}", "d"),
        ("${empty-d}", ""),
        ("${nosuch-d}", "d"),
        ("${x:+y}", "y"),
        ("${empty:+y}", ""),
        ("${empty+y}", "y"),
        ("${nosuch+y}", ""),
        ("${x:?m}", "X"),
        ("${empty?m}", ""),
        ("${nosuch:-${x}}", "X"),
        ("${nosuch:-a ${x} b}", "a X b"),
        ("${v#*/}", "a/b.tar.gz"),
        ("${v##*/}", "b.tar.gz"),
        ("${v%.*}", "/a/b.tar"),
        ("${v%%.*}", "/a/b"),
        ("${v/b*/Z}", "/a/Z"),
        (r"${v/\//_}", "_a/b.tar.gz"),
        (r"${v//\//_}", "_a_b.tar.gz"),
        ("${v//[/x}", "/a/b.tar.gz"),
        ("${x/X/$0$0}", ""),
        ("'$x'", "$x"),
        ("'a'b\"c\"", "abc"),
        (r#""a\b""#, r"a\b"),
        (r#""\"\$\\""#, r#""$\"#),
        (r"\x", "x"),
        (r"\$v", "$v"),
        (r"a\", "a"),
        ("$nl", "a\nb"),
        ("${nl#*b}", "a\nb"),
    ];
    for (word, want) in cases {
        let got = Shell::new('\\').expand(word, &env()).map(|e| e.text);
        assert_eq!(got.as_deref(), Ok(want), "{word}");
    }
}

#[test]
fn mistakes_are_named() {
    let cases = [
        ("${", "syntax error: missing '}'"),
        ("${x", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${:x}", "syntax error: bad substitution"),
        ("${x:#y}", "unsupported modifier (:#) in substitution"),
        ("${x:%y}", "unsupported modifier (:%) in substitution"),
        ("${x^y}", "unsupported modifier (^) in substitution"),
        ("${x:-y", "syntax error: missing '}'"),
        ("${x/y", "syntax error: missing '/' in ${}"),
        ("${x/y/z", "syntax error: missing '}'"),
        ("${nosuch?}", "nosuch: is not allowed to be unset"),
        ("${nosuch:?why}", "nosuch: why"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        (
            r"${x#\a}",
            r"invalid pattern (\a) in substitution: invalid escape '\a'",
        ),
        (
            "'a",
            "unexpected end of statement while looking for matching single-quote",
        ),
        (
            "\"a",
            "unexpected end of statement while looking for matching double-quote",
        ),
    ];
    for (word, want) in cases {
        let error = Shell::new('\\').expand(word, &env()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("failed to process {word:?}: {want}"),
            "{word}"
        );
    }
}

#[test]
fn words_split_at_unquoted_blanks_after_expansion() {
    let cases: [(&str, &[&str]); 7] = [
        ("a b", &["a", "b"]),
        ("$two", &["80", "443"]),
        ("'a b' c", &["a b", "c"]),
        (r"a\ b", &["a b"]),
        ("8${x:-0}", &["8X"]),
        ("<< EOF b", &["<< EOF", "b"]),
        ("'' a", &["a"]),
    ];
    for (word, want) in cases {
        assert_eq!(
            Shell::new('\\').words(word, &env()).unwrap(),
            want,
            "{word}"
        );
    }
}

#[test]
fn references_to_unset_variables_can_stay() {
    let shell = Shell::new('\\').quotes(Quotes::Keep).unset(Unset::Keep);
    let cases = [
        ("$nosuch", "$nosuch"),
        ("${nosuch}", "${nosuch}"),
        ("${nosuch:-d}", "${nosuch:-d}"),
        ("\"$x\" 'y'", "\"X\" 'y'"),
    ];
    for (word, want) in cases {
        assert_eq!(shell.expand(word, &env()).unwrap().text, want);
    }
}

#[test]
fn looked_up_names_are_reported() {
    let got = Shell::new('\\')
        .expand("$x ${nosuch:-$v} $y", &env())
        .unwrap();
    assert_eq!(got.matched.into_iter().collect::<Vec<_>>(), ["v", "x"]);
    assert_eq!(
        got.unmatched.into_iter().collect::<Vec<_>>(),
        ["nosuch", "y"]
    );
}

proptest! {
    #[test]
    fn no_input_panics(word in r#"[${}:'"\\#%/?+*a-c \-<\n]{0,60}"#) {
        let shell = Shell::new('\\');
        drop(shell.expand(&word, &env()));
        drop(shell.quotes(Quotes::Keep).keep_escapes().unset(Unset::Keep).expand(&word, &NoEnv));
    }
}
