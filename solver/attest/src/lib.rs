//! Attestations of builds: which are wanted, where a result comes from (provenance, after SLSA), how what is in it is
//! listed (SBOM), and how all of it becomes in-toto statements. Pure: nothing here runs, fetches or stores anything.
//!
//! ```text
//! definition + pins ─► Capture ─┐
//! frontend's request ───────────┼─► predicate ─► statement ─► attestation manifest, or file
//! scanner's bundle ─► unbundle ─┘
//! ```

pub mod capture;
pub mod options;
pub mod predicate;
pub mod purl;
pub mod request;
pub mod sbom;
pub mod spdx;
pub mod statement;
pub mod steps;
pub mod url;

pub use capture::{Capture, capture};
pub use options::{Attestations, InvalidAttestation, ProvenanceOptions, SbomOptions};
pub use request::{Asked, RequestProvenance};
pub use statement::{Head, Kind, Subject, SubjectKind};
