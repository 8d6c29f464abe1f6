//! What a result was made from: sources with what they turned out to be, secrets and agents by name, whether a step had a
//! network. Gathered from definitions; several captures merge into one.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shipway_model::op::{MountKind, NetMode, Op, Pin, SourceOp};
use shipway_model::{Definition, Digest, ImageRef, Platform};

use crate::purl;
use crate::url::{GitContext, redacted};

/// What a result was made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "two facts that do not depend on each other"
)]
pub struct Capture {
    /// Images.
    pub images: Vec<ImageSource>,
    /// Git repositories: URL with reference, and commit.
    pub git: Vec<(String, String)>,
    /// Files of the web: URL and digest.
    pub http: Vec<(String, Digest)>,
    /// Names of the client's directories.
    pub locals: Vec<String>,
    /// Ids of secrets, with whether all could do without.
    pub secrets: BTreeMap<String, bool>,
    /// Ids of ssh agents, likewise.
    pub ssh: BTreeMap<String, bool>,
    /// A step could reach the network.
    pub network: bool,
    /// Something could not be captured.
    pub incomplete: bool,
}

/// An image that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// Reference.
    pub reference: ImageRef,
    /// Platform that was asked for.
    pub platform: Option<Platform>,
    /// What the reference named.
    pub digest: Option<Digest>,
    /// It is from a layout of the client's.
    pub local: bool,
}

/// Captures a definition; `pins` are what its sources turned out to be.
#[must_use]
pub fn capture(definition: &Definition, pins: &BTreeMap<Digest, Pin>) -> Capture {
    let mut capture = Capture::default();
    for index in definition.reachable() {
        let vertex = &definition.vertices[index];
        match &vertex.op {
            Op::Source(source) => {
                let pin = pins.get(&vertex.digest);
                capture.source(source, vertex.platform.as_ref(), pin);
            }
            Op::Exec(exec) => {
                capture.network |= exec.network != NetMode::None;
                for mount in &exec.mounts {
                    match &mount.kind {
                        MountKind::Secret(secret) => {
                            need(&mut capture.secrets, &secret.id, secret.optional);
                        }
                        MountKind::Ssh(agent) => {
                            need(&mut capture.ssh, agent_id(&agent.id), agent.optional);
                        }
                        MountKind::Bind | MountKind::Cache { .. } | MountKind::Tmpfs { .. } => {}
                    }
                }
                for secret in &exec.secret_env {
                    need(&mut capture.secrets, &secret.id, secret.optional);
                }
            }
            // What a nested build has used is not known here.
            Op::Build(_) => capture.incomplete = true,
            Op::File(_) | Op::Merge(_) | Op::Diff(_) | Op::Passthrough(_) => {}
        }
    }
    capture
}

fn need(needs: &mut BTreeMap<String, bool>, id: &str, optional: bool) {
    let all = needs.entry(id.to_owned()).or_insert(true);
    *all &= optional;
}

fn agent_id(id: &str) -> &str {
    if id.is_empty() { "default" } else { id }
}

impl Capture {
    fn source(&mut self, source: &SourceOp, platform: Option<&Platform>, pin: Option<&Pin>) {
        let digest = match pin {
            Some(Pin::Digest(digest)) => Some(*digest),
            Some(Pin::Commit(_)) | None => None,
        };
        match source.split() {
            Some((kind @ ("docker-image" | "oci-layout"), rest)) => {
                let Ok(reference) = rest.parse::<ImageRef>() else {
                    self.incomplete = true;
                    return;
                };
                self.add_image(ImageSource {
                    digest: digest.or(reference.digest),
                    reference,
                    platform: platform.cloned(),
                    local: kind == "oci-layout",
                });
            }
            Some(("git", rest)) => self.git_source(source, rest, pin),
            Some(("http" | "https", _)) => match digest {
                Some(digest) => self.add_http(&source.identifier, digest),
                None => self.incomplete = true,
            },
            Some(("local", name)) => self.add_local(name),
            _ => self.incomplete = true,
        }
    }

    fn git_source(&mut self, source: &SourceOp, rest: &str, pin: Option<&Pin>) {
        let attr = |name: &str| source.attrs.get(name).map_or("", String::as_str);
        let secrets = [attr("git.authtokensecret"), attr("git.authheadersecret")];
        for secret in secrets.into_iter().filter(|id| !id.is_empty()) {
            need(&mut self.secrets, secret, true);
        }
        let agent = attr("git.mountsshsock");
        if !agent.is_empty() {
            need(&mut self.ssh, agent, true);
        }
        let Some(Pin::Commit(commit)) = pin else {
            self.incomplete = true;
            return;
        };
        let (address, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let reference = fragment.split(':').next().unwrap_or_default();
        let remote = match attr("git.fullurl") {
            "" => format!("https://{address}"),
            full => full.to_owned(),
        };
        let url = if reference.is_empty() {
            remote
        } else {
            format!("{remote}#{reference}")
        };
        self.add_git(&url, commit);
    }

    /// Adds an image, unless it is there for the same platform.
    pub fn add_image(&mut self, image: ImageSource) {
        let normal = |of: &ImageSource| of.platform.as_ref().map(Platform::normalized);
        let same = |known: &ImageSource| {
            (&known.reference, known.local) == (&image.reference, image.local)
                && normal(known) == normal(&image)
        };
        if !self.images.iter().any(same) {
            self.images.push(image);
        }
    }

    fn add_git(&mut self, url: &str, commit: &str) {
        let url = redacted(url);
        if !self.git.iter().any(|(known, _)| *known == url) {
            self.git.push((url, commit.to_owned()));
        }
    }

    fn add_http(&mut self, url: &str, digest: Digest) {
        let url = redacted(url);
        if !self.http.iter().any(|(known, _)| *known == url) {
            self.http.push((url, digest));
        }
    }

    fn add_local(&mut self, name: &str) {
        if !self.locals.iter().any(|known| known == name) {
            self.locals.push(name.to_owned());
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: Self) {
        for image in other.images {
            self.add_image(image);
        }
        for (url, commit) in other.git {
            self.add_git(&url, &commit);
        }
        for (url, digest) in other.http {
            self.add_http(&url, digest);
        }
        for name in other.locals {
            self.add_local(&name);
        }
        for (id, optional) in other.secrets {
            need(&mut self.secrets, &id, optional);
        }
        for (id, optional) in other.ssh {
            need(&mut self.ssh, &id, optional);
        }
        self.network |= other.network;
        self.incomplete |= other.incomplete;
    }

    /// Leaves out images named by digest that are there by tag too, and sorts everything.
    pub fn finish(&mut self) {
        let tagged: Vec<(String, Option<String>)> = self
            .images
            .iter()
            .filter(|image| image.reference.digest.is_none())
            .map(|image| by_tag(&image.reference))
            .collect();
        self.images.retain(|image| {
            image.reference.digest.is_none() || !tagged.contains(&by_tag(&image.reference))
        });
        self.images.sort_by_key(|image| image.reference.to_string());
        self.git.sort();
        self.http.sort();
        self.locals.sort();
    }

    /// The materials: URIs with digests.
    #[must_use]
    pub fn materials(&self) -> Vec<Value> {
        let images = self.images.iter().map(|image| {
            let kind = if image.local { "oci" } else { "docker" };
            let uri = purl::image(kind, &image.reference, image.platform.as_ref());
            match image.digest {
                Some(digest) => json!({"uri": uri, "digest": sha256(&digest)}),
                None => json!({ "uri": uri }),
            }
        });
        let git = self.git.iter();
        let git = git.map(|(url, commit)| json!({"uri": url, "digest": commit_digest(commit)}));
        let http = self.http.iter();
        let http = http.map(|(url, digest)| json!({"uri": url, "digest": sha256(digest)}));
        images.chain(git).chain(http).collect()
    }

    /// The material that a context is, as the place where the build's own description comes from.
    #[must_use]
    pub(crate) fn config_source(&self, context: &str) -> (String, Option<Value>) {
        let git = GitContext::parse(context);
        let wanted = redacted(
            &git.as_ref()
                .map_or_else(|| context.to_owned(), |g| g.text(false)),
        );
        if let Some((_, commit)) = self.git.iter().find(|(url, _)| *url == wanted) {
            let uri = git.map_or_else(|| context.to_owned(), |git| git.text(true));
            return (redacted(&uri), Some(commit_digest(commit)));
        }
        if let Some((url, digest)) = self.http.iter().find(|(url, _)| *url == wanted) {
            return (url.clone(), Some(sha256(digest)));
        }
        (redacted(context), None)
    }
}

fn by_tag(reference: &ImageRef) -> (String, Option<String>) {
    let tag = reference.tag.clone();
    (reference.name(), tag.or_else(|| Some("latest".to_owned())))
}

fn sha256(digest: &Digest) -> Value {
    json!({"sha256": digest.hex()})
}

fn commit_digest(commit: &str) -> Value {
    if commit.len() == 64 {
        json!({ "sha256": commit })
    } else {
        json!({ "sha1": commit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(reference: &str) -> ImageSource {
        ImageSource {
            reference: reference.parse().unwrap(),
            platform: None,
            digest: None,
            local: false,
        }
    }

    #[test]
    fn a_pinned_image_is_dropped_beside_its_tag() {
        let digest = Digest::of("x");
        let mut capture = Capture::default();
        for reference in [
            format!("busybox:latest@{digest}"),
            "busybox".to_owned(),
            format!("alpine@{digest}"),
        ] {
            capture.add_image(image(&reference));
        }
        capture.add_image(image("busybox"));
        capture.finish();
        let names: Vec<String> = capture
            .images
            .iter()
            .map(|i| i.reference.familiar())
            .collect();
        assert_eq!(names, [format!("alpine@{digest}"), "busybox:latest".into()]);
    }

    #[test]
    fn a_git_source_is_its_url_and_commit() {
        let mut capture = Capture::default();
        let source = SourceOp {
            identifier: "git://h/a.git#v1:s".into(),
            attrs: [
                ("git.fullurl", "http://u:p@h/a.git"),
                ("git.authtokensecret", "T"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        };
        let commit = "a".repeat(40);
        capture.source(&source, None, Some(&Pin::Commit(commit.clone())));
        let url = "http://xxxxx:xxxxx@h/a.git#v1";
        assert_eq!(capture.git, [(url.to_owned(), commit)]);
        assert_eq!(capture.secrets, [("T".to_owned(), true)].into());
        let (uri, digest) = capture.config_source("http://u:p@h/a.git#v1:s");
        assert_eq!(uri, "http://xxxxx:xxxxx@h/a.git#v1:s");
        assert!(digest.is_some());
        assert_eq!(capture.config_source("http://h/x").1, None);
    }

    #[test]
    fn a_secret_that_one_step_needs_is_not_optional() {
        let mut capture = Capture::default();
        need(&mut capture.secrets, "s", true);
        let mut other = Capture::default();
        need(&mut other.secrets, "s", false);
        capture.merge(other);
        assert_eq!(capture.secrets, [("s".to_owned(), false)].into());
    }
}
