//! The operations of LLB as plain values: what to do, on which inputs. Field meanings follow BuildKit's `ops.proto`
//! (v0.33); what cannot be valid is refused where LLB is decoded, so values here need no second check.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Index into a vertex's inputs.
pub type InputIndex = usize;

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Run a process; boxed since it is far larger than the others, of which a graph may have more.
    Exec(Box<ExecOp>),
    /// Fetch something from outside.
    Source(SourceOp),
    /// Change files.
    File(FileOp),
    /// Run a build described by an input's LLB.
    Build(BuildOp),
    /// Stack the inputs on each other, first one lowest.
    Merge(MergeOp),
    /// What `upper` adds to `lower`.
    Diff(DiffOp),
    /// Hand inputs on unchanged.
    Passthrough(PassthroughOp),
}

/// What a source turned out to be: it is pinned by this, whatever its name will mean later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// Of an image or a file.
    Digest(crate::Digest),
    /// Of a git repository.
    Commit(String),
}

/// Run a process in a root filesystem assembled from mounts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExecOp {
    /// Process parameters.
    pub meta: Meta,
    /// In the order of the definition.
    pub mounts: Vec<Mount>,
    /// Network mode.
    pub network: NetMode,
    /// Sandbox or not.
    pub security: SecurityMode,
    /// Secrets that become environment variables.
    pub secret_env: Vec<SecretEnv>,
    /// CDI devices.
    pub cdi_devices: Vec<CdiDevice>,
}

/// Process parameters of an [`ExecOp`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Meta {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, ordered.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// `user[:group]`, names or numbers; empty is root.
    pub user: String,
    /// Proxy variables: in the environment, not in the key.
    pub proxy_env: Option<ProxyEnv>,
    /// Extra lines for the hosts file.
    pub extra_hosts: Vec<HostIp>,
    /// Host name; empty for the default.
    pub hostname: String,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Parent cgroup.
    pub cgroup_parent: String,
    /// Remove mount stubs with all parents that they needed.
    pub remove_mount_stubs_recursive: bool,
    /// Exit codes that count as success; empty means only 0.
    pub valid_exit_codes: Vec<i32>,
}

/// Proxy variables.
#[derive(Debug, Clone, PartialEq, Default)]
#[expect(missing_docs, reason = "each field is the variable of that name")]
pub struct ProxyEnv {
    pub http_proxy: String,
    pub https_proxy: String,
    pub ftp_proxy: String,
    pub no_proxy: String,
    pub all_proxy: String,
}

/// One extra host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostIp {
    /// Name.
    pub host: String,
    /// Address.
    pub ip: String,
}

/// One resource limit, such as `nofile`; -1 is unlimited.
#[derive(Debug, Clone, PartialEq)]
pub struct Ulimit {
    /// Name without `RLIMIT_`, lower-case.
    pub name: String,
    /// Soft limit.
    pub soft: i64,
    /// Hard limit.
    pub hard: i64,
}

/// Network of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NetMode {
    /// The daemon's default.
    #[default]
    Unset,
    /// The host's; needs an entitlement.
    Host,
    /// Loopback only.
    None,
}

/// Sandbox of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SecurityMode {
    /// Default capabilities, seccomp, masked paths.
    #[default]
    Sandbox,
    /// Nothing withheld; needs an entitlement.
    Insecure,
}

/// A secret as environment variable.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretEnv {
    /// Secret's id.
    pub id: String,
    /// Variable's name.
    pub name: String,
    /// Set empty where the client has none.
    pub optional: bool,
}

/// A CDI device.
#[derive(Debug, Clone, PartialEq)]
pub struct CdiDevice {
    /// Qualified name.
    pub name: String,
    /// May be absent.
    pub optional: bool,
}

/// One mount of an [`ExecOp`].
#[derive(Debug, Clone, PartialEq)]
pub struct Mount {
    /// Input that is mounted; `None` starts empty.
    pub input: Option<InputIndex>,
    /// Path inside the input; empty or `/` for all.
    pub selector: String,
    /// Mount point, absolute.
    pub dest: String,
    /// Output that this mount becomes; `None` discards writes.
    pub output: Option<usize>,
    /// Read-only.
    pub readonly: bool,
    /// What kind.
    pub kind: MountKind,
    /// Whether the input may get a content key.
    pub content_cache: ContentCache,
    /// Result of another build to mount instead of an input (gateway containers only); empty for none.
    pub result_id: String,
}

/// Kind of a [`Mount`].
#[derive(Debug, Clone, PartialEq)]
pub enum MountKind {
    /// The input itself.
    Bind,
    /// A secret's value as a file.
    Secret(SecretMount),
    /// An ssh agent's socket.
    Ssh(SecretMount),
    /// A directory that outlives the build.
    Cache {
        /// Name of the directory, as sent.
        id: String,
        /// Who may use it at once.
        sharing: CacheSharing,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; 0 for no limit.
        size: u64,
    },
}

/// Options of a secret's file or an agent's socket.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretMount {
    /// Id at the client.
    pub id: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// May be absent.
    pub optional: bool,
}

/// Sharing of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CacheSharing {
    /// All at once.
    #[default]
    Shared,
    /// One each; a busy one is passed over.
    Private,
    /// One after the other.
    Locked,
}

/// Whether a mount's input may be keyed by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContentCache {
    /// Where it is safe.
    #[default]
    Default,
    /// Always; an error where it is not safe.
    On,
    /// Never.
    Off,
}

/// Fetch something from outside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceOp {
    /// `scheme://rest`.
    pub identifier: String,
    /// Options of that scheme.
    pub attrs: BTreeMap<String, String>,
}

impl SourceOp {
    /// `("docker-image", "docker.io/library/busybox:latest")` of the identifier; `None` without `://`.
    #[must_use]
    pub fn split(&self) -> Option<(&str, &str)> {
        self.identifier.split_once("://")
    }
}

/// Change files, action after action.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FileOp {
    /// In order; an action's inputs index the op's inputs first, then earlier actions' results.
    pub actions: Vec<FileAction>,
}

/// One action of a [`FileOp`]. Inputs `0..n` are the vertex's `n` inputs, `n + i` is action `i`'s result.
#[derive(Debug, Clone, PartialEq)]
pub struct FileAction {
    /// What is changed; `None` is an empty root.
    pub input: Option<usize>,
    /// Where files come from (copy).
    pub secondary_input: Option<usize>,
    /// Output of the vertex that this result is; `None` for an intermediate one.
    pub output: Option<usize>,
    /// What is done.
    pub kind: FileActionKind,
}

/// What a [`FileAction`] does.
#[derive(Debug, Clone, PartialEq)]
pub enum FileActionKind {
    /// Copy from the secondary input.
    Copy(FileCopy),
    /// Write a file.
    MkFile {
        /// Absolute path.
        path: String,
        /// Permission bits; -1 unset.
        mode: i32,
        /// Contents.
        data: Vec<u8>,
        /// Owner; `None` is 0:0.
        owner: Option<ChownOpt>,
        /// Nanoseconds since 1970; -1 for now.
        timestamp: i64,
    },
    /// Make a directory.
    MkDir {
        /// Absolute path.
        path: String,
        /// Permission bits.
        mode: i32,
        /// Make missing parents too.
        make_parents: bool,
        /// Owner; `None` is 0:0.
        owner: Option<ChownOpt>,
        /// Nanoseconds since 1970; -1 for now.
        timestamp: i64,
    },
    /// Remove.
    Rm {
        /// Absolute path.
        path: String,
        /// A missing path is fine.
        allow_not_found: bool,
        /// The last component is a pattern.
        allow_wildcard: bool,
    },
    /// Make a symbolic link.
    Symlink {
        /// Target, as written.
        oldpath: String,
        /// The link, absolute.
        newpath: String,
        /// Owner; `None` is 0:0.
        owner: Option<ChownOpt>,
        /// Nanoseconds since 1970; -1 for now.
        timestamp: i64,
    },
}

/// Copy of a [`FileAction`].
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the wire's own independent options"
)]
pub struct FileCopy {
    /// Path in the source, may be a pattern.
    pub src: String,
    /// Path in the destination; a trailing slash means a directory.
    pub dest: String,
    /// Owner of everything copied; `None` keeps.
    pub owner: Option<ChownOpt>,
    /// Permission bits; -1 keeps.
    pub mode: i32,
    /// Symbolic permission change, such as `u+x`; empty for none.
    pub mode_str: String,
    /// Follow a symbolic link that is the source.
    pub follow_symlink: bool,
    /// A directory source means its contents.
    pub dir_copy_contents: bool,
    /// Unpack the source where it is an archive.
    pub attempt_unpack: bool,
    /// Make missing parents of the destination.
    pub create_dest_path: bool,
    /// `src` is a pattern.
    pub allow_wildcard: bool,
    /// A pattern without match is fine.
    pub allow_empty_wildcard: bool,
    /// Nanoseconds since 1970; -1 keeps.
    pub timestamp: i64,
    /// Only these, relative to the source.
    pub include_patterns: Vec<String>,
    /// Not these.
    pub exclude_patterns: Vec<String>,
    /// Remove what is in the way.
    pub always_replace: bool,
    /// Patterns that must each match something.
    pub required_paths: Vec<String>,
}

/// New owner: user and group, each kept at 0 where `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChownOpt {
    /// User.
    pub user: Option<UserOpt>,
    /// Group.
    pub group: Option<UserOpt>,
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserOpt {
    /// Looked up in `/etc/passwd` or `/etc/group` of an input; `None` where there is no input to look in.
    ByName {
        /// Name.
        name: String,
        /// Index as in [`FileAction::input`].
        input: Option<usize>,
    },
    /// A number.
    ById(u32),
}

/// Run a build described by LLB.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BuildOp {
    /// Input whose LLB is built (`-1` on the wire: LLB itself is the builder).
    pub builder: Option<InputIndex>,
    /// Inputs by name.
    pub inputs: BTreeMap<String, InputIndex>,
    /// Options; `buildkit.llb.definition`-style attributes as sent.
    pub attrs: BTreeMap<String, String>,
}

/// Stack the inputs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MergeOp {
    /// Lowest first.
    pub inputs: Vec<InputIndex>,
}

/// Subtract.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DiffOp {
    /// Subtracted; `None` is empty.
    pub lower: Option<InputIndex>,
    /// Subtracted from; `None` is empty.
    pub upper: Option<InputIndex>,
}

/// Hand inputs on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PassthroughOp {
    /// Distinguishes equal ones.
    pub id: String,
    /// Input of each output; `None` is empty.
    pub outputs: Vec<Option<InputIndex>>,
}
