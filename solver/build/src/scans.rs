//! SBOMs that no frontend has made: each result is scanned by the image that the request names.

use std::collections::BTreeMap;
use std::sync::Arc;

use shipway_attest::SbomOptions;
use shipway_attest::sbom::{bundle, is_sbom};
use shipway_frontend::dockerfile::sbom::look_up;
use shipway_frontend::{Attestation, FrontendResult, Ref, Refs};
use shipway_model::Failure;

use crate::job::Build;
use crate::scope::Scope;
use crate::scoped::Scoped;

impl Build {
    /// Adds an SBOM of each result, unless there is one already.
    pub(crate) async fn scan(
        self: &Arc<Self>,
        sbom: &SbomOptions,
        result: &mut FrontendResult,
    ) -> Result<(), Failure> {
        let mut said = result.attestations.values().flatten();
        if said.any(|attestation| is_sbom(&attestation.head)) {
            return Ok(());
        }
        // A scanner is no part of what the result was made from: its solves are nobody's.
        let scope = Scope::root();
        let bridge = Scoped::new(Arc::clone(self), Arc::clone(&scope));
        let options = &self.question().options;
        let mode = options.get("image-resolve-mode").map(String::as_str);
        let platform = &self.parts.settings.platform;
        let scanner = look_up(&bridge, sbom, mode, platform).await?;
        let ignore_cache = options.get("no-cache").is_some_and(String::is_empty);
        for (key, of) in self.keyed(result) {
            let scan = scanner.scan(&key, &of.definition, &BTreeMap::new(), ignore_cache);
            let scan = scan.map_err(|e| Failure::from_error(&e).context("scanning a result"))?;
            let attestation = Attestation {
                head: bundle(),
                content: self.add_ref(scan, &scope)?,
            };
            result
                .attestations
                .entry(key)
                .or_default()
                .push(attestation);
        }
        Ok(())
    }

    /// Results with files, by the keys of their platforms.
    pub(crate) fn keyed(&self, result: &FrontendResult) -> Vec<(String, Ref)> {
        match &result.refs {
            Refs::Single(of) => {
                let platforms = result.platforms().unwrap_or_default().platforms;
                let key = platforms.first().map(|platform| platform.id.clone());
                let key = key.unwrap_or_else(|| self.platform_of(result).key());
                of.iter().map(|of| (key.clone(), of.clone())).collect()
            }
            Refs::Map(map) => {
                let full = map
                    .iter()
                    .filter_map(|(key, of)| Some((key.clone(), of.clone()?)));
                full.collect()
            }
        }
    }
}
