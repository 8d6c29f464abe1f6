//! Why a frontend failed, and how that reaches the user: a message, and the lines that it is about.

use prost_types::Any;
use shipway_llb::InvalidDefinition;
use shipway_llb::build::BuildError;
use shipway_proto::rpc;
use tonic::{Code, Status};

/// Why a frontend failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon is not there.
    #[error("connecting to the daemon on the standard streams")]
    Connect(#[source] tonic::transport::Error),
    /// The daemon refused a call.
    #[error("{attempt}")]
    Call {
        /// What was asked.
        attempt: String,
        /// The answer, with its details.
        #[source]
        status: Box<Status>,
    },
    /// A graph is not complete.
    #[error("making a graph")]
    Graph(#[from] BuildError),
    /// The daemon handed in a graph that is none.
    #[error("reading the graph of input {name:?}")]
    Input {
        /// The input.
        name: String,
        /// What is wrong with it.
        #[source]
        source: Box<InvalidDefinition>,
    },
    /// The daemon's answer makes no sense.
    #[error("{0}")]
    Answer(String),
    /// What the user wrote is wrong.
    #[error("{message}")]
    User {
        /// What is wrong.
        message: String,
        /// Where.
        source_lines: Option<Box<SourceLines>>,
    },
}

/// Lines of the user's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLines {
    /// Its name.
    pub filename: String,
    /// Its whole text.
    pub text: Vec<u8>,
    /// First and last line, counted from 1.
    pub lines: (u32, u32),
}

impl Error {
    /// A mistake of the user's.
    pub fn user(message: impl Into<String>) -> Self {
        Self::User {
            message: message.into(),
            source_lines: None,
        }
    }

    /// A mistake of the user's in these lines (counted from 1), which clients show.
    pub fn at(message: impl Into<String>, filename: &str, text: &[u8], lines: (u32, u32)) -> Self {
        let lines = SourceLines {
            filename: filename.to_owned(),
            text: text.to_owned(),
            lines,
        };
        Self::User {
            message: message.into(),
            source_lines: Some(Box::new(lines)),
        }
    }

    pub(crate) fn call(attempt: impl Into<String>) -> impl FnOnce(Status) -> Self {
        let attempt = attempt.into();
        |status| Self::Call {
            attempt,
            status: Box::new(status),
        }
    }

    /// True where the daemon found nothing of that name.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            // BuildKit has no code for a missing file, only words.
            Self::Call { status, .. } => {
                status.code() == Code::NotFound || status.message().contains("no such file")
            }
            _ => false,
        }
    }

    /// As the daemon takes it. What it said itself it gets back, with its details.
    pub(crate) fn to_wire(&self) -> rpc::Status {
        use prost::Message as _;
        match self {
            Self::Call { attempt, status } => {
                let details = rpc::Status::decode(status.details()).map(|whole| whole.details);
                rpc::Status {
                    code: status.code().into(),
                    message: format!("{attempt}: {}", status.message()),
                    details: details.unwrap_or_default(),
                }
            }
            Self::User {
                message,
                source_lines,
            } => rpc::Status {
                code: Code::Unknown.into(),
                message: message.clone(),
                details: source_lines.iter().map(|lines| detail(lines)).collect(),
            },
            other => {
                let mut message = other.to_string();
                let mut cause = std::error::Error::source(other);
                while let Some(next) = cause {
                    message = format!("{message}: {next}");
                    cause = next.source();
                }
                rpc::Status {
                    code: Code::Unknown.into(),
                    message,
                    details: Vec::new(),
                }
            }
        }
    }
}

/// The detail that clients show lines from.
fn detail(source: &SourceLines) -> Any {
    let ranges: Vec<_> = (source.lines.0..=source.lines.1)
        .map(|line| serde_json::json!({"start": {"line": line}, "end": {"line": line}}))
        .collect();
    let value = serde_json::json!({
        "info": {"filename": source.filename, "data": base64(&source.text)},
        "ranges": ranges,
    });
    Any {
        type_url: "github.com/moby/buildkit/errdefs.Source+json".to_owned(),
        value: value.to_string().into_bytes(),
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_carries_its_lines() {
        let error = Error::at("unknown word", "Stepfile", b"a\nb\n", (2, 2));
        let wire = error.to_wire();
        assert_eq!((wire.code, wire.message.as_str()), (2, "unknown word"));
        let detail: serde_json::Value = serde_json::from_slice(&wire.details[0].value).unwrap();
        assert_eq!(detail["ranges"][0]["start"]["line"], 2);
        assert_eq!(detail["info"]["data"], "YQpiCg==");
    }

    #[test]
    fn what_the_daemon_said_comes_back_to_it() {
        let error = Error::call("solving")(Status::not_found("x"));
        assert!(error.is_not_found());
        assert_eq!(error.to_wire().message, "solving: x");
    }
}
