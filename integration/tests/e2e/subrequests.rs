//! What tools ask of a Dockerfile instead of having it built: the answers that buildx prints are BuildKit's, word for word.

use shipway_integration::{
    Result,
    builder::{Builder, Kind, Options},
    command::{Done, finish},
    stand::Stand,
};

use crate::support::{ensure, on_stand, only_shipway};

const FILES: [(&str, &str); 5] = [
    (
        "checked",
        "# check=experimental=all\nfrom busybox:local AS Big\nmaintainer x\nRUN a\nENV a b\nCOPY $undefnied /x\n\
         FROM Big as other\nCMD a\nCMD [\"b\"]\nWORKDIR rel\nARG password\nRUN x \\\n\n  y\nEXPOSE 80/TCP 1:2\n\
         FROM --platform=linux/amd64 busybox:local\nFROM --platform=$TARGETPLATFORM scratch AS scratch\nCOPY skipped /\n",
    ),
    ("clean", "FROM busybox:local\nRUN true\n"),
    (
        "described",
        "# VERSION of the base\nARG VERSION=local\nARG OTHER=${VERSION} UNUSED=3\n# base is what others start from\n\
         FROM busybox:${OTHER} AS base\n# NAME & co\nARG NAME=${VERSION:-z}\nARG SECOND\n\
         RUN --mount=type=secret,id=s1,required --mount=type=ssh --mount=type=cache,target=/c echo $NAME\n\
         # final is <built> & shipped\nFROM base AS final\nARG TARGETARCH\nRUN --mount=type=secret,id=s2 --mount=type=ssh,id=k x\n",
    ),
    ("wrong", "FROM busybox:local\nRUNN x\n"),
    (
        "missing",
        "FROM busybox:local\nCOPY --from=nowhere-at-all:1 / /\nCMD a\n",
    ),
];

const QUESTIONS: [&[&str]; 12] = [
    &["--check"],
    &["--call=check,format=json"],
    &[
        "--call=check",
        "--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=all",
    ],
    &[
        "--call=check",
        "--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=JSONArgsRecommended;error=true",
    ],
    &["--call=outline"],
    &["--call=outline,format=json"],
    &["--call=outline", "--target=base", "--build-arg=NAME=given"],
    &["--call=targets"],
    &["--call=targets,format=json"],
    &["--call=subrequests.describe"],
    &["--call=subrequests.describe,format=json"],
    &["--call=fortune"],
];

/// The errors of images that don't exist name the registry's answer, which is the network's and not ours.
fn is_comparable(name: &str, question: &[&str]) -> bool {
    name != "missing" || question[0] == "--call=targets"
}

fn ask(stand: &Stand, address: &str, name: &str, question: &[&str]) -> Result<Done> {
    let context = stand.dir.join("contexts").join(name);
    let mut buildx = stand.clients.buildx(address)?;
    buildx.arg("build").args(question).arg(context);
    finish(&mut buildx)
}

/// What a person sees: all that is printed, but for progress and what differs from run to run: BuildKit shows warnings in
/// any order. Ours says two things more: the lines of a mistake, and what kind of failure it is.
fn seen(done: &Done) -> String {
    let mut error: Vec<&str> = done
        .stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !is_excerpt(line))
        .map(|line| line.trim_start_matches("\u{1b}[0m").trim())
        .collect();
    error.sort_unstable();
    let text = format!(
        "{}\n{}\nsuccess: {}",
        without_definitions(&done.stdout),
        error.join("\n"),
        done.success
    );
    text.replace("Unimplemented: ", "")
        // Which of them buildx says depends on what arrives first.
        .replace("failed to run Build function", "failed to solve")
}

/// A line of a Dockerfile as clients show where a mistake is.
fn is_excerpt(line: &str) -> bool {
    line.starts_with("Dockerfile:")
        || line.starts_with("-----")
        || line
            .split_once(" |")
            .is_some_and(|(number, _)| number.parse::<u32>().is_ok())
}

/// The LLB that a Dockerfile came from names the session.
fn without_definitions(text: &str) -> String {
    let Ok(mut json) = serde_json::from_str::<serde_json::Value>(text) else {
        return text.to_owned();
    };
    let sources = json
        .get_mut("sources")
        .and_then(serde_json::Value::as_array_mut);
    for source in sources.into_iter().flatten() {
        if let Some(source) = source.as_object_mut() {
            source.remove("definition");
        }
    }
    format!("{json:#}")
}

#[test]
fn buildx_prints_what_it_prints_against_buildkit() {
    if !only_shipway() {
        // BuildKit prints what it prints.
        return;
    }
    on_stand(|stand| {
        let mut options = Options::new(Kind::Buildkit);
        "buildkit".clone_into(&mut options.namespace);
        stand.import_busybox("buildkit")?;
        let mut theirs = Builder::start(
            &stand.machine,
            &stand.dir,
            &stand.containerd.address,
            options,
        )?;
        let mut wrong = Vec::new();
        for (name, text) in FILES {
            stand.context(
                name,
                &[("Dockerfile", text), (".dockerignore", "skipped\n")],
            )?;
            for question in QUESTIONS {
                if !is_comparable(name, question) {
                    continue;
                }
                let want = seen(&ask(stand, &theirs.address(), name, question)?);
                let got = seen(&ask(stand, &stand.builder.address(), name, question)?);
                if want != got {
                    wrong.push(format!(
                        "=== {name} {question:?}: BuildKit\n{want}\n=== ours\n{got}"
                    ));
                }
            }
        }
        theirs.stop()?;
        ensure(wrong.is_empty(), || wrong.join("\n"))
    });
}
