//! Scans of what a Dockerfile makes: each platform's result, and the stages and context that it asks to be scanned too. The
//! scanner runs as a step of the build; nothing has run when this returns.

use std::collections::BTreeMap;

use shipway_attest::sbom::{Scanner, bundle};
use shipway_attest::{Attestations, SbomOptions};
use shipway_dockerfile::Lowered;
use shipway_model::failure::FailureKind;
use shipway_model::{Failure, Platform};

use crate::result::Attestation;
use crate::{Bridge, ResolveMode, ResolveRequest, SolveOptions};

/// The scanner that a request names; `None` where it wants none.
pub(super) async fn scanner(
    bridge: &dyn Bridge,
    options: &BTreeMap<String, String>,
    platform: &Platform,
) -> Result<Option<Scanner>, Failure> {
    let wanted = Attestations::parse(options)
        .map_err(|e| Failure::of_kind(FailureKind::InvalidArgument, e.to_string()))?;
    let Some(sbom) = wanted.sbom else {
        return Ok(None);
    };
    let mode = options.get("image-resolve-mode").map(String::as_str);
    look_up(bridge, &sbom, mode, platform).await.map(Some)
}

/// Looks a scanner's image up.
pub async fn look_up(
    bridge: &dyn Bridge,
    sbom: &SbomOptions,
    mode: Option<&str>,
    platform: &Platform,
) -> Result<Scanner, Failure> {
    let found = bridge.resolve_image(ResolveRequest {
        reference: sbom.generator.clone(),
        platform: Some(platform.clone()),
        mode: match mode {
            Some("pull") => ResolveMode::ForcePull,
            Some("local") => ResolveMode::PreferLocal,
            _ => ResolveMode::Default,
        },
        ..ResolveRequest::default()
    });
    let found = found.await?;
    Scanner::new(&found.reference, &found.config, platform, &sbom.parameters)
}

/// The SBOM of one platform's result.
pub(super) async fn scan(
    bridge: &dyn Bridge,
    scanner: &Scanner,
    name: &str,
    lowered: &Lowered,
) -> Result<Attestation, Failure> {
    let extras = lowered.scan.iter().cloned().collect();
    let scan = scanner.scan(name, &lowered.definition, &extras, lowered.ignore_cache);
    let scan = scan.map_err(|e| Failure::from_error(&e).context("scanning a result"))?;
    let content = bridge.solve(scan, SolveOptions::default()).await?;
    Ok(Attestation {
        head: bundle(),
        content,
    })
}
