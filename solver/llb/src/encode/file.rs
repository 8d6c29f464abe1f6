//! File ops as wire messages.

use super::position;
use shipway_model::op::{ChownOpt, FileAction, FileActionKind, FileCopy, FileOp, UserOpt};
use shipway_proto::pb;

pub(super) fn encode(file: &FileOp) -> pb::FileOp {
    pb::FileOp {
        actions: file.actions.iter().map(action).collect(),
    }
}

fn action(action: &FileAction) -> pb::FileAction {
    pb::FileAction {
        input: position(action.input),
        secondary_input: position(action.secondary_input),
        output: position(action.output),
        action: Some(action_kind(&action.kind)),
    }
}

fn action_kind(kind: &FileActionKind) -> pb::file_action::Action {
    use pb::file_action::Action;
    match kind {
        FileActionKind::Copy(copy) => Action::Copy(encode_copy(copy)),
        FileActionKind::MkFile {
            path,
            mode,
            data,
            owner,
            timestamp,
        } => Action::Mkfile(pb::FileActionMkFile {
            path: path.clone(),
            mode: *mode,
            data: data.clone().into(),
            owner: owner.as_ref().map(chown),
            timestamp: *timestamp,
        }),
        FileActionKind::MkDir {
            path,
            mode,
            make_parents,
            owner,
            timestamp,
        } => Action::Mkdir(pb::FileActionMkDir {
            path: path.clone(),
            mode: *mode,
            make_parents: *make_parents,
            owner: owner.as_ref().map(chown),
            timestamp: *timestamp,
        }),
        FileActionKind::Rm {
            path,
            allow_not_found,
            allow_wildcard,
        } => Action::Rm(pb::FileActionRm {
            path: path.clone(),
            allow_not_found: *allow_not_found,
            allow_wildcard: *allow_wildcard,
        }),
        FileActionKind::Symlink {
            oldpath,
            newpath,
            owner,
            timestamp,
        } => Action::Symlink(pb::FileActionSymlink {
            oldpath: oldpath.clone(),
            newpath: newpath.clone(),
            owner: owner.as_ref().map(chown),
            timestamp: *timestamp,
        }),
    }
}

fn encode_copy(copy: &FileCopy) -> pb::FileActionCopy {
    pb::FileActionCopy {
        src: copy.src.clone(),
        dest: copy.dest.clone(),
        owner: copy.owner.as_ref().map(chown),
        mode: copy.mode,
        follow_symlink: copy.follow_symlink,
        dir_copy_contents: copy.dir_copy_contents,
        attempt_unpack_docker_compatibility: copy.attempt_unpack,
        create_dest_path: copy.create_dest_path,
        allow_wildcard: copy.allow_wildcard,
        allow_empty_wildcard: copy.allow_empty_wildcard,
        timestamp: copy.timestamp,
        include_patterns: copy.include_patterns.clone(),
        exclude_patterns: copy.exclude_patterns.clone(),
        always_replace_existing_dest_paths: copy.always_replace,
        mode_str: copy.mode_str.clone(),
        required_paths: copy.required_paths.clone(),
    }
}

fn chown(owner: &ChownOpt) -> pb::ChownOpt {
    pb::ChownOpt {
        user: owner.user.as_ref().map(user),
        group: owner.group.as_ref().map(user),
    }
}

fn user(user: &UserOpt) -> pb::UserOpt {
    let user = match user {
        UserOpt::ById(id) => pb::user_opt::User::ById(*id),
        UserOpt::ByName { name, input } => pb::user_opt::User::ByName(pb::NamedUserOpt {
            name: name.clone(),
            input: position(*input),
        }),
    };
    pb::UserOpt { user: Some(user) }
}
