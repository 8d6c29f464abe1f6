//! A client's directory arrives as it is, however it has changed since the last build.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use shipway_integration::{
    Error, Result,
    clients::Buildctl,
    command::succeed,
    stand::{Stand, write},
};

use crate::support::{ensure, on_stand};

const DIRS: usize = 12;
const FILES: usize = 40;

fn changed(done: std::io::Result<()>) -> Result<()> {
    done.map_err(|e| Error::Unexpected(format!("changing the context: {e}")))
}

/// Builds and compares the result with the context, but for what `.dockerignore` names.
fn arrives(stand: &Stand, context: &Path, name: &str) -> Result<PathBuf> {
    let out = stand.dir.join(name);
    let mut buildctl = stand.buildctl_build(Buildctl::Go, context)?;
    buildctl
        .arg("--output")
        .arg(format!("type=local,dest={}", out.display()));
    succeed(&mut buildctl)?;
    let mut diff = Command::new("diff");
    diff.args(["-r", "--no-dereference", "--exclude=skipped"]);
    succeed(diff.arg(context.join("src")).arg(out.join("src")))?;
    Ok(out)
}

#[test]
fn a_context_that_changes_in_every_way_arrives_as_it_is() {
    on_stand(|stand| {
        let dockerfile = ("Dockerfile", "FROM scratch\nCOPY src /src\n");
        let ignored = (".dockerignore", "**/skipped\n!src/d3/skipped\n");
        let context = stand.context("changing", &[dockerfile, ignored])?;
        let at = |path: &str| context.join("src").join(path);
        for number in 0..DIRS * FILES {
            let path = format!("d{}/{number}", number % DIRS);
            write(&at(&path), &format!("file {number}\n"))?;
        }
        arrives(stand, &context, "first")?;
        arrives(stand, &context, "unchanged")?;
        changed(fs::remove_dir_all(at("d1")))?;
        changed(fs::remove_dir_all(at("d2")))?;
        write(&at("d2"), "a file now\n")?;
        changed(fs::remove_dir_all(at("d4")))?;
        changed(symlink("d5", at("d4")))?;
        changed(fs::remove_file(at("d6/6")))?;
        write(&at("d6/6/inner"), "a directory now\n")?;
        write(&at("d7/7"), "changed contents\n")?;
        write(&at("new/file"), "new\n")?;
        for dir in ["d3", "d5"] {
            write(&at(&format!("{dir}/skipped/file")), "x\n")?;
        }
        let out = arrives(stand, &context, "changed")?;
        let is_there = |dir: &str| out.join("src").join(dir).join("skipped/file").exists();
        ensure(is_there("d3") && !is_there("d5"), || {
            "what is ignored is not what .dockerignore says".to_owned()
        })?;
        // The two names may be listed apart from each other.
        for dir in 8..DIRS {
            let linked = at(&format!("d{dir}/linked"));
            changed(fs::hard_link(at("d8/8"), linked))?;
        }
        for name in ["linked", "linked again"] {
            let out = arrives(stand, &context, name)?.join("src");
            let inode = |path: String| {
                let found = fs::metadata(out.join(&path)).map(|meta| meta.ino());
                found.map_err(|e| Error::Unexpected(format!("looking at {path}: {e}")))
            };
            for dir in 8..DIRS {
                let is_linked = inode(format!("d{dir}/linked"))? == inode("d8/8".to_owned())?;
                ensure(is_linked, || format!("{name}: d{dir}/linked is no link"))?;
            }
        }
        Ok(())
    });
}
