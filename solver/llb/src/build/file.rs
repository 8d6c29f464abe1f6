//! File actions: a chain of them is one vertex. Paths are made absolute and clean here, as clients do.

use super::{Graph, Kind, Output, State, VertexOptions};
use shipway_model::op::{ChownOpt, FileActionKind, FileCopy, UserOpt};

/// One action, before inputs have numbers.
#[derive(Debug, Clone)]
pub(super) struct ActionNode {
    pub(super) base: Option<Output>,
    pub(super) source: Option<Output>,
    pub(super) kind: FileActionKind,
    pub(super) owner: Option<Owner>,
}

/// Owner of new files. A name is looked up in the filesystem that the action changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    user: Option<Id>,
    group: Option<Id>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Id {
    Name(String),
    Number(u32),
}

impl Owner {
    /// `user[:group]`, names or numbers; `root` is number 0.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        Self {
            user: Some(Id::parse(user)),
            group: group.map(Id::parse),
        }
    }

    /// Numbers.
    #[must_use]
    pub const fn numeric(uid: u32, gid: u32) -> Self {
        Self {
            user: Some(Id::Number(uid)),
            group: Some(Id::Number(gid)),
        }
    }

    /// `input` is the index of the filesystem that names are looked up in.
    pub(super) fn resolve(&self, input: Option<usize>) -> ChownOpt {
        let id = |id: &Id| match id {
            Id::Name(name) => UserOpt::ByName {
                name: name.clone(),
                input,
            },
            Id::Number(number) => UserOpt::ById(*number),
        };
        ChownOpt {
            user: self.user.as_ref().map(id),
            group: self.group.as_ref().map(id),
        }
    }
}

impl Id {
    fn parse(text: &str) -> Self {
        match (text, text.parse::<i32>()) {
            // An empty name stands for 0, and `root` never needs a look-up.
            ("root" | "", _) => Self::Number(0),
            // Negative numbers wrap on the wire, as clients let them.
            (_, Ok(number)) => Self::Number(number.cast_unsigned()),
            (name, Err(_)) => Self::Name(name.to_owned()),
        }
    }
}

/// Makes a directory.
#[derive(Debug, Clone, Default)]
pub struct MkDir {
    /// Path; relative ones start at the state's directory.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Make missing parents.
    pub parents: bool,
    /// Owner of what is made.
    pub owner: Option<Owner>,
    /// Nanoseconds since 1970.
    pub created: Option<i64>,
}

/// Writes a file.
#[derive(Debug, Clone, Default)]
pub struct MkFile {
    /// Path; relative ones start at the state's directory.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Contents.
    pub data: Vec<u8>,
    /// Owner.
    pub owner: Option<Owner>,
    /// Nanoseconds since 1970.
    pub created: Option<i64>,
}

/// Removes a path.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent options of one action"
)]
pub struct Rm {
    /// Path; relative ones start at the state's directory.
    pub path: String,
    /// A missing path is fine.
    pub allow_not_found: bool,
    /// The last component is a pattern.
    pub wildcard: bool,
}

/// Makes a symbolic link.
#[derive(Debug, Clone, Default)]
pub struct Symlink {
    /// Where it points, as written.
    pub target: String,
    /// Where it stands.
    pub path: String,
    /// Owner.
    pub owner: Option<Owner>,
    /// Nanoseconds since 1970.
    pub created: Option<i64>,
}

/// New permissions of copied files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Chmod {
    /// As in the source.
    #[default]
    Keep,
    /// These bits.
    Octal(u32),
    /// A change such as `u+x`.
    Symbolic(String),
}

/// Copies from another state.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent options of one action"
)]
pub struct Copy {
    /// Path in the source; relative ones start at the source state's directory.
    pub src: String,
    /// Path in the destination; a trailing slash means a directory.
    pub dest: String,
    /// Owner of everything copied.
    pub owner: Option<Owner>,
    /// Permissions of everything copied.
    pub chmod: Chmod,
    /// Follow a symbolic link that is the source.
    pub follow_symlinks: bool,
    /// A directory means its contents.
    pub contents_only: bool,
    /// Unpack an archive.
    pub unpack: bool,
    /// Make missing parents of the destination.
    pub create_dest: bool,
    /// `src` is a pattern.
    pub wildcard: bool,
    /// A pattern may match nothing.
    pub allow_empty_wildcard: bool,
    /// Remove what is in the way.
    pub always_replace: bool,
    /// Only these patterns.
    pub include: Vec<String>,
    /// Not these patterns.
    pub exclude: Vec<String>,
    /// Each must match something.
    pub required: Vec<String>,
    /// Nanoseconds since 1970.
    pub created: Option<i64>,
}

/// A chain of actions that become one vertex.
#[derive(Debug, Default)]
pub struct FileActions(Vec<Action>);

#[derive(Debug)]
enum Action {
    MkDir(MkDir),
    MkFile(MkFile),
    Rm(Rm),
    Symlink(Symlink),
    Copy(State, Copy),
}

impl FileActions {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Then makes a directory.
    #[must_use]
    pub fn mkdir(self, action: MkDir) -> Self {
        self.then(Action::MkDir(action))
    }

    /// Then writes a file.
    #[must_use]
    pub fn mkfile(self, action: MkFile) -> Self {
        self.then(Action::MkFile(action))
    }

    /// Then removes.
    #[must_use]
    pub fn rm(self, action: Rm) -> Self {
        self.then(Action::Rm(action))
    }

    /// Then links.
    #[must_use]
    pub fn symlink(self, action: Symlink) -> Self {
        self.then(Action::Symlink(action))
    }

    /// Then copies from `source`.
    #[must_use]
    pub fn copy(self, source: &State, action: Copy) -> Self {
        self.then(Action::Copy(source.clone(), action))
    }

    /// True where there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn then(mut self, action: Action) -> Self {
        self.0.push(action);
        self
    }
}

impl Graph {
    /// Changes files of `state`. Without actions it is `state` itself.
    pub fn file(&mut self, state: &State, actions: FileActions, options: VertexOptions) -> State {
        if actions.is_empty() {
            return state.clone();
        }
        let bound = actions
            .0
            .into_iter()
            .map(|action| bind(action, state))
            .collect();
        let node = self.push(Kind::File(bound), options.cap("file.base"));
        state.with_output(Some(Output { node, index: 0 }))
    }
}

fn bind(action: Action, state: &State) -> ActionNode {
    let dir = state.directory();
    let mut source = None;
    let (kind, owner) = match action {
        Action::MkDir(a) => bind_mkdir(a, dir),
        Action::MkFile(a) => bind_mkfile(a, dir),
        Action::Rm(a) => {
            let path = absolute(dir, &a.path, false);
            let (allow_not_found, allow_wildcard) = (a.allow_not_found, a.wildcard);
            (
                FileActionKind::Rm {
                    path,
                    allow_not_found,
                    allow_wildcard,
                },
                None,
            )
        }
        Action::Symlink(a) => {
            let (oldpath, newpath) = (a.target, a.path);
            let timestamp = a.created.unwrap_or(-1);
            (
                FileActionKind::Symlink {
                    oldpath,
                    newpath,
                    owner: None,
                    timestamp,
                },
                a.owner,
            )
        }
        Action::Copy(from, mut a) => {
            source = from.output();
            let owner = a.owner.take();
            (FileActionKind::Copy(bind_copy(a, &from, dir)), owner)
        }
    };
    ActionNode {
        base: state.output(),
        source,
        kind,
        owner,
    }
}

/// Permission bits; others do not count for new files.
fn bits(mode: u32) -> i32 {
    i32::try_from(mode & 0o777).unwrap_or_default()
}

fn bind_mkdir(make: MkDir, dir: &str) -> (FileActionKind, Option<Owner>) {
    let kind = FileActionKind::MkDir {
        path: absolute(dir, &make.path, false),
        mode: bits(make.mode),
        make_parents: make.parents,
        owner: None,
        timestamp: make.created.unwrap_or(-1),
    };
    (kind, make.owner)
}

fn bind_mkfile(make: MkFile, dir: &str) -> (FileActionKind, Option<Owner>) {
    let kind = FileActionKind::MkFile {
        path: absolute(dir, &make.path, false),
        mode: bits(make.mode),
        data: make.data,
        owner: None,
        timestamp: make.created.unwrap_or(-1),
    };
    (kind, make.owner)
}

fn bind_copy(copy: Copy, from: &State, dir: &str) -> FileCopy {
    let src = clean(&copy.src);
    let src = if src.starts_with('/') {
        src
    } else {
        join(from.directory(), &src)
    };
    let (mode, mode_str) = match copy.chmod {
        Chmod::Keep => (-1, String::new()),
        Chmod::Octal(bits) => (i32::try_from(bits).unwrap_or(i32::MAX), String::new()),
        Chmod::Symbolic(change) => (0, change),
    };
    FileCopy {
        src,
        dest: absolute(dir, &copy.dest, true),
        owner: None,
        mode,
        mode_str,
        follow_symlink: copy.follow_symlinks,
        dir_copy_contents: copy.contents_only,
        attempt_unpack: copy.unpack,
        create_dest_path: copy.create_dest,
        allow_wildcard: copy.wildcard,
        allow_empty_wildcard: copy.allow_empty_wildcard,
        timestamp: copy.created.unwrap_or(-1),
        include_patterns: copy.include,
        exclude_patterns: copy.exclude,
        always_replace: copy.always_replace,
        required_paths: copy.required,
    }
}

/// A clean absolute path; `keep_slash` keeps a trailing `/` or `/.`, which mean a directory.
fn absolute(parent: &str, path: &str, keep_slash: bool) -> String {
    let mut clean = clean(path);
    if !clean.starts_with('/') {
        clean = self::clean(&format!("/{parent}/{clean}"));
    }
    if keep_slash && path.ends_with('/') && !clean.ends_with('/') {
        clean.push('/');
    } else if keep_slash && path.ends_with("/.") {
        if clean != "/" {
            clean.push('/');
        }
        clean.push('.');
    }
    clean
}

/// `path` if it is absolute, as it is; else joined to `dir` and cleaned.
pub(crate) fn join(dir: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let dir = if dir.is_empty() { "/" } else { dir };
    clean(&format!("{dir}/{path}"))
}

/// The shortest equal path: no doubled slashes, no `.`, no `..` that can be resolved; `.` for an empty one.
#[must_use]
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut clean = String::with_capacity(path.len() + 1);
    // Length of the leading `..`s, which nothing takes back.
    let mut fixed = 0;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if clean.len() > fixed => clean.truncate(clean.rfind('/').unwrap_or(0)),
            ".." if rooted => {}
            _ => {
                if rooted || !clean.is_empty() {
                    clean.push('/');
                }
                clean.push_str(part);
                if part == ".." {
                    fixed = clean.len();
                }
            }
        }
    }
    if clean.is_empty() {
        clean.push(if rooted { '/' } else { '.' });
    }
    clean
}
