//! File ops: actions whose inputs are the op's inputs or earlier actions' results.

use super::InvalidOp;
use super::op::{at_most, optional};
use shipway_model::op::{ChownOpt, FileAction, FileActionKind, FileCopy, FileOp, UserOpt};
use shipway_proto::pb;

pub(super) fn decode(wire: pb::FileOp, inputs: usize) -> Result<FileOp, InvalidOp> {
    if wire.actions.is_empty() {
        return Err(InvalidOp::Missing {
            op: "file",
            field: "actions",
        });
    }
    at_most("actions", wire.actions.len())?;
    let actions = wire.actions.into_iter().enumerate();
    let actions = actions.map(|(place, wire)| action(wire, inputs, inputs + place));
    Ok(FileOp {
        actions: actions.collect::<Result<_, _>>()?,
    })
}

/// `bound` is the first index that names neither an input nor an earlier action.
fn action(wire: pb::FileAction, inputs: usize, bound: usize) -> Result<FileAction, InvalidOp> {
    let kind = wire.action.ok_or(InvalidOp::Missing {
        op: "file",
        field: "action",
    })?;
    Ok(FileAction {
        input: optional("action input", wire.input, bound)?,
        secondary_input: optional("action secondary input", wire.secondary_input, bound)?,
        output: optional("action output", wire.output, crate::limits::PARTS)?,
        kind: action_kind(kind, inputs)?,
    })
}

fn action_kind(wire: pb::file_action::Action, inputs: usize) -> Result<FileActionKind, InvalidOp> {
    use pb::file_action::Action;
    Ok(match wire {
        Action::Copy(copy) => FileActionKind::Copy(decode_copy(copy, inputs)?),
        Action::Mkfile(file) => FileActionKind::MkFile {
            path: file.path,
            mode: file.mode,
            data: file.data.to_vec(),
            owner: owner(file.owner, inputs)?,
            timestamp: file.timestamp,
        },
        Action::Mkdir(dir) => FileActionKind::MkDir {
            path: dir.path,
            mode: dir.mode,
            make_parents: dir.make_parents,
            owner: owner(dir.owner, inputs)?,
            timestamp: dir.timestamp,
        },
        Action::Rm(rm) => FileActionKind::Rm {
            path: rm.path,
            allow_not_found: rm.allow_not_found,
            allow_wildcard: rm.allow_wildcard,
        },
        Action::Symlink(link) => FileActionKind::Symlink {
            oldpath: link.oldpath,
            newpath: link.newpath,
            owner: owner(link.owner, inputs)?,
            timestamp: link.timestamp,
        },
    })
}

fn decode_copy(wire: pb::FileActionCopy, inputs: usize) -> Result<FileCopy, InvalidOp> {
    Ok(FileCopy {
        src: wire.src,
        dest: wire.dest,
        owner: owner(wire.owner, inputs)?,
        mode: wire.mode,
        mode_str: wire.mode_str,
        follow_symlink: wire.follow_symlink,
        dir_copy_contents: wire.dir_copy_contents,
        attempt_unpack: wire.attempt_unpack_docker_compatibility,
        create_dest_path: wire.create_dest_path,
        allow_wildcard: wire.allow_wildcard,
        allow_empty_wildcard: wire.allow_empty_wildcard,
        timestamp: wire.timestamp,
        include_patterns: wire.include_patterns,
        exclude_patterns: wire.exclude_patterns,
        always_replace: wire.always_replace_existing_dest_paths,
        required_paths: wire.required_paths,
    })
}

fn owner(wire: Option<pb::ChownOpt>, inputs: usize) -> Result<Option<ChownOpt>, InvalidOp> {
    let Some(wire) = wire else { return Ok(None) };
    Ok(Some(ChownOpt {
        user: user(wire.user, inputs)?,
        group: user(wire.group, inputs)?,
    }))
}

fn user(wire: Option<pb::UserOpt>, inputs: usize) -> Result<Option<UserOpt>, InvalidOp> {
    Ok(match wire.and_then(|wire| wire.user) {
        None => None,
        Some(pb::user_opt::User::ById(id)) => Some(UserOpt::ById(id)),
        Some(pb::user_opt::User::ByName(by)) => {
            let input = optional("user", by.input, inputs)?;
            Some(UserOpt::ByName {
                name: by.name,
                input,
            })
        }
    })
}
