//! The key of a file operation. Decides which part of a source path counts: its last component; the rest is content.

use shipway_model::Digest;
use shipway_model::op::{ChownOpt, FileAction, FileActionKind, FileCopy, FileOp, UserOpt};

use super::exec::index;
use super::gojson::{Object, bytes, list};
use super::parts::Parts;
use crate::KeyParts;

/// Key of a file operation on a vertex with this many inputs.
#[must_use]
pub fn file(op: &FileOp, inputs: usize) -> Digest {
    let actions = op.actions.iter();
    let actions = list(actions.map(|action| bytes(action_json(action, inputs).as_bytes())));
    let mut object = Object::new()
        .text("Type", "buildkit.file.v0")
        .raw("Actions", &actions);
    if !is_plain_chain(&op.actions) {
        object = object.list(
            "indexes",
            op.actions.iter().map(|action| {
                let [input, secondary, output] = indexes(action);
                format!("[{input},{secondary},{output}]")
            }),
        );
    }
    Digest::of(object.end())
}

/// What the key of a file operation is made of.
#[must_use]
pub fn file_parts(op: &FileOp, inputs: usize) -> KeyParts {
    let mut parts = Parts::default();
    for (number, action) in op.actions.iter().enumerate() {
        let mut json = action_json(action, inputs);
        if json.len() > 1024 {
            json = Digest::of(json).to_string();
        }
        parts.add(&format!("action {number}"), json);
    }
    parts.done()
}

fn indexes(action: &FileAction) -> [i64; 3] {
    [action.input, action.secondary_input, action.output].map(index)
}

/// Every action on the one before, each copying from the second input if at all, the last one the output. Early versions
/// had no indexes in the key, so this, the common case, has none.
fn is_plain_chain(actions: &[FileAction]) -> bool {
    let count = index(Some(actions.len()));
    let plain = |(at, action): (usize, &FileAction)| {
        let [input, secondary, output] = indexes(action);
        let (at, last) = (index(Some(at)), at + 1 == actions.len());
        input == if at == 0 { 0 } else { count + at - 1 }
            && (secondary == -1 || secondary == 1)
            && output == if last { 0 } else { -1 }
    };
    !actions.is_empty() && actions.iter().enumerate().all(plain)
}

fn action_json(action: &FileAction, inputs: usize) -> String {
    match &action.kind {
        FileActionKind::Copy(copy) => {
            let from_input = action.secondary_input.is_some_and(|at| at < inputs);
            copy_json(copy, from_input)
        }
        FileActionKind::MkFile {
            path,
            mode,
            data,
            owner,
            timestamp,
        } => Object::new()
            .string("path", path)
            .int("mode", *mode)
            .bytes("data", data)
            .optional("owner", owner.as_ref().map(owner_json))
            .int("timestamp", *timestamp)
            .end(),
        FileActionKind::MkDir {
            path,
            mode,
            make_parents,
            owner,
            timestamp,
        } => Object::new()
            .string("path", path)
            .int("mode", *mode)
            .bool("makeParents", *make_parents)
            .optional("owner", owner.as_ref().map(owner_json))
            .int("timestamp", *timestamp)
            .end(),
        FileActionKind::Rm {
            path,
            allow_not_found,
            allow_wildcard,
        } => Object::new()
            .string("path", path)
            .bool("allowNotFound", *allow_not_found)
            .bool("allowWildcard", *allow_wildcard)
            .end(),
        FileActionKind::Symlink {
            oldpath,
            newpath,
            owner,
            timestamp,
        } => Object::new()
            .string("oldpath", oldpath)
            .string("newpath", newpath)
            .optional("owner", owner.as_ref().map(owner_json))
            .int("timestamp", *timestamp)
            .end(),
    }
}

fn copy_json(copy: &FileCopy, from_input: bool) -> String {
    let src = if from_input {
        base(&copy.src)
    } else {
        &copy.src
    };
    Object::new()
        .string("src", src)
        .string("dest", &copy.dest)
        .optional("owner", copy.owner.as_ref().map(owner_json))
        .int("mode", copy.mode)
        .bool("followSymlink", copy.follow_symlink)
        .bool("dirCopyContents", copy.dir_copy_contents)
        .bool("attemptUnpackDockerCompatibility", copy.attempt_unpack)
        .bool("createDestPath", copy.create_dest_path)
        .bool("allowWildcard", copy.allow_wildcard)
        .bool("allowEmptyWildcard", copy.allow_empty_wildcard)
        .int("timestamp", copy.timestamp)
        .strings("include_patterns", &copy.include_patterns)
        .strings("exclude_patterns", &copy.exclude_patterns)
        .bool("alwaysReplaceExistingDestPaths", copy.always_replace)
        .string("modeStr", &copy.mode_str)
        .strings("required_paths", &copy.required_paths)
        .end()
}

/// The last component of a path, as Go's `path.Base` has it.
fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match (path, trimmed) {
        ("", _) => ".",
        (_, "") => "/",
        (_, trimmed) => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

fn owner_json(owner: &ChownOpt) -> String {
    Object::new()
        .optional("user", owner.user.as_ref().map(user_json))
        .optional("group", owner.group.as_ref().map(user_json))
        .end()
}

fn user_json(user: &UserOpt) -> String {
    let user = match user {
        UserOpt::ByName { name, input } => {
            let named = Object::new()
                .string("name", name)
                .int("input", index(*input));
            Object::new().raw("byName", &named.end())
        }
        UserOpt::ById(id) => Object::new().int("byId", *id),
    };
    Object::new().raw("User", &user.end()).end()
}
