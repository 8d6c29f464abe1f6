//! Types one statement: which arguments and flags each instruction takes.

use super::flags::{Flags, Takes};
use super::heredoc::{self, Heredoc};
use super::instruction::{
    Add, ArgDef, CommandLine, Copy, Device, HealthConfig, InstructionKind, KeyValue, Run,
    RunNetwork, SourcesAndDest,
};
use super::lines::{Args, Statement};
use super::mount::{MountSpec, go_bool};
use super::{csv, units};
use crate::error::{Error, SyntaxError};
use crate::suggest::{Case, nearest};

const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The words of a statement, whatever its shape; `json` if they came from an array.
struct Words {
    words: Vec<String>,
    json: bool,
}

/// Types any instruction but FROM.
pub(super) fn kind(statement: &Statement) -> Result<InstructionKind, Error> {
    use InstructionKind as Kind;
    let words = words(statement);
    Ok(match statement.name.to_ascii_lowercase().as_str() {
        "add" => Kind::Add(Box::new(add(statement, words)?)),
        "arg" => Kind::Arg(arg(statement, words)?),
        "cmd" => {
            no_flags(statement)?;
            Kind::Cmd(command_line(statement, words))
        }
        "copy" => Kind::Copy(Box::new(copy(statement, words)?)),
        "entrypoint" => {
            no_flags(statement)?;
            Kind::Entrypoint(command_line(statement, words))
        }
        "env" => Kind::Env(pairs(statement, "ENV")?),
        "expose" => Kind::Expose(expose(statement, words)?),
        "healthcheck" => Kind::Healthcheck(healthcheck(statement, words)?),
        "label" => Kind::Label(pairs(statement, "LABEL")?),
        "maintainer" => Kind::Maintainer(one(statement, words, "MAINTAINER")?),
        "onbuild" => Kind::OnBuild(on_build(statement)?),
        "run" => Kind::Run(Box::new(run(statement, words)?)),
        "shell" => Kind::Shell(shell(statement, words)?),
        "stopsignal" => Kind::StopSignal(one_without_flag_check(words, "STOPSIGNAL")?),
        "user" => Kind::User(one(statement, words, "USER")?),
        "volume" => Kind::Volume(volume(statement, &words)?),
        "workdir" => Kind::Workdir(one(statement, words, "WORKDIR")?),
        _ => return Err(unknown(&statement.name)),
    })
}

fn unknown(name: &str) -> Error {
    let suggestion = nearest(name, NAMES, Case::Ignore);
    Error::new(SyntaxError::UnknownInstruction(name.to_owned())).suggest(suggestion)
}

fn words(statement: &Statement) -> Words {
    match &statement.args {
        Args::Words { words, json } => Words {
            words: words.clone(),
            json: *json,
        },
        Args::Pairs(_) | Args::Statement(_) | Args::Unknown => Words {
            words: Vec::new(),
            json: false,
        },
    }
}

fn no_flags(statement: &Statement) -> Result<(), Error> {
    Flags::parse(&statement.flags, &[]).map(|_| ())
}

fn one(statement: &Statement, words: Words, name: &'static str) -> Result<String, Error> {
    let word = one_without_flag_check(words, name)?;
    no_flags(statement)?;
    Ok(word)
}

/// STOPSIGNAL has always ignored flags.
fn one_without_flag_check(words: Words, name: &'static str) -> Result<String, Error> {
    let [word] = <[String; 1]>::try_from(words.words).map_err(|_| SyntaxError::ExactlyOne(name))?;
    Ok(word)
}

fn pairs(statement: &Statement, name: &'static str) -> Result<Vec<KeyValue>, Error> {
    no_flags(statement)?;
    let pairs = match &statement.args {
        Args::Pairs(pairs) if !pairs.is_empty() => pairs.clone(),
        _ => return Err(SyntaxError::AtLeastOne(name).into()),
    };
    if pairs.iter().any(|pair| pair.key.is_empty()) {
        return Err(SyntaxError::BlankName(name).into());
    }
    Ok(pairs)
}

fn files(statement: &Statement, words: Words, name: &'static str) -> Result<SourcesAndDest, Error> {
    let mut words = words.words;
    let dest = words.pop().unwrap_or_default();
    let announced = |word: &str| heredoc::from_word(word).ok().flatten();
    if announced(&dest).is_some() {
        return Err(SyntaxError::HeredocDestination(name).into());
    }
    let mut files = SourcesAndDest {
        dest,
        ..SourcesAndDest::default()
    };
    for word in words {
        let Some(mut heredoc) = announced(&word) else {
            files.paths.push(word);
            continue;
        };
        // Two heredocs of one name: the last body counts for both.
        let body = statement
            .heredocs
            .iter()
            .rev()
            .find(|body| body.name == heredoc.name);
        let body = body.map(|body| body.content.clone()).unwrap_or_default();
        heredoc.content = if heredoc.chomp {
            heredoc::chomp(&body)
        } else {
            body
        };
        files.contents.push(heredoc);
    }
    Ok(files)
}

fn add(statement: &Statement, words: Words) -> Result<Add, Error> {
    if words.words.len() < 2 {
        return Err(SyntaxError::NoDestination("ADD").into());
    }
    let known = [
        ("chown", Takes::One),
        ("chmod", Takes::One),
        ("link", Takes::Bool),
        ("keep-git-dir", Takes::Bool),
        ("checksum", Takes::One),
        ("unpack", Takes::Bool),
        ("exclude", Takes::Many),
    ];
    let flags = Flags::parse(&statement.flags, &known)?;
    Ok(Add {
        files: files(statement, words, "ADD")?,
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link").unwrap_or_default(),
        keep_git_dir: flags.bool("keep-git-dir"),
        checksum: flags.text("checksum"),
        unpack: flags.bool("unpack"),
        exclude: flags.all("exclude"),
    })
}

fn copy(statement: &Statement, words: Words) -> Result<Copy, Error> {
    if words.words.len() < 2 {
        return Err(SyntaxError::NoDestination("COPY").into());
    }
    let known = [
        ("chown", Takes::One),
        ("from", Takes::One),
        ("chmod", Takes::One),
        ("link", Takes::Bool),
        ("exclude", Takes::Many),
        ("parents", Takes::Bool),
    ];
    let flags = Flags::parse(&statement.flags, &known)?;
    Ok(Copy {
        files: files(statement, words, "COPY")?,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link").unwrap_or_default(),
        parents: flags.bool("parents").unwrap_or_default(),
        exclude: flags.all("exclude"),
    })
}

fn arg(statement: &Statement, words: Words) -> Result<Vec<ArgDef>, Error> {
    if words.words.is_empty() {
        return Err(SyntaxError::AtLeastOne("ARG").into());
    }
    let define = |word: String| {
        let (key, value) = match word.split_once('=') {
            Some(("", _)) => return Err(SyntaxError::BlankName("ARG")),
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let doc = doc_comment(&statement.comments, &key);
        Ok(ArgDef { key, value, doc })
    };
    Ok(words
        .words
        .into_iter()
        .map(define)
        .collect::<Result<_, _>>()?)
}

/// The text of the comment `NAME text` before an instruction.
pub(super) fn doc_comment(comments: &[String], name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let text = |line: &String| {
        line.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(' '))
            .map(str::to_owned)
    };
    comments.iter().find_map(text).unwrap_or_default()
}

fn command_line(statement: &Statement, words: Words) -> CommandLine {
    let files: Vec<Heredoc> = statement.heredocs.clone();
    CommandLine {
        args: words.words,
        files,
        shell: !words.json,
    }
}

fn expose(statement: &Statement, words: Words) -> Result<Vec<String>, Error> {
    if words.words.is_empty() {
        return Err(SyntaxError::AtLeastOne("EXPOSE").into());
    }
    no_flags(statement)?;
    let mut ports = words.words;
    ports.sort();
    Ok(ports)
}

fn healthcheck(statement: &Statement, words: Words) -> Result<HealthConfig, Error> {
    let Words { mut words, json } = words;
    if words.is_empty() {
        return Err(SyntaxError::AtLeastOne("HEALTHCHECK").into());
    }
    let kind = words.remove(0).to_uppercase();
    if kind == "NONE" {
        if !words.is_empty() {
            return Err(SyntaxError::HealthcheckNone.into());
        }
        return Ok(HealthConfig {
            test: vec![kind],
            ..HealthConfig::default()
        });
    }
    let names = [
        "interval",
        "timeout",
        "start-period",
        "start-interval",
        "retries",
    ];
    let flags = Flags::parse(&statement.flags, &names.map(|name| (name, Takes::One)))?;
    if kind != "CMD" {
        return Err(SyntaxError::HealthcheckType(kind).into());
    }
    if words.is_empty() {
        return Err(SyntaxError::HealthcheckCommand.into());
    }
    words.insert(0, if json { kind } else { "CMD-SHELL".into() });
    Ok(HealthConfig {
        test: words,
        interval: interval(&flags, "interval")?,
        timeout: interval(&flags, "timeout")?,
        start_period: interval(&flags, "start-period")?,
        start_interval: interval(&flags, "start-interval")?,
        retries: retries(&flags)?,
    })
}

fn interval(flags: &Flags, name: &'static str) -> Result<i64, SyntaxError> {
    let text = flags.get(name).unwrap_or_default();
    if text.is_empty() {
        return Ok(0);
    }
    match units::duration(text)? {
        0 => Ok(0),
        short if short < 1_000_000 => Err(SyntaxError::Interval(name)),
        long => Ok(long),
    }
}

fn retries(flags: &Flags) -> Result<i64, SyntaxError> {
    let text = flags.get("retries").unwrap_or_default();
    if text.is_empty() {
        return Ok(0);
    }
    match text.parse::<i32>() {
        Ok(count) if count < 0 => Err(SyntaxError::NegativeRetries(count.into())),
        Ok(count) => Ok(count.into()),
        Err(_) => Err(SyntaxError::Retries(text.to_owned())),
    }
}

fn on_build(statement: &Statement) -> Result<String, Error> {
    let Args::Statement(Some(trigger)) = &statement.args else {
        return Err(SyntaxError::AtLeastOne("ONBUILD").into());
    };
    no_flags(statement)?;
    match trigger.name.to_uppercase().as_str() {
        "ONBUILD" => return Err(SyntaxError::OnBuildChain.into()),
        name @ ("MAINTAINER" | "FROM") => {
            return Err(SyntaxError::OnBuildTrigger(name.to_owned()).into());
        }
        _ => {}
    }
    let mut text = statement.text.trim_start()[statement.name.len()..]
        .trim_start()
        .to_owned();
    for heredoc in &statement.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    Ok(text)
}

fn run(statement: &Statement, words: Words) -> Result<Run, Error> {
    let known = [
        ("mount", Takes::Many),
        ("network", Takes::One),
        ("security", Takes::One),
        ("device", Takes::Many),
    ];
    let flags = Flags::parse(&statement.flags, &known)?;
    let mounts = flags.all("mount");
    let mounts = mounts
        .iter()
        .map(|text| MountSpec::parse(text))
        .collect::<Result<_, _>>()?;
    let network = match flags.get("network") {
        None | Some("default") => RunNetwork::Default,
        Some("none") => RunNetwork::None,
        Some("host") => RunNetwork::Host,
        Some(other) => return Err(SyntaxError::Network(other.to_owned()).into()),
    };
    let insecure = match flags.get("security") {
        None | Some("sandbox") => false,
        Some("insecure") => true,
        Some(other) => return Err(SyntaxError::Security(other.to_owned()).into()),
    };
    let devices = flags.all("device");
    let devices = devices
        .iter()
        .map(|text| device(text))
        .collect::<Result<_, _>>()?;
    Ok(Run {
        command: command_line(statement, words),
        mounts,
        network,
        insecure,
        devices,
    })
}

/// `NAME[,required]` or `name=NAME[,required=BOOL]`; a qualified name holds a `=` itself.
fn device(text: &str) -> Result<Device, Error> {
    let csv = |reason| SyntaxError::Csv {
        what: "devices",
        reason,
    };
    let mut device = Device::default();
    for field in csv::fields(text).map_err(csv)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                let bad = SyntaxError::ValueFor {
                    key: key.clone(),
                    value: value.to_owned(),
                };
                device.required = go_bool(value).ok_or(bad)?;
            }
            ("name", Some(_)) if !device.name.is_empty() => {
                return Err(SyntaxError::DeviceName(device.name).into());
            }
            ("name", Some(value)) => value.clone_into(&mut device.name),
            _ if device.name.is_empty() => device.name = field,
            (_, None) => return Err(SyntaxError::KeyValue(field).into()),
            (_, Some(_)) => {
                let suggestion = nearest(&key, ["name", "required"], Case::Exact);
                let error = SyntaxError::UnexpectedKey { key, field };
                return Err(Error::new(error).suggest(suggestion));
            }
        }
    }
    Ok(device)
}

fn shell(statement: &Statement, words: Words) -> Result<Vec<String>, Error> {
    no_flags(statement)?;
    match words {
        Words { words, .. } if words.is_empty() => Err(SyntaxError::AtLeastOne("SHELL").into()),
        Words { words, json: true } => Ok(words),
        Words { .. } => Err(SyntaxError::NotJson("SHELL").into()),
    }
}

fn volume(statement: &Statement, words: &Words) -> Result<Vec<String>, Error> {
    if words.words.is_empty() {
        return Err(SyntaxError::AtLeastOne("VOLUME").into());
    }
    no_flags(statement)?;
    let trimmed: Vec<String> = words
        .words
        .iter()
        .map(|word| word.trim().to_owned())
        .collect();
    if trimmed.iter().any(String::is_empty) {
        return Err(SyntaxError::EmptyVolume.into());
    }
    Ok(trimmed)
}

/// FROM: base name, stage name (lower-cased, empty for none) and platform.
pub(super) struct From {
    pub(super) base: String,
    pub(super) name: String,
    pub(super) platform: String,
}

pub(super) fn from(statement: &Statement) -> Result<From, Error> {
    let words = words(statement).words;
    let name = match &words[..] {
        [_] => String::new(),
        [_, keyword, name] if keyword.eq_ignore_ascii_case("as") => stage_name(name)?,
        _ => return Err(SyntaxError::From.into()),
    };
    let flags = Flags::parse(&statement.flags, &[("platform", Takes::One)])?;
    Ok(From {
        base: words[0].clone(),
        name,
        platform: flags.text("platform"),
    })
}

fn stage_name(written: &str) -> Result<String, SyntaxError> {
    let name = written.to_lowercase();
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(ok) {
        return Err(SyntaxError::StageName(written.to_owned()));
    }
    Ok(name)
}
