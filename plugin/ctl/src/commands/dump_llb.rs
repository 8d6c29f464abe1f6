//! `debug dump-llb`: a definition as lines of JSON or as a drawing for Graphviz. Needs no daemon.

use std::fmt::Write as _;
use std::fs::File;

use shipway_proto::pb;

use crate::args::DumpLlbFlags;
use crate::build::{self, Vertex};
use crate::error::Error;
use crate::output;

mod json;

/// Prints a definition.
pub(crate) fn run(flags: &DumpLlbFlags) -> Result<(), Error> {
    let definition = match flags.file.as_deref().filter(|path| path.as_os_str() != "-") {
        Some(path) => {
            build::read_definition(File::open(path).map_err(Error::file("opening", path))?)?
        }
        None => build::read_definition(std::io::stdin().lock())?,
    };
    let vertices = build::vertices(&definition)?;
    if flags.dot {
        return output::print(&dot(&vertices));
    }
    for vertex in &vertices {
        let metadata = definition.metadata.get(&vertex.digest);
        output::print(&(json::line(vertex, metadata) + "\n"))?;
    }
    Ok(())
}

fn dot(vertices: &[Vertex]) -> String {
    let mut out = String::from("digraph {\n");
    let put = |out: &mut String, line: std::fmt::Arguments<'_>| {
        out.write_fmt(line).expect("a String takes everything");
    };
    for vertex in vertices {
        let (label, shape) = label(vertex);
        put(
            &mut out,
            format_args!("  {:?} [label={label:?} shape={shape:?}];\n", vertex.digest),
        );
    }
    for vertex in vertices {
        for (index, input) in vertex.op.inputs.iter().enumerate() {
            let dest = mounted_at(&vertex.op, index);
            put(
                &mut out,
                format_args!(
                    "  {:?} -> {:?} [label={dest:?}];\n",
                    input.digest, vertex.digest
                ),
            );
        }
    }
    out.push_str("}\n");
    out
}

/// Where an exec vertex mounts an input, unless it is the root.
fn mounted_at(op: &pb::Op, index: usize) -> &str {
    let Some(pb::op::Op::Exec(exec)) = &op.op else {
        return "";
    };
    let mounted = exec.mounts.iter().rev().find(|mount| {
        usize::try_from(mount.input).is_ok_and(|input| input == index) && mount.dest != "/"
    });
    mounted.map_or("", |mount| mount.dest.as_str())
}

fn label(vertex: &Vertex) -> (String, &'static str) {
    match &vertex.op.op {
        Some(pb::op::Op::Source(source)) => (source.identifier.clone(), "ellipse"),
        Some(pb::op::Op::Exec(exec)) => (
            exec.meta
                .as_ref()
                .map(|meta| meta.args.join(" "))
                .unwrap_or_default(),
            "box",
        ),
        Some(pb::op::Op::Build(_)) => ("build".to_owned(), "box3d"),
        Some(pb::op::Op::Merge(_)) => ("merge".to_owned(), "invtriangle"),
        Some(pb::op::Op::Diff(_)) => ("diff".to_owned(), "doublecircle"),
        Some(pb::op::Op::File(file)) => {
            let actions: Vec<_> = file.actions.iter().map(action).collect();
            (actions.join(","), "note")
        }
        Some(pb::op::Op::Passthrough(_)) | None => (vertex.digest.clone(), "plaintext"),
    }
}

fn action(action: &pb::FileAction) -> String {
    use pb::file_action::Action;
    match &action.action {
        Some(Action::Copy(copy)) => format!("copy{{src={}, dest={}}}", copy.src, copy.dest),
        Some(Action::Mkfile(file)) => format!("mkfile{{path={}}}", file.path),
        Some(Action::Mkdir(dir)) => format!("mkdir{{path={}}}", dir.path),
        Some(Action::Rm(rm)) => format!("rm{{path={}}}", rm.path),
        Some(Action::Symlink(link)) => {
            format!(
                "symlink{{oldpath={}, newpath={}}}",
                link.oldpath, link.newpath
            )
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_drawn_with_its_mounts() {
        let source = pb::op::Op::Source(pb::SourceOp {
            identifier: "docker-image://a".into(),
            ..pb::SourceOp::default()
        });
        let mount = pb::Mount {
            input: 0,
            dest: "/src".into(),
            ..pb::Mount::default()
        };
        let meta = pb::Meta {
            args: vec!["sh".into(), "-c".into()],
            ..pb::Meta::default()
        };
        let exec = pb::op::Op::Exec(pb::ExecOp {
            meta: Some(meta),
            mounts: vec![mount],
            ..pb::ExecOp::default()
        });
        let input = pb::Input {
            digest: "d1".into(),
            index: 0,
        };
        let vertices = [
            Vertex {
                digest: "d1".into(),
                op: pb::Op {
                    op: Some(source),
                    ..pb::Op::default()
                },
            },
            Vertex {
                digest: "d2".into(),
                op: pb::Op {
                    op: Some(exec),
                    inputs: vec![input],
                    ..pb::Op::default()
                },
            },
        ];
        let expected = "digraph {\n  \"d1\" [label=\"docker-image://a\" shape=\"ellipse\"];\n  \
            \"d2\" [label=\"sh -c\" shape=\"box\"];\n  \"d1\" -> \"d2\" [label=\"/src\"];\n}\n";
        assert_eq!(dot(&vertices), expected);
    }
}
