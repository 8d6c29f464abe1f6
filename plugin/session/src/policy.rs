//! A client's own judgement of sources, over the wire. It decides which wishes of a policy are refused, and nothing of what is
//! done with a verdict.

use async_trait::async_trait;
use shipway_backend::session::SourcePolicy;
use shipway_backend::{BackendError, ErrorKind};
use shipway_model::Platform;
use shipway_model::metadata::SourceMeta;
use shipway_model::op::SourceOp;
use shipway_model::policy::{Inquiry, Verdict, Wish};
use shipway_proto::gateway::{
    ResolveSourceGitResponse, ResolveSourceHttpResponse, ResolveSourceImageResponse,
    ResolveSourceMetaRequest, ResolveSourceMetaResponse,
};
use shipway_proto::pb;
use shipway_proto::sourcepolicy::PolicyAction;
use shipway_proto::sourcepolicy::policysession::check_policy_response::Result as Answer;
use shipway_proto::sourcepolicy::policysession::policy_verifier_client::PolicyVerifierClient;
use shipway_proto::sourcepolicy::policysession::{CheckPolicyRequest, DecisionResponse};

use crate::channel::origin;
use crate::client::Client;

#[async_trait]
impl SourcePolicy for Client {
    async fn judge(
        &self,
        source: &SourceOp,
        platform: Option<&Platform>,
        known: Option<SourceMeta>,
    ) -> Result<Verdict, BackendError> {
        let attempt = format!("judging {} by the client's policy", source.identifier);
        let wire = pb::SourceOp {
            identifier: source.identifier.clone(),
            attrs: source.attrs.clone(),
        };
        let request = CheckPolicyRequest {
            platform: platform.cloned().map(to_wire),
            source: Some(source_meta(wire, known)),
            ..Default::default()
        };
        let mut client = PolicyVerifierClient::with_origin(self.channel(), origin());
        // A request holds much that most sources have nothing for.
        let call = Box::pin(client.check_policy(request));
        let answer = self.ask(&attempt, call).await?;
        let verdict = match answer.result {
            Some(Answer::Decision(decision)) => verdict(decision),
            Some(Answer::Request(request)) => inquiry(request).map(Verdict::Ask),
            None => Err("no decision in policy response"),
        };
        verdict.map_err(|why| BackendError::caused(ErrorKind::Unsupported, attempt, why))
    }
}

/// What a decision says. One that says neither yes nor no says no.
fn verdict(decision: DecisionResponse) -> Result<Verdict, &'static str> {
    Ok(match decision.action() {
        PolicyAction::Allow => Verdict::Allow,
        PolicyAction::Deny => {
            let messages = decision.deny_messages.into_iter();
            Verdict::Deny(messages.map(|message| message.message).collect())
        }
        PolicyAction::Convert => {
            let update = decision.update;
            let update = update.ok_or("convert action requires updated source")?;
            Verdict::Convert(SourceOp {
                identifier: update.identifier,
                attrs: update.attrs,
            })
        }
    })
}

fn inquiry(request: ResolveSourceMetaRequest) -> Result<Inquiry, &'static str> {
    let image = request.image.unwrap_or_default();
    if image.attestation_chain || !image.resolve_attestations.is_empty() {
        return Err("a policy cannot ask for an image's attestations: that is not supported");
    }
    if request
        .http
        .is_some_and(|http| http.checksum_request.is_some())
    {
        return Err(
            "a policy cannot ask for a further checksum of a download: that is not supported",
        );
    }
    let source = request.source.ok_or("a policy asks about no source")?;
    let git_objects = request.git.is_some_and(|git| git.return_object);
    let wishes = [
        (request.resolve_mode == "pull").then_some(Wish::Pull),
        image.no_config.then_some(Wish::DigestOnly),
        git_objects.then_some(Wish::GitObjects),
    ];
    Ok(Inquiry {
        source: SourceOp {
            identifier: source.identifier,
            attrs: source.attrs,
        },
        platform: request.platform.map(from_wire),
        wishes: wishes.into_iter().flatten().collect(),
    })
}

fn to_wire(platform: Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture,
        os: platform.os,
        os_version: platform.os_version,
        os_features: platform.os_features,
        variant: platform.variant,
    }
}

fn from_wire(platform: pb::Platform) -> Platform {
    Platform {
        architecture: platform.architecture,
        os: platform.os,
        os_version: platform.os_version,
        os_features: platform.os_features,
        variant: platform.variant,
    }
}

/// A source with what is known of it, as BuildKit tells it.
#[must_use]
pub fn source_meta(source: pb::SourceOp, known: Option<SourceMeta>) -> ResolveSourceMetaResponse {
    let mut response = ResolveSourceMetaResponse {
        source: Some(source),
        ..Default::default()
    };
    match known {
        None => {}
        Some(SourceMeta::Image(image)) => {
            response.image = Some(ResolveSourceImageResponse {
                digest: image.digest.to_string(),
                config: image.config,
                attestation_chain: None,
            });
        }
        Some(SourceMeta::Git(git)) => {
            let objects = git.objects.unwrap_or_default();
            response.git = Some(ResolveSourceGitResponse {
                checksum: git.checksum,
                r#ref: git.reference,
                commit_checksum: git.commit_checksum.unwrap_or_default(),
                commit_object: objects.commit.into_bytes().into(),
                tag_object: objects.tag.unwrap_or_default().into_bytes().into(),
            });
        }
        Some(SourceMeta::Http(http)) => {
            let last_modified = http
                .last_modified
                .map(|seconds| shipway_proto::Timestamp { seconds, nanos: 0 });
            response.http = Some(ResolveSourceHttpResponse {
                checksum: http.checksum.to_string(),
                filename: http.filename,
                last_modified,
                checksum_response: None,
            });
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use shipway_proto::gateway::ResolveSourceImageRequest;
    use shipway_proto::sourcepolicy::policysession::DenyMessage;

    use super::*;

    #[test]
    fn decisions_are_read_and_a_conversion_names_what_to() {
        let decision = |action: PolicyAction| DecisionResponse {
            action: action.into(),
            deny_messages: vec![DenyMessage {
                message: "no".into(),
            }],
            update: None,
        };
        assert_eq!(verdict(decision(PolicyAction::Allow)), Ok(Verdict::Allow));
        let denied = Verdict::Deny(vec!["no".into()]);
        assert_eq!(verdict(decision(PolicyAction::Deny)), Ok(denied));
        assert!(verdict(decision(PolicyAction::Convert)).is_err());
        let to = DecisionResponse {
            update: Some(pb::SourceOp {
                identifier: "docker-image://b".into(),
                ..Default::default()
            }),
            ..decision(PolicyAction::Convert)
        };
        let source = SourceOp {
            identifier: "docker-image://b".into(),
            ..Default::default()
        };
        assert_eq!(verdict(to), Ok(Verdict::Convert(source)));
    }

    #[test]
    fn what_cannot_be_found_out_is_refused() {
        let asks = |chain: bool| ResolveSourceMetaRequest {
            source: Some(pb::SourceOp::default()),
            resolve_mode: "pull".into(),
            image: Some(ResolveSourceImageRequest {
                no_config: true,
                attestation_chain: chain,
                ..Default::default()
            }),
            ..Default::default()
        };
        let understood = inquiry(asks(false)).unwrap();
        assert_eq!(understood.wishes, [Wish::Pull, Wish::DigestOnly]);
        assert!(inquiry(asks(true)).unwrap_err().contains("attestations"));
    }
}
