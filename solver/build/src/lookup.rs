//! Finds out what a source is before anything of it is used: what an image's reference names, what stands at a git reference or
//! at a URL. It judges nothing.

use std::sync::Arc;

use shipway_model::failure::FailureKind;
use shipway_model::metadata::{GitMeta, GitObjects, HttpMeta, ImageMeta, SourceMeta};
use shipway_model::op::SourceOp;
use shipway_model::policy::{Inquiry, Wish};
use shipway_model::{Failure, ImageRef, Platform};
use shipway_source::Env;
use shipway_source::git::GitRepo;
use shipway_source::http::HttpFile;
use shipway_source::layout::LayoutImage;
use shipway_source::resolve::{Lookup, LookupEnv};

/// Looks sources up for one build.
pub(crate) struct SourceLookup {
    pub(crate) env: Arc<Env>,
    /// The client that answers for credentials and files.
    pub(crate) session: Arc<str>,
}

impl SourceLookup {
    /// What an image's reference names.
    pub(crate) async fn image(
        &self,
        reference: &ImageRef,
        platform: Option<&Platform>,
        lookup: Lookup,
    ) -> Result<ImageMeta, Failure> {
        let env = &self.env;
        let access = env.access(&[Arc::clone(&self.session)]).await;
        let lookup_env = LookupEnv {
            namespace: &env.namespace,
            lease: &env.lease.hold().await?,
            access: &access,
        };
        let platform = platform.unwrap_or(&env.platform);
        let found = env
            .resolver
            .resolve(reference, platform, lookup, &lookup_env);
        let image = found.await?;
        Ok(ImageMeta {
            digest: image.target.digest,
            config: image.config,
        })
    }

    /// What an image of a client's OCI layout is.
    pub(crate) async fn layout_image(
        &self,
        layout: &LayoutImage,
        platform: Option<&Platform>,
    ) -> Result<ImageMeta, Failure> {
        let platform = platform.unwrap_or(&self.env.platform);
        let own = [Arc::clone(&self.session)];
        let (image, _) = layout.resolve(&self.env, &own, platform).await?;
        Ok(ImageMeta {
            digest: image.target.digest,
            config: image.config,
        })
    }

    /// What a policy wants to know.
    pub(crate) async fn inquire(&self, inquiry: &Inquiry) -> Result<SourceMeta, Failure> {
        let platform = inquiry.platform.as_ref();
        let wishes = |wish| inquiry.wishes.contains(&wish);
        let mut image = match inquiry.source.split() {
            Some(("docker-image", rest)) => {
                let reference = rest.parse::<ImageRef>();
                let reference = reference.map_err(|e| Failure::from_error(&e))?;
                let lookup = if wishes(Wish::Pull) {
                    Lookup::Registry
                } else {
                    Lookup::LocalFirst
                };
                self.image(&reference, platform, lookup).await?
            }
            Some(("oci-layout", rest)) => {
                let attr = |name: &str| inquiry.source.attrs.get(name).map_or("", String::as_str);
                let layout = LayoutImage::new(rest, attr("oci.session"), attr("oci.store"))?;
                self.layout_image(&layout, platform).await?
            }
            _ => {
                let objects = wishes(Wish::GitObjects);
                return self.remote(&inquiry.source, objects).await;
            }
        };
        if wishes(Wish::DigestOnly) {
            image.config.clear();
        }
        Ok(SourceMeta::Image(image))
    }

    /// What a source of git or of the web stands for now.
    pub(crate) async fn remote(
        &self,
        source: &SourceOp,
        git_objects: bool,
    ) -> Result<SourceMeta, Failure> {
        let (env, sessions) = (&self.env, [Arc::clone(&self.session)]);
        match source.split() {
            Some(("git", rest)) => {
                let repo = GitRepo::new(rest, &source.attrs)?;
                let (revision, objects) = if git_objects {
                    let found = repo.objects(env, &sessions).await?;
                    let objects = GitObjects {
                        commit: found.commit_object,
                        tag: found.tag_object,
                        committed: found.committed,
                    };
                    (found.revision, Some(objects))
                } else {
                    (repo.resolve(env, &sessions).await?, None)
                };
                Ok(SourceMeta::Git(GitMeta {
                    checksum: revision.checksum,
                    reference: revision.reference,
                    commit_checksum: revision.commit,
                    objects,
                }))
            }
            Some(("http" | "https", _)) => {
                let file = HttpFile::new(&source.identifier, &source.attrs)?;
                let (checksum, filename, modified) = file.meta(env, &sessions).await?;
                let last_modified = modified.map(u64::cast_signed);
                Ok(SourceMeta::Http(HttpMeta {
                    checksum,
                    filename,
                    last_modified,
                }))
            }
            _ => {
                let message = format!("resolving {:?} is not supported", source.identifier);
                Err(Failure::of_kind(FailureKind::Unimplemented, message))
            }
        }
    }
}
