//! Which attestations a request wants: `attest:TYPE=ATTRS` options, or the older `build-arg:BUILDKIT_ATTEST_TYPE`; attributes
//! are CSV of `key=value`.

use std::collections::BTreeMap;

/// Scanner that is run where none is named.
pub const DEFAULT_SCANNER: &str = "docker/buildkit-syft-scanner:stable-1";

/// What a request wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attestations {
    /// Where the result comes from.
    pub provenance: Option<ProvenanceOptions>,
    /// What is in it.
    pub sbom: Option<SbomOptions>,
}

/// How provenance is made.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an attribute of its own"
)]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProvenanceOptions {
    /// Version of SLSA's provenance.
    pub version: Slsa,
    /// With build steps, layers, source, arguments and secrets' names.
    pub max: bool,
    /// Only inside of images, not as a file, and no reason for an index where the exporter says so.
    pub inline_only: bool,
    /// Identity of the builder.
    pub builder_id: String,
    /// Claimed by the user.
    pub reproducible: bool,
    /// The build fails where a material is not known.
    pub complete_materials: bool,
    /// With what each step has used of the machine, where steps are told at all.
    pub usage: bool,
    /// Name of the file; `provenance.json` where empty.
    pub filename: String,
}

/// How an SBOM is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SbomOptions {
    /// Image of the scanner.
    pub generator: String,
    /// Its parameters: each becomes a variable `BUILDKIT_SCAN_NAME`.
    pub parameters: BTreeMap<String, String>,
}

/// Version of SLSA's provenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Slsa {
    /// v1.
    #[default]
    V1,
    /// v0.2.
    V02,
}

/// Why a wish is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAttestation {
    /// Nobody makes it.
    #[error("unknown attestation type {0:?}")]
    Type(String),
    /// Neither v1 nor v0.2.
    #[error("invalid provenance SLSA version: {0}")]
    Version(String),
    /// Neither min nor max.
    #[error("invalid mode {0:?}")]
    Mode(String),
    /// Not a truth value.
    #[error("failed to parse {0} flag {1:?}")]
    Flag(&'static str, String),
    /// No scanner.
    #[error("sbom generator cannot be empty")]
    Generator,
}

impl Attestations {
    /// Reads a request's options.
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self, InvalidAttestation> {
        let mut wanted = Self::default();
        for (key, value) in options {
            let kind = key
                .strip_prefix("attest:")
                .or_else(|| key.strip_prefix("build-arg:BUILDKIT_ATTEST_"));
            let Some(kind) = kind.map(str::to_lowercase) else {
                continue;
            };
            let attrs = attributes(value);
            let known = matches!(kind.as_str(), "provenance" | "sbom");
            // What clients leave out themselves may as well be said.
            let disabled = attrs.get("disabled").is_some_and(|value| value == "true");
            match kind.as_str() {
                _ if known && disabled => {}
                "provenance" => wanted.provenance = Some(provenance(&attrs)?),
                "sbom" => wanted.sbom = Some(sbom(attrs)?),
                _ => return Err(InvalidAttestation::Type(kind)),
            }
        }
        Ok(wanted)
    }
}

/// Fields of a CSV line; quotes hold commas together.
fn attributes(text: &str) -> BTreeMap<String, String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields.last_mut().expect("there is a field").push(c),
        }
    }
    let split = |field: &String| match field.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (field.clone(), String::new()),
    };
    let given = fields.iter().filter(|field| !field.is_empty());
    given.map(split).collect()
}

fn flag(attrs: &BTreeMap<String, String>, name: &'static str) -> Result<bool, InvalidAttestation> {
    match attrs.get(name).map(String::as_str) {
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some(other) => Err(InvalidAttestation::Flag(name, other.to_owned())),
    }
}

fn provenance(attrs: &BTreeMap<String, String>) -> Result<ProvenanceOptions, InvalidAttestation> {
    let text = |name: &str| attrs.get(name).cloned().unwrap_or_default();
    let version = match attrs.get("version").map(String::as_str) {
        None | Some("v1") => Slsa::V1,
        Some("v0.2") => Slsa::V02,
        Some(other) => return Err(InvalidAttestation::Version(other.to_owned())),
    };
    let max = match attrs.get("mode").map(String::as_str) {
        None | Some("max" | "full") => true,
        Some("min") => false,
        Some(other) => return Err(InvalidAttestation::Mode(other.to_owned())),
    };
    Ok(ProvenanceOptions {
        version,
        max,
        // Upstream takes what it can't read for false here.
        inline_only: flag(attrs, "inline-only").unwrap_or(false),
        builder_id: text("builder-id"),
        reproducible: flag(attrs, "reproducible")?,
        complete_materials: flag(attrs, "complete-materials")?,
        usage: flag(attrs, "capture-usage").unwrap_or(false),
        filename: text("filename"),
    })
}

fn sbom(mut attrs: BTreeMap<String, String>) -> Result<SbomOptions, InvalidAttestation> {
    let generator = attrs.remove("generator");
    let generator = generator.unwrap_or_else(|| DEFAULT_SCANNER.to_owned());
    if generator.is_empty() {
        return Err(InvalidAttestation::Generator);
    }
    attrs.remove("disabled");
    Ok(SbomOptions {
        generator,
        parameters: attrs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Attestations, InvalidAttestation> {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Attestations::parse(&options)
    }

    #[test]
    fn attributes_of_provenance() {
        let wanted = parse(&[(
            "attest:provenance",
            "mode=min,inline-only=true,version=v0.2",
        )]);
        let provenance = wanted.unwrap().provenance.unwrap();
        assert_eq!(provenance.version, Slsa::V02);
        assert!(!provenance.max && provenance.inline_only);
        let plain = parse(&[("build-arg:BUILDKIT_ATTEST_PROVENANCE", "")]).unwrap();
        assert!(plain.provenance.unwrap().max);
        assert_eq!(
            parse(&[("attest:provenance", "disabled=true")])
                .unwrap()
                .provenance,
            None
        );
    }

    #[test]
    fn attributes_of_an_sbom() {
        let wanted = parse(&[("attest:sbom", "generator=a/b,\"SELECT=x,y\"")]).unwrap();
        let sbom = wanted.sbom.unwrap();
        assert_eq!(sbom.generator, "a/b");
        assert_eq!(sbom.parameters["SELECT"], "x,y");
        assert_eq!(
            parse(&[("attest:sbom", "")])
                .unwrap()
                .sbom
                .unwrap()
                .generator,
            DEFAULT_SCANNER
        );
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (options, why) in [
            (("attest:x", ""), "unknown attestation type \"x\""),
            (
                ("attest:provenance", "version=v9"),
                "invalid provenance SLSA version: v9",
            ),
            (("attest:provenance", "mode=big"), "invalid mode \"big\""),
            (
                ("attest:sbom", "generator="),
                "sbom generator cannot be empty",
            ),
        ] {
            assert_eq!(parse(&[options]).unwrap_err().to_string(), why);
        }
    }
}
