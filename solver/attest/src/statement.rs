//! In-toto statements: what an attestation is before its content is known, the content of a bundle taken apart, and the
//! statement about a result. What a frontend may not claim is refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use shipway_model::{Digest, Failure};

use crate::predicate::SLSA_PREFIX;

/// `_type` of a statement.
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// `predicateType` of an SPDX document.
pub const SPDX: &str = "https://spdx.dev/Document";
/// Metadata: why an attestation was made.
pub const REASON: &str = "reason";
/// Metadata: it is for inside of images only.
pub const INLINE_ONLY: &str = "inline-only";
/// Metadata: name of the SBOM of the result itself, less its extensions.
pub const SBOM_CORE: &str = "sbom-core";

/// How an attestation's content is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// A predicate in a file.
    #[default]
    InToto,
    /// A directory of whole statements.
    Bundle,
}

/// An attestation, less its content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// How the content is given.
    pub kind: Kind,
    /// Reason, and others.
    pub metadata: BTreeMap<String, Bytes>,
    /// Path in the content, and name of the file that it becomes.
    pub path: String,
    /// `predicateType`; of a bundle what each of its statements must have, where it is not empty.
    pub predicate_type: String,
    /// What it is about; the result itself where there is none.
    pub subjects: Vec<Subject>,
}

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What kind.
    pub kind: SubjectKind,
    /// Name; empty for none.
    pub name: String,
    /// Digests by algorithm.
    pub digest: BTreeMap<String, String>,
}

/// What kind of thing a subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectKind {
    /// The result.
    Own,
    /// Something that is named with its digest.
    Raw,
}

impl Head {
    /// True where it is for inside of images only.
    #[must_use]
    pub fn is_inline_only(&self) -> bool {
        self.metadata.get(INLINE_ONLY).is_some_and(|v| v == "true")
    }

    /// True for the SBOM of the result itself.
    #[must_use]
    pub fn is_core_sbom(&self) -> bool {
        let file = self.path.rsplit('/').next().unwrap_or_default();
        let name = file.split('.').next().unwrap_or_default();
        let core = self.metadata.get(SBOM_CORE);
        self.kind == Kind::InToto && core.is_some_and(|core| core == name)
    }

    /// Refuses what cannot be used, and provenance that the daemon did not make itself.
    pub fn check(&self, ours: bool) -> Result<(), Failure> {
        if self.kind == Kind::InToto && self.path.is_empty() {
            return Err(Failure::new("attestation does not have set path"));
        }
        let provenance = self.predicate_type.starts_with(SLSA_PREFIX);
        if self.kind == Kind::InToto && provenance && !ours {
            return Err(Failure::new("frontend may not set provenance attestations"));
        }
        Ok(())
    }

    /// One file of this bundle: the attestation that its statement is, and the predicate.
    pub fn unbundle(&self, name: &str, content: &[u8]) -> Result<(Self, Bytes), Failure> {
        let statement: Value = serde_json::from_slice(content)
            .map_err(|e| Failure::from_error(&e).context("cannot decode in-toto statement"))?;
        let kind = statement["predicateType"].as_str().unwrap_or_default();
        if !self.predicate_type.is_empty() && kind != self.predicate_type {
            return Err(Failure::new(format!(
                "bundle entry {kind} does not match required predicate type {}",
                self.predicate_type
            )));
        }
        if kind.starts_with(SLSA_PREFIX) {
            return Err(Failure::new(
                "frontend may not bundle provenance attestations",
            ));
        }
        let head = Self {
            kind: Kind::InToto,
            metadata: self.metadata.clone(),
            path: join(&self.path, name),
            predicate_type: kind.to_owned(),
            subjects: subjects(&statement),
        };
        let predicate = serde_json::to_vec(&statement["predicate"])
            .map_err(|e| Failure::from_error(&e).context("reading a predicate"))?;
        Ok((head, predicate.into()))
    }

    /// The statement with this predicate about results of these names and digests.
    pub fn statement(
        &self,
        predicate: &[u8],
        result: &[(String, Digest)],
    ) -> Result<Value, Failure> {
        let predicate: Value = if predicate.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(predicate)
                .map_err(|e| Failure::from_error(&e).context("reading an attestation"))?
        };
        let itself = Subject {
            kind: SubjectKind::Own,
            name: String::new(),
            digest: BTreeMap::new(),
        };
        let about = if self.subjects.is_empty() {
            std::slice::from_ref(&itself)
        } else {
            &self.subjects
        };
        let mut subjects = Vec::new();
        for subject in about {
            let named = (!subject.name.is_empty()).then_some(&subject.name);
            match subject.kind {
                SubjectKind::Raw => {
                    let name = named.map_or("_", String::as_str);
                    subjects.push(json!({"name": name, "digest": subject.digest}));
                }
                SubjectKind::Own => {
                    for (name, digest) in result {
                        for name in std::iter::once(name).chain(named) {
                            let digest = json!({"sha256": digest.hex()});
                            subjects.push(json!({"name": name, "digest": digest}));
                        }
                    }
                }
            }
        }
        Ok(json!({
            "_type": STATEMENT,
            "predicateType": self.predicate_type,
            "subject": subjects,
            "predicate": predicate,
        }))
    }
}

fn join(dir: &str, name: &str) -> String {
    match dir.trim_matches('/') {
        "" | "." => name.to_owned(),
        dir => format!("{dir}/{name}"),
    }
}

fn subjects(statement: &Value) -> Vec<Subject> {
    let listed = statement["subject"].as_array().into_iter().flatten();
    let subject = |json: &Value| Subject {
        kind: SubjectKind::Raw,
        name: json["name"].as_str().unwrap_or_default().to_owned(),
        digest: serde_json::from_value(json["digest"].clone()).unwrap_or_default(),
    };
    listed.map(subject).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> Head {
        Head {
            kind: Kind::Bundle,
            predicate_type: SPDX.into(),
            metadata: [(SBOM_CORE.to_owned(), Bytes::from_static(b"sbom"))].into(),
            ..Head::default()
        }
    }

    #[test]
    fn a_bundle_is_taken_apart() {
        let content = json!({"predicateType": SPDX, "predicate": {"name": "x"}}).to_string();
        let (head, predicate) = bundle()
            .unbundle("sbom.spdx.json", content.as_bytes())
            .unwrap();
        assert!(head.is_core_sbom());
        assert_eq!(predicate, r#"{"name":"x"}"#);
        let (head, _) = bundle().unbundle("other.json", content.as_bytes()).unwrap();
        assert!(!head.is_core_sbom());
        let other = json!({"predicateType": "y"}).to_string();
        assert!(bundle().unbundle("a", other.as_bytes()).is_err());
        assert!(bundle().unbundle("a", b"not json").is_err());
    }

    #[test]
    fn a_statement_is_about_the_result_or_what_it_names() {
        let digest = Digest::of("d");
        let own = Head {
            path: "p".into(),
            ..Head::default()
        };
        let about = [("pkg:x".to_owned(), digest)];
        let statement = own.statement(b"{}", &about).unwrap();
        assert_eq!(statement["subject"][0]["name"], "pkg:x");
        assert_eq!(statement["subject"][0]["digest"]["sha256"], digest.hex());
        let raw = Head {
            subjects: vec![Subject {
                kind: SubjectKind::Raw,
                name: String::new(),
                digest: [("sha1".to_owned(), "1".to_owned())].into(),
            }],
            ..own
        };
        let statement = raw.statement(b"", &about).unwrap();
        assert_eq!(
            statement["subject"],
            json!([{"name": "_", "digest": {"sha1": "1"}}])
        );
        assert_eq!(statement["predicate"], Value::Null);
    }

    #[test]
    fn a_frontend_claims_no_provenance() {
        let claim = Head {
            path: "p".into(),
            predicate_type: format!("{SLSA_PREFIX}v1"),
            ..Head::default()
        };
        assert!(claim.check(false).is_err());
        assert!(claim.check(true).is_ok());
        assert!(Head::default().check(true).is_err());
        assert!(bundle().check(false).is_ok());
    }
}
