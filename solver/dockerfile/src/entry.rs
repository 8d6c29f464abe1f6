//! What a frontend has to fetch before it can lower: the Dockerfile and the ignore file, as LLB to solve and names to read.

use crate::options::BuildOptions;
use shipway_llb::build::{BuildError, Local, LocalDiffer};
use shipway_llb::{Graph, VertexOptions};
use shipway_model::Definition;

/// Name of a Dockerfile that has no other.
pub const DEFAULT_NAME: &str = "Dockerfile";
/// Name of the list of what a context leaves out.
pub const IGNORE_FILE: &str = ".dockerignore";

/// Name of the Dockerfile that the options ask for.
#[must_use]
pub fn dockerfile_name(options: &BuildOptions) -> &str {
    options
        .raw
        .get("filename")
        .map_or(DEFAULT_NAME, String::as_str)
}

/// Names to try in order: a file named `dockerfile` does where `Dockerfile` is asked for and missing.
#[must_use]
pub fn dockerfile_names(options: &BuildOptions) -> Vec<String> {
    let name = dockerfile_name(options);
    let (dir, base) = match name.rsplit_once('/') {
        Some((dir, base)) => (format!("{dir}/"), base),
        None => (String::new(), name),
    };
    let lower = (base == DEFAULT_NAME).then(|| format!("{dir}{}", base.to_lowercase()));
    std::iter::once(name.to_owned()).chain(lower).collect()
}

/// Name of the ignore file that belongs to this Dockerfile alone; it replaces the context's.
#[must_use]
pub fn own_ignore_name(options: &BuildOptions) -> String {
    format!("{}{IGNORE_FILE}", dockerfile_name(options))
}

/// True where the Dockerfile comes from the client even if the context does not.
#[must_use]
pub fn dockerfile_is_local(options: &BuildOptions) -> bool {
    options.raw.contains_key("dockerfilekey")
}

/// The client's directory that holds the Dockerfile and its own ignore file.
///
/// # Errors
/// Never in practice: the graph is complete.
pub fn dockerfile_source(options: &BuildOptions) -> Result<Definition, BuildError> {
    let local = options
        .raw
        .get("dockerfilekey")
        .map_or("dockerfile", String::as_str);
    let names = dockerfile_names(options);
    let mut follow = vec![names[0].clone(), own_ignore_name(options)];
    follow.extend(names.into_iter().skip(1));
    let label = format!("load build definition from {}", dockerfile_name(options));
    file_source(options, local, local, follow, &label)
}

/// The context's directory, for its ignore file only.
///
/// # Errors
/// Never in practice: the graph is complete.
pub fn ignore_source(options: &BuildOptions, context: &str) -> Result<Definition, BuildError> {
    let key = format!("{context}-{IGNORE_FILE}");
    let label = format!("load {IGNORE_FILE}");
    file_source(options, context, &key, vec![IGNORE_FILE.into()], &label)
}

fn file_source(
    options: &BuildOptions,
    name: &str,
    key: &str,
    follow: Vec<String>,
    label: &str,
) -> Result<Definition, BuildError> {
    let local = Local {
        name: name.to_owned(),
        session: Some(options.session_of(name).to_owned()),
        follow,
        shared_key_hint: key.to_owned(),
        // These files are small, and must never be those of an earlier build.
        differ: Some(LocalDiffer::None),
        ..Local::default()
    };
    let mut graph = Graph::default();
    let state = graph.local(local, VertexOptions::named(format!("[internal] {label}")));
    graph.definition(&state, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shipway_model::Platform;
    use shipway_model::op::Op;

    #[test]
    fn a_default_name_may_be_lower_case() {
        let options = |name: &str| {
            let raw = [("filename".to_owned(), name.to_owned())].into();
            BuildOptions::parse(&raw, "s", &Platform::host()).unwrap()
        };
        assert_eq!(
            dockerfile_names(&options("a/Dockerfile")),
            ["a/Dockerfile", "a/dockerfile"]
        );
        assert_eq!(dockerfile_names(&options("x.df")), ["x.df"]);
        let definition = dockerfile_source(&options("Dockerfile")).unwrap();
        let Op::Source(source) = &definition.vertices[0].op else {
            panic!("a source")
        };
        let follow = r#"["Dockerfile","Dockerfile.dockerignore","dockerfile"]"#;
        assert_eq!(source.attrs["local.followpaths"], follow);
        assert_eq!(source.attrs["local.differ"], "none");
        assert_eq!(source.identifier, "local://dockerfile");
    }
}
