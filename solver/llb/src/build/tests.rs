//! Rules of the graph builder. That its bytes are those of BuildKit's Go client is tested by the Dockerfile corpus.

use super::*;
use crate::{decode, encode};
use shipway_model::op::{CacheSharing, Op};
use shipway_model::{Definition, Platform, SourceRange};

fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

fn image(graph: &mut Graph) -> State {
    let options = VertexOptions::named("base").platform(amd64());
    graph.image(Image::new("docker.io/library/busybox:latest"), options)
}

/// What the other side reads is what was built.
fn survives_the_wire(definition: &Definition) {
    let wire = encode(definition);
    let read = decode(&wire).unwrap();
    assert_eq!(&read, definition);
    assert_eq!(encode(&read), wire);
}

#[test]
fn a_variable_that_is_set_again_moves_to_the_end() {
    let state = State::scratch().env("A", "1").env("B", "2").env("A", "3");
    let vars: Vec<_> = state
        .vars()
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(vars, ["B=2", "A=3"]);
}

#[test]
fn mounts_are_sorted_and_their_outputs_numbered() {
    let mut graph = Graph::default();
    let base = image(&mut graph);
    let bind = |state: &State| {
        RunMount::Bind(BindMount {
            state: state.clone(),
            ..BindMount::default()
        })
    };
    let cache = RunMount::Cache {
        id: "c".into(),
        sharing: CacheSharing::Locked,
        state: State::scratch(),
        source: String::new(),
        readonly: false,
    };
    let run = Run::new(["x"])
        .mount("/z", bind(&base))
        .mount("/a", bind(&State::scratch()));
    let built = graph.run(&base, run.mount("/m", cache), VertexOptions::default());
    assert!(built.mount("/m").is_none());
    let state = built.mount("/z").unwrap().clone();
    let definition = graph.definition(&state, Some(&amd64())).unwrap();
    let Op::Exec(exec) = &definition.vertices[1].op else {
        panic!("an exec op")
    };
    let mounts: Vec<_> = exec
        .mounts
        .iter()
        .map(|m| (m.dest.as_str(), m.input, m.output))
        .collect();
    let want = [
        ("/", Some(0), Some(0)),
        ("/a", None, Some(1)),
        ("/m", None, None),
        ("/z", Some(0), Some(2)),
    ];
    assert_eq!(mounts, want);
    assert_eq!(definition.target.unwrap().output, 2);
    survives_the_wire(&definition);
}

#[test]
fn actions_of_one_chain_are_one_vertex() {
    let mut graph = Graph::default();
    let base = image(&mut graph).dir("/w");
    let local = Local {
        name: "context".into(),
        session: Some("s".into()),
        ..Local::default()
    };
    let local = graph.local(local, VertexOptions::default());
    let copy = Copy {
        src: "a".into(),
        dest: "b/".into(),
        ..Copy::default()
    };
    let owner = Some(Owner::parse("me:root"));
    let actions = FileActions::new()
        .mkdir(MkDir {
            path: "d".into(),
            mode: 0o755,
            owner,
            ..MkDir::default()
        })
        .copy(&local, copy.clone())
        .copy(&base, copy)
        .rm(Rm {
            path: "/x/../y".into(),
            ..Rm::default()
        });
    let built = graph.file(&base, actions, VertexOptions::default());
    let definition = graph.definition(&built, None).unwrap();
    assert_eq!(definition.vertices.len(), 3);
    let Op::File(file) = &definition.vertices[2].op else {
        panic!("a file op")
    };
    let edges: Vec<_> = file
        .actions
        .iter()
        .map(|a| (a.input, a.secondary_input, a.output))
        .collect();
    let want = [
        (Some(0), None, None),
        (Some(2), Some(1), None),
        (Some(3), Some(0), None),
        (Some(4), None, Some(0)),
    ];
    assert_eq!(edges, want);
    let text = format!("{:?}", file.actions);
    assert!(
        text.contains(r#"path: "/w/d""#) && text.contains(r#"dest: "/w/b/""#),
        "{text}"
    );
    assert!(
        text.contains(r#"src: "/a""#) && text.contains(r#"path: "/y""#),
        "{text}"
    );
    survives_the_wire(&definition);
}

#[test]
fn a_deferred_state_takes_its_contents_late() {
    let mut graph = Graph::default();
    let (place, later) = graph.deferred();
    let copy = FileActions::new().copy(&later, Copy::default());
    let built = graph.file(&State::scratch(), copy, VertexOptions::default());
    assert_eq!(graph.definition(&built, None), Err(BuildError::Unbound));
    let base = image(&mut graph);
    graph.bind(place, &base);
    assert_eq!(graph.definition(&built, None).unwrap().vertices.len(), 2);
    graph.bind(place, &State::scratch());
    assert_eq!(graph.definition(&built, None).unwrap().vertices.len(), 1);
}

#[test]
fn scratch_has_an_empty_definition() {
    let graph = Graph::default();
    let definition = graph.definition(&State::scratch(), None).unwrap();
    assert_eq!(definition, Definition::default());
    survives_the_wire(&definition);
}

#[test]
fn merging_with_scratch_changes_nothing() {
    let mut graph = Graph::default();
    let base = image(&mut graph);
    let options = VertexOptions::default;
    let merged = graph.merge(&[State::scratch(), base.clone()], options());
    assert_eq!(merged.output(), base.output());
    assert_eq!(
        graph.diff(&State::scratch(), &base, options()).output(),
        base.output()
    );
    assert!(
        graph
            .merge(&[State::scratch()], options())
            .output()
            .is_none()
    );
    let file = FileActions::new().mkdir(MkDir {
        path: "/d".into(),
        ..MkDir::default()
    });
    let other = graph.file(&State::scratch(), file, options());
    let merged = graph.merge(&[base.clone(), other.clone()], options());
    let diff = graph.diff(&base, &merged, options());
    let needed = graph.requires(&diff, "id", &[other], options());
    survives_the_wire(&graph.definition(&needed, None).unwrap());
}

#[test]
fn an_imported_definition_keeps_its_digests() {
    let mut graph = Graph::default();
    let file = SourceInfo {
        filename: "Dockerfile".into(),
        ..SourceInfo::default()
    };
    let file = graph.source_file(file);
    let options = VertexOptions::named("n").at(file, vec![SourceRange::lines(2, 2)]);
    let base = image(&mut graph);
    let built = graph.run(&base, Run::new(["x"]), options);
    let definition = graph.definition(built.root(), None).unwrap();
    let mut other = Graph::default();
    let state = other.import(&definition);
    assert_eq!(other.definition(&state, None).unwrap(), definition);
    assert_eq!(state.target_platform(), Some(&Platform::host()));
    survives_the_wire(&definition);
}

#[test]
fn a_deep_graph_does_not_overflow_the_stack() {
    let mut graph = Graph::default();
    let mut state = State::scratch();
    for depth in 0..50_000 {
        let path = format!("/{depth}");
        let action = FileActions::new().mkdir(MkDir {
            path,
            ..MkDir::default()
        });
        state = graph.file(&state, action, VertexOptions::default());
    }
    let definition = graph.definition(&state, None).unwrap();
    assert_eq!(definition.vertices.len(), 50_000);
    assert_eq!(
        decode(&encode(&definition)).unwrap().reachable().len(),
        50_000
    );
}

#[test]
fn git_sources_of_one_repository_share_an_identifier() {
    let mut graph = Graph::default();
    for remote in ["https://h.io/a/b.git", "git@h.io:a/b.git"] {
        let git = Git {
            remote: remote.into(),
            reference: "v1".into(),
            subdir: "d".into(),
            ..Git::default()
        };
        let state = graph.git(git, VertexOptions::default());
        let definition = graph.definition(&state, None).unwrap();
        let Op::Source(source) = &definition.vertices[0].op else {
            panic!("a source")
        };
        assert_eq!(source.identifier, "git://h.io/a/b.git#v1:d");
        assert_eq!(source.attrs["git.fullurl"], remote);
        assert_eq!(
            source.attrs.contains_key("git.mountsshsock"),
            remote.starts_with("git@")
        );
    }
}

#[test]
fn paths_become_clean() {
    let cases = [
        ("", "."),
        ("/", "/"),
        ("//a/./b/", "/a/b"),
        ("/../a", "/a"),
        ("../a", "../a"),
        ("a/../..", ".."),
        ("a/..", "."),
    ];
    for (path, want) in cases {
        assert_eq!(clean(path), want, "{path}");
    }
}

#[test]
fn a_graph_that_is_used_up_has_the_same_definition() {
    let mut graph = Graph::default();
    let base = image(&mut graph);
    let (place, deferred) = graph.deferred();
    let run = Run::new(["x"]);
    let built = graph.run(&deferred, run, VertexOptions::named("x"));
    let merged = graph.merge(
        &[base.clone(), built.root().clone()],
        VertexOptions::default(),
    );
    graph.bind(place, &base);
    let kept = graph.definition(&merged, Some(&amd64())).unwrap();
    assert_eq!(kept.vertices.len(), 3);
    assert_eq!(graph.into_definition(&merged, Some(&amd64())), Ok(kept));
}

#[test]
fn a_file_that_came_from_the_same_graph_is_one_file() {
    let info = |name: &str, description: &str| {
        let mut graph = Graph::default();
        let local = Local {
            name: name.into(),
            ..Local::default()
        };
        let state = graph.local(local, VertexOptions::named(description));
        let definition = graph.definition(&state, None).unwrap();
        SourceInfo {
            filename: "Dockerfile".into(),
            definition: Some(crate::encode_bytes(&definition)),
            ..SourceInfo::default()
        }
    };
    let mut graph = Graph::default();
    let first = graph.source_file(info("dockerfile", "a"));
    assert_eq!(graph.source_file(info("dockerfile", "b")), first);
    assert_ne!(graph.source_file(info("other", "a")), first);
}

#[test]
fn a_nested_build_names_the_input_and_the_file_of_its_definition() {
    let mut graph = Graph::default();
    let base = image(&mut graph);
    for (file, attrs) in [(None, 0), (Some("other"), 1)] {
        let built = graph.build(&base, file, VertexOptions::default());
        let definition = graph.definition(&built, None).unwrap();
        survives_the_wire(&definition);
        let Op::Build(build) = &definition.vertices[1].op else {
            panic!("the last vertex builds");
        };
        assert_eq!(build.inputs["buildkit.llb.definition"], 0);
        assert_eq!((build.builder, build.attrs.len()), (None, attrs));
        // The entry has its value even though that is empty: Go finds nothing there otherwise.
        let entry = b"buildkit.llb.definition\x12\x00";
        let bytes = &definition.vertices[1].bytes;
        assert!(bytes.windows(entry.len()).any(|part| part == entry));
    }
}
