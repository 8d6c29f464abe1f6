//! Sources: images, client directories, git, http, OCI layouts, blobs. The attribute names are LLB's.

use super::{Graph, Kind, Output, State, VertexOptions};
use crate::git::GitUrl;
use shipway_model::op::SourceOp;
use std::collections::BTreeMap;

type Attrs = BTreeMap<String, String>;

/// How an image's name becomes a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResolveMode {
    /// As the daemon likes.
    #[default]
    Default,
    /// Always ask the registry.
    Pull,
    /// Prefer what the machine has.
    Local,
}

impl ResolveMode {
    /// The attribute's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Pull => "pull",
            Self::Local => "local",
        }
    }
}

/// An image of a registry.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Canonical reference.
    pub reference: String,
    /// How to resolve it.
    pub resolve: ResolveMode,
    /// `internal` hides it from usage listings.
    pub record_type: Option<String>,
    /// Take only that many layers.
    pub layer_limit: Option<u32>,
    /// Digest that the manifest must have.
    pub checksum: Option<String>,
}

impl Image {
    /// An image with default options.
    #[must_use]
    pub fn new(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            ..Self::default()
        }
    }
}

/// Whether a client directory is compared with what the daemon has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalDiffer {
    /// Everything is sent again.
    None,
    /// Only what changed is sent.
    Metadata,
}

/// A directory of the client.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// Name under which the client offers it.
    pub name: String,
    /// Session that offers it. Without one, `unique_id` keeps results of different builds apart.
    pub session: Option<String>,
    /// See `session`.
    pub unique_id: String,
    /// Only these patterns.
    pub include: Vec<String>,
    /// Only these paths and what their symbolic links lead to.
    pub follow: Vec<String>,
    /// Not these patterns.
    pub exclude: Vec<String>,
    /// Which mirror of the directory to update.
    pub shared_key_hint: String,
    /// How changes are found, where the daemon can.
    pub differ: Option<LocalDiffer>,
}

/// A git repository.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent options of one source"
)]
pub struct Git {
    /// URL of the remote, without fragment.
    pub remote: String,
    /// Branch, tag or commit.
    pub reference: String,
    /// Directory in the repository.
    pub subdir: String,
    /// Commit that the reference must have.
    pub checksum: String,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Do not fetch submodules.
    pub skip_submodules: bool,
    /// `checkout` or `commit`.
    pub mtime: String,
    /// Trust `checksum` as the commit to fetch.
    pub fetch_by_commit: bool,
    /// Let the daemon print advice.
    pub advice: bool,
    /// Known host keys of an ssh remote.
    pub known_ssh_hosts: Option<String>,
    /// Agent of an ssh remote.
    pub ssh_agent: Option<String>,
}

/// A file behind a URL.
#[derive(Debug, Clone, Default)]
pub struct Http {
    /// The URL.
    pub url: String,
    /// Name that the file gets.
    pub filename: String,
    /// Digest that it must have.
    pub checksum: Option<String>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Secret that holds the authorization header.
    pub auth_header_secret: Option<String>,
    /// More headers, names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// Where an OCI layout is found.
#[derive(Debug, Clone, Default)]
pub struct LayoutStore {
    /// Session of the client that has it.
    pub session: String,
    /// The client's name for it.
    pub store: String,
    /// Take only that many layers.
    pub layer_limit: Option<u32>,
}

/// One blob of an image repository, as a file.
#[derive(Debug, Clone, Default)]
pub struct ImageBlob {
    /// Canonical reference with digest.
    pub reference: String,
    /// Name that the file gets.
    pub filename: String,
    /// Permission bits.
    pub mode: u32,
}

impl Graph {
    /// An image as root filesystem.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "options are made for one call"
    )]
    pub fn image(&mut self, image: Image, options: VertexOptions) -> State {
        let mut attrs = Attrs::new();
        if image.resolve != ResolveMode::Default {
            attrs.insert("image.resolvemode".into(), image.resolve.as_str().into());
        }
        set(&mut attrs, "image.recordtype", image.record_type.as_deref());
        let limit = image.layer_limit.map(|limit| limit.to_string());
        set(&mut attrs, "image.layerlimit", limit.as_deref());
        set(&mut attrs, "image.checksum", image.checksum.as_deref());
        let options = options
            .cap("source.image")
            .cap_if(
                image.resolve == ResolveMode::Pull,
                "source.image.resolvemode",
            )
            .cap_if(limit.is_some(), "source.image.layerlimit")
            .cap_if(image.checksum.is_some(), "source.image.checksum");
        self.source(
            format!("docker-image://{}", image.reference),
            attrs,
            options,
        )
    }

    /// A directory of the client.
    pub fn local(&mut self, local: Local, options: VertexOptions) -> State {
        let mut attrs = Attrs::new();
        let mut options = options.cap("source.local");
        let lists = [
            (
                "local.includepattern",
                "source.local.includepatterns",
                &local.include,
            ),
            (
                "local.followpaths",
                "source.local.followpaths",
                &local.follow,
            ),
            (
                "local.excludepatterns",
                "source.local.excludepatterns",
                &local.exclude,
            ),
        ];
        for (attr, cap, list) in lists {
            if !list.is_empty() {
                attrs.insert(attr.into(), json_list(list));
                options = options.cap(cap);
            }
        }
        if let Some(session) = local.session.filter(|session| !session.is_empty()) {
            attrs.insert("local.session".into(), session);
            options = options.cap("source.local.sessionid");
        } else {
            attrs.insert("local.unique".into(), local.unique_id);
            options = options.cap("source.local.unique");
        }
        if !local.shared_key_hint.is_empty() {
            attrs.insert("local.sharedkeyhint".into(), local.shared_key_hint);
            options = options.cap("source.local.sharedkeyhint");
        }
        let differ = local.differ.map(|differ| match differ {
            LocalDiffer::None => "none",
            LocalDiffer::Metadata => "metadata",
        });
        set(&mut attrs, "local.differ", differ);
        self.source(format!("local://{}", local.name), attrs, options)
    }

    /// A git repository's tree.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "options are made for one call"
    )]
    pub fn git(&mut self, git: Git, options: VertexOptions) -> State {
        let url = GitUrl::parse(&git.remote)
            .or_else(|_| GitUrl::parse(&format!("https://{}", git.remote)))
            .ok();
        let remote = url
            .as_ref()
            .map_or(git.remote.clone(), |url| url.remote.clone());
        let id = git_id(&git, url.as_ref(), &remote);
        let ssh = url.as_ref().is_some_and(GitUrl::is_ssh);
        let mut attrs = Attrs::new();
        set(&mut attrs, "git.fullurl", Some(&remote));
        set(&mut attrs, "git.authtokensecret", Some("GIT_AUTH_TOKEN"));
        set(&mut attrs, "git.authheadersecret", Some("GIT_AUTH_HEADER"));
        set(&mut attrs, "git.checksum", Some(&git.checksum));
        set(&mut attrs, "git.mtime", Some(&git.mtime));
        let on = |flag: bool| flag.then_some("true");
        set(&mut attrs, "git.keepgitdir", on(git.keep_git_dir));
        set(&mut attrs, "git.skipsubmodules", on(git.skip_submodules));
        set(&mut attrs, "git.advice", on(git.advice));
        set(&mut attrs, "git.fetchbycommit", on(git.fetch_by_commit));
        if ssh {
            // Asking the host for its keys is left to who can do IO; without keys the daemon decides.
            set(
                &mut attrs,
                "git.knownsshhosts",
                git.known_ssh_hosts.as_deref(),
            );
            let agent = git.ssh_agent.as_deref().unwrap_or("default");
            set(&mut attrs, "git.mountsshsock", Some(agent));
        }
        let options = options
            .cap("source.git")
            .cap_if(git.keep_git_dir, "source.git.keepgitdir")
            .cap_if(!remote.is_empty(), "source.git.fullurl")
            .cap_if(ssh, "source.git.knownsshhosts")
            .cap_if(ssh, "source.git.mountsshsock")
            .cap_if(!git.checksum.is_empty(), "source.git.checksum")
            .cap_if(git.skip_submodules, "source.git.skipsubmodules")
            .cap_if(!git.mtime.is_empty(), "source.git.mtime")
            .cap_if(git.fetch_by_commit, "source.git.fetchbycommit");
        self.source(format!("git://{id}"), attrs, options)
    }

    /// A file behind a URL, alone in its filesystem.
    pub fn http(&mut self, http: Http, options: VertexOptions) -> State {
        let mut attrs = Attrs::new();
        set(&mut attrs, "http.checksum", http.checksum.as_deref());
        set(&mut attrs, "http.filename", Some(&http.filename));
        set_number(&mut attrs, "http.perm", http.mode, |mode| {
            format!("0{mode:o}")
        });
        set_number(&mut attrs, "http.uid", http.uid, |uid| uid.to_string());
        set_number(&mut attrs, "http.gid", http.gid, |gid| gid.to_string());
        set(
            &mut attrs,
            "http.authheadersecret",
            http.auth_header_secret.as_deref(),
        );
        for (name, value) in &http.headers {
            set(&mut attrs, &format!("http.header.{name}"), Some(value));
        }
        let options = options
            .cap("source.http")
            .cap_if(http.checksum.is_some(), "source.http.checksum")
            .cap_if(http.mode != 0, "source.http.perm")
            .cap_if(http.uid != 0 || http.gid != 0, "soruce.http.uidgid")
            .cap_if(http.auth_header_secret.is_some(), "source.http.auth")
            .cap_if(!http.headers.is_empty(), "source.http.header");
        self.source(http.url, attrs, options)
    }

    /// An image of an OCI layout that a client has; `reference` names it and carries its digest.
    pub fn oci_layout(
        &mut self,
        reference: &str,
        store: &LayoutStore,
        options: VertexOptions,
    ) -> State {
        let mut attrs = Attrs::new();
        set(&mut attrs, "oci.session", Some(&store.session));
        set(&mut attrs, "oci.store", Some(&store.store));
        let limit = store.layer_limit.map(|limit| limit.to_string());
        set(&mut attrs, "oci.layerlimit", limit.as_deref());
        self.source(
            format!("oci-layout://{reference}"),
            attrs,
            options.cap("source.ocilayout"),
        )
    }

    /// One blob of a repository, as a file.
    pub fn image_blob(&mut self, blob: &ImageBlob, options: VertexOptions) -> State {
        let mut attrs = Attrs::new();
        set(&mut attrs, "http.filename", Some(&blob.filename));
        set_number(&mut attrs, "http.perm", blob.mode, |mode| {
            format!("0{mode:o}")
        });
        let id = format!("docker-image+blob://{}", blob.reference);
        self.source(id, attrs, options.cap("source.imageblob"))
    }

    fn source(&mut self, identifier: String, attrs: Attrs, options: VertexOptions) -> State {
        let platform = options.platform.clone();
        let node = self.push(Kind::Source(SourceOp { identifier, attrs }), options);
        let state = State::of(Output { node, index: 0 });
        match platform {
            Some(platform) => state.platform(&platform),
            None => state,
        }
    }
}

/// Same host and path, same identifier: https and ssh remotes of a repository share their cache.
fn git_id(git: &Git, url: Option<&GitUrl>, remote: &str) -> String {
    let Some(url) = url else {
        return remote.to_owned();
    };
    let mut id = format!(
        "{}{}",
        url.host,
        super::file::clean(&format!("/{}", url.path))
    );
    if !git.reference.is_empty() || !git.subdir.is_empty() {
        id = format!("{id}#{}", git.reference);
    }
    if !git.subdir.is_empty() {
        id = format!("{id}:{}", git.subdir);
    }
    id
}

/// JSON as Go writes it: `<`, `>` and `&` are escaped.
fn json_list(list: &[String]) -> String {
    let json = serde_json::to_string(list).expect("strings always have a JSON form");
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

fn set(attrs: &mut Attrs, name: &str, value: Option<&str>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        attrs.insert(name.to_owned(), value.to_owned());
    }
}

fn set_number(attrs: &mut Attrs, name: &str, number: u32, show: impl Fn(u32) -> String) {
    set(attrs, name, (number != 0).then(|| show(number)).as_deref());
}
