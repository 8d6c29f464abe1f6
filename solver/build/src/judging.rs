//! Judges the sources of a build: first by the rules that it came with, then by its client's own policy, where it has one. What
//! a rule says is decided in `policy`; how a source is looked up in `lookup`.

use std::collections::BTreeMap;
use std::sync::Arc;

use shipway_backend::session::SourcePolicy;
use shipway_model::failure::FailureKind;
use shipway_model::metadata::SourceMeta;
use shipway_model::op::{Op, SourceOp};
use shipway_model::policy::{Inquiry, Policy, Verdict};
use shipway_model::{Definition, Failure, FailureDetail, Platform};
use shipway_source::env::SESSION_PATIENCE;

use crate::lookup::SourceLookup;
use crate::policy::Policies;

/// What a client's policy may say of one source before it is taken to go round in circles; BuildKit's limit.
const ANSWERS: usize = 10;

/// What judges the sources of one build.
pub(crate) struct Judges {
    /// Rules that the build came with.
    pub(crate) rules: Policy,
    /// The session of the client that has a policy of its own.
    pub(crate) client: Option<Arc<str>>,
    pub(crate) lookup: SourceLookup,
}

impl Judges {
    /// Judges a source by these rules as well; gives what it becomes, `None` where it stays.
    pub(crate) async fn judge(
        &self,
        source: &SourceOp,
        platform: Option<&Platform>,
        more: &[Policy],
    ) -> Result<Option<SourceOp>, Failure> {
        let rules = self.rules(more)?;
        match &self.client {
            None => Ok(rules.judge(source)?),
            Some(session) => {
                let client = self
                    .lookup
                    .env
                    .sessions
                    .get(session, SESSION_PATIENCE)
                    .await?;
                self.ask(&rules, &*client.policy(), source, platform).await
            }
        }
    }

    /// Judges every source of a definition; gives the definition with those that were replaced.
    pub(crate) async fn apply(
        &self,
        definition: Definition,
        more: &[Policy],
    ) -> Result<Definition, Failure> {
        let mut replaced = BTreeMap::new();
        for (at, vertex) in definition.vertices.iter().enumerate() {
            if let Op::Source(source) = &vertex.op {
                let judged = self.judge(source, vertex.platform.as_ref(), more).await;
                let prefix = "failed to load LLB: error evaluating the source policy";
                let judged = judged.map_err(|failure| failure.context(prefix))?;
                replaced.extend(judged.map(|other| (at, other)));
            }
        }
        if replaced.is_empty() {
            return Ok(definition);
        }
        Ok(shipway_llb::replace_sources(definition, replaced))
    }

    fn rules(&self, more: &[Policy]) -> Result<Policies, Failure> {
        let own = Some(&self.rules).filter(|policy| !policy.rules.is_empty());
        Ok(Policies::new(own.into_iter().chain(more))?)
    }

    /// Asks the client until it has decided. What it puts in a source's place is judged anew, by the rules and by itself.
    async fn ask(
        &self,
        rules: &Policies,
        client: &dyn SourcePolicy,
        source: &SourceOp,
        platform: Option<&Platform>,
    ) -> Result<Option<SourceOp>, Failure> {
        let mut current = rules.judge(source)?;
        let mut known: Option<SourceMeta> = None;
        for _ in 0..ANSWERS {
            let judged = current.as_ref().unwrap_or(source);
            match client.judge(&named(judged), platform, known.take()).await? {
                Verdict::Allow => return Ok(current),
                Verdict::Deny(reasons) => return Err(denied(judged, reasons)),
                Verdict::Convert(other) => {
                    let again = rules.judge(&other)?;
                    current = Some(again.unwrap_or(other));
                }
                Verdict::Ask(inquiry) => known = Some(self.find_out(judged, inquiry).await?),
            }
        }
        Err(Failure::new("too many policy requests"))
    }

    /// What a policy wants to know: of the source that it judges, and of no other.
    async fn find_out(&self, judged: &SourceOp, inquiry: Inquiry) -> Result<SourceMeta, Failure> {
        let judged = named(judged);
        let refuse = |what: &str| {
            Err(Failure::of_kind(
                FailureKind::InvalidArgument,
                what.to_owned(),
            ))
        };
        if inquiry.source.identifier != judged.identifier {
            return refuse("policy requested different source identifier");
        }
        if inquiry.source.attrs != judged.attrs {
            return refuse("policy requested different source attrs");
        }
        let found = self.lookup.inquire(&inquiry).await;
        let prefix = "error resolving source metadata from policy request";
        found.map_err(|failure| failure.context(prefix))
    }
}

/// A source by its full name: policies are written for those.
fn named(source: &SourceOp) -> SourceOp {
    crate::policy::normalized(source)
}

fn denied(source: &SourceOp, reasons: Vec<String>) -> Failure {
    let message = format!(
        "source {:?} not allowed by policy: action DENY",
        named(source).identifier
    );
    let failure = Failure::of_kind(FailureKind::PermissionDenied, message);
    if reasons.is_empty() {
        return failure;
    }
    failure.with(FailureDetail::Denied(reasons))
}
