//! How a session's headers are read and how options of a call travel as metadata. It never decides which options there are.
//!
//! Text that is not plain printable ASCII is URL-query-escaped, and `<key>-encoded: 1` says so for the whole key.

use std::time::Duration;

use http::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use shipway_backend::{BackendError, ErrorKind};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

/// What Go's `url.QueryEscape` escapes, but for the space, which becomes `+`.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b' ');

/// Largest header list that Go's HTTP/2 server takes is 1,048,896 bytes; this leaves room for the fixed headers.
const HEADER_BYTES: usize = 1_000_000;

/// What a client says of itself when it opens a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) id: String,
    pub(crate) shared_key: String,
    /// Paths of the methods offered, in lower case.
    pub(crate) methods: Vec<String>,
    /// Asked for by tests: how long a health check may take.
    pub(crate) health_timeout: Option<Duration>,
}

impl Hello {
    /// Reads the headers; `None` where there is no session id.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let text = |key: &str| headers.get(key).and_then(|value| value.to_str().ok());
        let id = text("x-docker-expose-session-uuid").filter(|id| !id.is_empty())?;
        let key = text("x-docker-expose-session-sharedkey").unwrap_or_default();
        let encoded = text("x-docker-expose-session-sharedkey-encoded") == Some("1");
        let methods = headers.get_all("x-docker-expose-session-grpc-method");
        Some(Self {
            id: id.to_owned(),
            shared_key: if encoded { unescape(key) } else { key.into() },
            methods: methods
                .iter()
                .filter_map(|value| value.to_str().ok())
                .map(str::to_lowercase)
                .collect(),
            health_timeout: text("x-buildkit-session-health-custom-timeout")
                .and_then(|millis| millis.parse().ok())
                .filter(|millis| *millis > 0)
                .map(Duration::from_millis),
        })
    }

    /// Whether the client said that it offers this method.
    pub(crate) fn offers(&self, method: &str) -> bool {
        self.methods
            .iter()
            .any(|offered| offered.eq_ignore_ascii_case(method))
    }
}

/// Metadata that is being put together.
#[derive(Default)]
pub(crate) struct Options {
    map: MetadataMap,
    bytes: usize,
}

impl Options {
    /// Adds one key with all its values.
    pub(crate) fn with<'a>(
        mut self,
        key: &'static str,
        values: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let values: Vec<&str> = values.into_iter().collect();
        let plain: Result<Vec<AsciiMetadataValue>, _> =
            values.iter().map(|value| value.parse()).collect();
        let encode = values.iter().any(|value| !value.is_ascii()) || plain.is_err();
        match plain {
            Ok(plain) if !encode => {
                for value in plain {
                    self.append(AsciiMetadataKey::from_static(key), value);
                }
            }
            _ => self.append_escaped(key, &values),
        }
        self
    }

    /// Adds a key whose name is not known beforehand; left out where HTTP has no room for such a name or value.
    pub(crate) fn with_free(mut self, key: &str, value: &str) -> Self {
        if let (Ok(key), Ok(value)) = (key.to_lowercase().parse(), value.parse()) {
            self.append(key, value);
        }
        self
    }

    /// The metadata, unless the client could not take that much.
    pub(crate) fn into_map(self, attempt: &str) -> Result<MetadataMap, BackendError> {
        if self.bytes <= HEADER_BYTES {
            return Ok(self.map);
        }
        let attempt = format!(
            "{attempt}: {} bytes of paths and patterns are more than a session carries",
            self.bytes
        );
        Err(BackendError::new(ErrorKind::FailedPrecondition, attempt))
    }

    fn append_escaped(&mut self, key: &'static str, values: &[&str]) {
        for value in values {
            if let Ok(value) = escape(value).parse() {
                self.append(AsciiMetadataKey::from_static(key), value);
            }
        }
        if let Ok(mark) = format!("{key}-encoded").parse() {
            self.append(mark, AsciiMetadataValue::from_static("1"));
        }
    }

    fn append(&mut self, key: AsciiMetadataKey, value: AsciiMetadataValue) {
        // HTTP/2 counts 32 bytes for each entry beside its text.
        self.bytes += key.as_str().len() + value.as_encoded_bytes().len() + 32;
        self.map.append(key, value);
    }
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, QUERY)
        .to_string()
        .replace(' ', "+")
}

fn unescape(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hello_is_read_from_its_headers() {
        let mut headers = HeaderMap::new();
        for (key, value) in [
            ("x-docker-expose-session-uuid", "id1"),
            ("x-docker-expose-session-sharedkey", "d%C3%A9j+a:1"),
            ("x-docker-expose-session-sharedkey-encoded", "1"),
            (
                "x-docker-expose-session-grpc-method",
                "/moby.filesync.v1.FileSync/DiffCopy",
            ),
            (
                "x-docker-expose-session-grpc-method",
                "/grpc.health.v1.Health/Check",
            ),
            ("x-buildkit-session-health-custom-timeout", "250"),
        ] {
            headers.append(key, value.parse().unwrap());
        }
        let hello = Hello::from_headers(&headers).unwrap();
        assert_eq!(hello.id, "id1");
        assert_eq!(hello.shared_key, "déj a:1");
        assert_eq!(hello.health_timeout, Some(Duration::from_millis(250)));
        assert!(hello.offers("/moby.filesync.v1.filesync/diffcopy"));
        assert!(!hello.offers("/moby.filesync.v1.FileSend/DiffCopy"));
        assert_eq!(Hello::from_headers(&HeaderMap::new()), None);
    }

    #[test]
    fn only_text_beyond_ascii_is_escaped_and_then_the_whole_key() {
        let map = Options::default()
            .with("followpaths", ["a b", "c%d"])
            .with("exclude-patterns", ["a b", "é"])
            .into_map("x")
            .unwrap();
        let all = |key| -> Vec<&str> {
            map.get_all(key)
                .iter()
                .map(|value| value.to_str().unwrap())
                .collect()
        };
        assert_eq!(all("followpaths"), ["a b", "c%d"]);
        assert_eq!(all("followpaths-encoded"), [""; 0]);
        assert_eq!(all("exclude-patterns"), ["a+b", "%C3%A9"]);
        assert_eq!(all("exclude-patterns-encoded"), ["1"]);
    }

    #[test]
    fn more_than_a_client_takes_is_refused_by_name() {
        let long = "x".repeat(HEADER_BYTES);
        let options = Options::default().with("followpaths", [long.as_str()]);
        let error = options.into_map("loading context").unwrap_err();
        assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    }

    proptest! {
        #[test]
        fn escaping_is_undone_by_unescaping(text in "\\PC*") {
            prop_assert_eq!(unescape(&escape(&text)), text);
        }
    }
}
