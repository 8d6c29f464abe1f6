//! Writes Dockerfiles that look like Dockerfiles, with options beside them. `wild` ones are full of mistakes. Decides nothing
//! about what they mean.

use crate::golden::Case;
use crate::random::Random;
use crate::words::{
    ARGS, BAD_PORTS, BARE, ESCAPED, EXPANSIONS, JSON, KEYWORDS, NAMES, PLAIN, PORTS, REMOTE, RESTS,
};
use std::fmt::Write as _;

/// A writer of one case.
pub(crate) struct Writer<'a> {
    random: &'a mut Random,
    wild: bool,
}

impl<'a> Writer<'a> {
    /// `wild` ones make mistakes of every kind, others mostly valid Dockerfiles.
    pub(crate) fn new(random: &'a mut Random, wild: bool) -> Self {
        Self { random, wild }
    }

    fn one_of(&mut self, all: &[&str]) -> String {
        self.random.pick(all).to_owned()
    }

    fn word(&mut self) -> String {
        let word = match self.random.below(100) {
            0..40 => self.one_of(&PLAIN),
            40..45 if self.wild => self.one_of(&BARE),
            40..70 => {
                let name = self.one_of(&NAMES);
                self.one_of(&EXPANSIONS).replace('V', &name)
            }
            70..80 => self.one_of(&["\"a b\"", "\"q\\\"r\"", "\"\\\\\"", "\"a\\b\"", "\"$A\""]),
            80..85 => self.one_of(&["'a b'", "'$A'", "''"]),
            85..90 => self.one_of(&ESCAPED),
            _ => self.word() + &self.word(),
        };
        if self.wild {
            word
        } else {
            word.replace("x y", "x")
        }
    }

    fn words(&mut self, low: usize, high: usize) -> String {
        let count = self.random.between(low, high);
        (0..count)
            .map(|_| self.word())
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn json(&mut self) -> String {
        self.one_of(&JSON)
    }

    fn flag(&mut self, names: &[&str]) -> String {
        let name = self.one_of(names);
        let values = [
            "", "=", "=true", "=false", "=a", "=0644", "=u+x", "=1:2", "=$A", "=root", "=\"q r\"",
        ];
        format!("--{name}{}", self.one_of(&values))
    }

    fn heredoc(&mut self, before: &str, tails: &[&str]) -> String {
        let end = self.one_of(&["EOF", "E1"]);
        let opening = self
            .one_of(&["@", "\"@\"", "'@'", "-@", " @", "-\"@\""])
            .replace('@', &end);
        let mut text = format!("{before} <<{opening}{}\n", self.one_of(tails));
        for _ in 0..self.random.between(0, 3) {
            text += &self.one_of(&[
                "line $A\n",
                "\ttabbed\n",
                "#!/bin/sh\n",
                "\n",
                "$NOPE \"q\"\n",
                "${B:-x}\\\n",
                "\\$A \\\\ 's'\n",
            ]);
        }
        if opening.starts_with('-') && self.random.chance(50) {
            text.push('\t');
        }
        text + &end
    }

    fn mount(&mut self) -> String {
        let kinds = ["bind", "cache", "tmpfs", "secret", "ssh", "bnd"];
        let kind = self.one_of(&kinds[..if self.wild { 6 } else { 5 }]);
        let mut text = format!("--mount=type={kind}");
        let target = self.random.below(10);
        let own: &[&str] = match kind.as_str() {
            "bind" => &[
                "from=s0",
                "from=alpine",
                "source=/s",
                "src=$B",
                "rw",
                "ro=false",
                "readonly",
            ],
            "cache" => &[
                "id=c$A",
                "sharing=locked",
                "sharing=private",
                "from=s0",
                "uid=1",
                "gid=2",
                "mode=0770",
                "ro",
            ],
            "tmpfs" => &["size=1m", "size=2gb", "ro"],
            "secret" => &["id=i", "env=E", "required", "mode=0444", "uid=5"],
            _ => &["id=k", "required", "mode=0600", "uid=3"],
        };
        let wild = [
            "target=rel",
            "dst=$A",
            "from=nope",
            "from=s1",
            "sharing=x",
            "gid=x",
            "bad=1",
            "target=/",
            "\"quoted=a,b\"",
            "required=true",
            "size=x",
            "env=",
        ];
        for _ in 0..self.random.between(0, 3) {
            let option = if self.wild && self.random.chance(40) {
                self.one_of(&wild)
            } else {
                self.one_of(own)
            };
            write!(text, ",{option}").expect("a String takes all that is written to it");
        }
        if !matches!(kind.as_str(), "secret" | "ssh") || self.random.chance(40) {
            let path = self.one_of(&["/m", "rel", "$A/x", "/m/../n", "./q"]);
            write!(text, ",target={path}{target}")
                .expect("a String takes all that is written to it");
        }
        text
    }

    fn run(&mut self, keyword: &str) -> String {
        if self.random.chance(25) {
            let between = self.one_of(&["", " cat", " --network=none"]);
            return self.heredoc(&format!("{keyword}{between}"), &["", "", " && x", " /x"]);
        }
        let mut text = keyword.to_owned();
        for _ in 0..self.random.below(3) {
            text.push(' ');
            text += &match self.random.below(6) {
                0..3 => self.mount(),
                3 if self.wild => self.flag(&["network", "security", "mount", "device", "nope"]),
                3 => "--network=host".to_owned(),
                4 => "--security=insecure".to_owned(),
                _ => "--device=v.io/d=x,required".to_owned(),
            };
        }
        let line = match self.random.below(5) {
            0 => self.words(0, 4),
            1 => self.json(),
            2 => "echo hi \\\n  # c\n  && x".to_owned(),
            3 => "a \\\n\n b".to_owned(),
            _ => "echo \"$A\" ${B} $HOME '$x_1'".to_owned(),
        };
        format!("{text} {line}")
    }

    fn copy(&mut self, keyword: &str, first: bool) -> String {
        let copies = keyword.eq_ignore_ascii_case("copy");
        if self.random.chance(15) {
            return self.heredoc(keyword, &[" /x", " /y/ ", " x /z", ""]);
        }
        let mut pool = vec![
            "--chown=u:g",
            "--chown=$A",
            "--chmod=755",
            "--chmod=u+x",
            "--link",
            "--exclude=*.o",
            "--exclude=a/**",
        ];
        if copies {
            pool.extend(["--parents", "--from=alpine"]);
        } else {
            pool.extend(["--unpack", "--unpack=false", "--keep-git-dir=true"]);
        }
        if copies && !first {
            pool.extend(["--from=s0", "--from=0"]);
        }
        let mut text = keyword.to_owned();
        for _ in 0..self.random.below(3) {
            let flag = if self.wild && self.random.chance(30) {
                self.flag(&[
                    "chown", "chmod", "link", "exclude", "parents", "from", "bogus", "checksum",
                ])
            } else {
                self.one_of(&pool)
            };
            let name = flag.split('=').next().unwrap_or_default();
            if !text.contains(name) {
                text = format!("{text} {flag}");
            }
        }
        let source = match self.random.below(6) {
            0 => self.json(),
            1 => "a/./b".to_owned(),
            2 if !copies || self.wild => self.one_of(&REMOTE),
            _ => self.words(1, 3),
        };
        let to = match self.random.below(4) {
            0 => self.word(),
            _ => self.one_of(&["/dst", "dst/", ".", "./", "/x/."]),
        };
        format!("{text} {source} {to}")
    }

    fn pairs(&mut self, keyword: &str) -> String {
        if self.random.chance(20) {
            return format!("{keyword} N {}", self.words(1, 3));
        }
        let mut text = keyword.to_owned();
        for _ in 0..self.random.between(1, 3) {
            let name = self.one_of(&["A", "B", "k", "x_1", "$A"][..if self.wild { 5 } else { 4 }]);
            text = format!("{text} {name}={}", self.word());
        }
        text
    }

    fn arg(&mut self) -> String {
        let mut text = "ARG".to_owned();
        for _ in 0..self.random.between(usize::from(!self.wild), 2) {
            let name = self.one_of(&ARGS);
            text = match self.random.below(3) {
                0 => format!("{text} {name}"),
                1 => format!("{text} {name}="),
                _ => format!("{text} {name}={}", self.word()),
            };
        }
        text
    }

    fn several(&mut self, keyword: &str, good: &[&str], bad: &[&str]) -> String {
        let mut text = keyword.to_owned();
        for _ in 0..self.random.between(1, 3) {
            let word = if self.wild && self.random.chance(30) {
                self.one_of(bad)
            } else {
                self.one_of(good)
            };
            text = format!("{text} {word}");
        }
        text
    }

    fn one(&mut self, keyword: &str, good: &[&str], bad: &[&str]) -> String {
        let rest = if self.wild && self.random.chance(40) {
            self.one_of(bad)
        } else {
            self.one_of(good)
        };
        format!("{keyword} {rest}")
    }

    fn instruction(&mut self, first: bool) -> String {
        let mut keyword = self.one_of(&KEYWORDS);
        if self.random.chance(4) {
            let odd = ["env", "Run", "workdir", "RUNN", "cpoy", "FRM"];
            keyword = self.one_of(&odd[..if self.wild { 6 } else { 3 }]);
        }
        let keyword = keyword.as_str();
        if let Some((_, good, bad)) = RESTS.iter().find(|(name, ..)| *name == keyword) {
            return self.one(keyword, good, bad);
        }
        match keyword.to_ascii_uppercase().as_str() {
            "#" => self.one_of(&["# comment", "# check=skip=all", "#", "# A about a"]),
            "RUN" => self.run(keyword),
            "COPY" | "ADD" => self.copy(keyword, first),
            "ENV" | "LABEL" => self.pairs(keyword),
            "ARG" => self.arg(),
            "EXPOSE" => self.several(keyword, &PORTS, &BAD_PORTS),
            "CMD" | "ENTRYPOINT" if self.random.chance(50) => format!("{keyword} {}", self.json()),
            "CMD" | "ENTRYPOINT" => format!("{keyword} {}", self.words(0, 3)),
            _ => format!("{keyword} {}", self.words(usize::from(!self.wild), 2)),
        }
    }

    fn from(&mut self, number: usize) -> String {
        let mut bases = vec![
            "alpine",
            "scratch",
            "alpine",
            "${IMG:-debian}",
            "localhost:5000/x:y",
        ];
        let previous = format!("s{}", number.saturating_sub(1));
        if number > 0 {
            bases.extend(["s0", previous.as_str(), previous.as_str()]);
        }
        let mut flags = vec![
            "",
            "",
            "",
            "",
            "--platform=linux/arm64 ",
            "--platform=$BUILDPLATFORM ",
        ];
        if self.wild && number == 0 {
            // One at most: which of several upstream finds first is a matter of luck.
            bases.extend(["Bad", "missing", "$NOPE", "s7", "alpine@sha256:00"]);
        }
        if self.wild {
            flags.extend(["--platform=$NOPE ", "--bad ", "--platform=a/b/c/d "]);
        }
        let name = if self.wild && self.random.chance(20) {
            self.one_of(&[" AS", " AS 1x", " AS base", "", " as S0"])
        } else {
            format!(" AS s{number}")
        };
        format!("FROM {}{}{name}", self.one_of(&flags), self.one_of(&bases))
    }

    fn option(&mut self, case: &mut Case, percent: usize, name: &str, values: &[&str]) {
        if self.random.chance(percent) {
            let value = self.one_of(values);
            case.options.insert(name.to_owned(), value);
        }
    }

    /// A Dockerfile and its options.
    pub(crate) fn case(&mut self) -> Case {
        let mut lines = Vec::new();
        if self.random.chance(15) {
            lines.push(self.one_of(&[
                "# escape=`",
                "# check=skip=UndefinedVar;error=false",
                "# check=experimental=all",
                "\u{feff}# escape=`",
            ]));
        }
        if self.random.chance(30) {
            lines.push(format!(
                "ARG IMG={}",
                self.one_of(&["alpine", "busybox:1", "$X", ""])
            ));
        }
        for stage in 0..self.random.between(1, 4) {
            lines.push(self.from(stage));
            for _ in 0..self.random.between(0, 5) {
                lines.push(self.instruction(stage == 0));
            }
        }
        let end = self.one_of(&["\n", "\n", "\n", "\r\n"]);
        let mut case = Case {
            dockerfile: (lines.join(&end) + "\n").into_bytes(),
            ignore: self.one_of(&["", "", "a\n*.o\n", "*\n!b.txt\n", "dir\n", "**/x\n!**/y\n"]),
            ..Case::default()
        };
        self.options(&mut case);
        case
    }

    fn options(&mut self, case: &mut Case) {
        let bad = usize::from(self.wild);
        self.option(case, 15, "target", &["s0", "S0", "nope"][..2 + bad]);
        self.option(case, 30, "build-arg:A", &["v", "", "a b", "x/y.z"]);
        self.option(case, 10, "build-arg:IMG", &["debian:12"]);
        let platforms = [
            "linux/arm64",
            "linux/amd64,linux/arm/v7",
            "linux/riscv64",
            "windows/amd64",
            "a/b/c/d/e",
        ];
        self.option(case, 15, "platform", &platforms[..4 + bad]);
        self.option(case, 5, "no-cache", &["", "s0"]);
        self.option(
            case,
            5,
            "build-arg:SOURCE_DATE_EPOCH",
            &["1000", "x"][..=bad],
        );
        let contexts = [
            "docker-image://debian:12",
            "local:dir",
            "https://h.io/r.git",
            "docker-image://scratch",
            "bad",
        ];
        self.option(case, 10, "context:alpine", &contexts[..4 + bad]);
        self.option(
            case,
            5,
            "context:s0",
            &["docker-image://debian:12", "local:dir"],
        );
        // Answers to other questions come in orders that upstream leaves to luck, and without the platform.
        self.option(case, 5, "requestid", &["frontend.targets"]);
    }
}
