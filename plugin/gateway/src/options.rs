//! What the daemon tells a frontend in its environment: the client's options and session. Decides only how that is read.

use std::collections::BTreeMap;

/// Prefix of variables that hold an option each: `BUILDKIT_FRONTEND_OPT_0=name=value`.
const OPTION: &str = "BUILDKIT_FRONTEND_OPT_";

/// What the client asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Options by name: `filename`, `target`, `build-arg:NAME`, `platform`, …
    pub all: BTreeMap<String, String>,
    /// The client's session, to name in local sources.
    pub session: String,
}

impl Options {
    /// What this process was told.
    #[must_use]
    pub fn from_environment() -> Self {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        Self::read(std::env::vars_os().map(|(name, value)| (text(name), text(value))))
    }

    fn read(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut options = Self::default();
        for (name, value) in variables {
            if name == "BUILDKIT_SESSION_ID" {
                options.session = value;
            } else if name.starts_with(OPTION)
                && let Some((key, value)) = value.split_once('=')
            {
                options.all.insert(key.to_owned(), value.to_owned());
            }
        }
        options
    }

    /// An option; `None` where it is missing or empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.all.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    /// A build argument.
    #[must_use]
    pub fn build_arg(&self, name: &str) -> Option<&str> {
        self.all
            .get(&format!("build-arg:{name}"))
            .map(String::as_str)
    }

    /// Name of the file that describes the build.
    #[must_use]
    pub fn filename(&self) -> &str {
        self.get("filename").unwrap_or("Dockerfile")
    }

    /// Name of the client's directory that holds that file.
    #[must_use]
    pub fn file_directory(&self) -> &str {
        self.get("dockerfilekey").unwrap_or("dockerfile")
    }

    /// Name of the client's directory with the files to build from.
    #[must_use]
    pub fn context_directory(&self) -> &str {
        self.get("contextkey").unwrap_or("context")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_session_come_from_the_environment() {
        let variables = [
            ("BUILDKIT_FRONTEND_OPT_0", "filename=a=b"),
            ("BUILDKIT_FRONTEND_OPT_7", "build-arg:X="),
            ("BUILDKIT_SESSION_ID", "s"),
            ("PATH", "/bin"),
        ];
        let own = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let options = Options::read(own);
        assert_eq!(options.filename(), "a=b");
        assert_eq!(
            (options.build_arg("X"), options.get("build-arg:X")),
            (Some(""), None)
        );
        assert_eq!((options.session.as_str(), options.all.len()), ("s", 2));
        assert_eq!(options.context_directory(), "context");
    }
}
