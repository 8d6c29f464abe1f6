//! Package URLs of images, as materials and subjects name them (package-url specification, types `docker` and `oci`).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use shipway_model::{ImageRef, Platform};

/// What needs no escape in a qualifier.
const QUALIFIER: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':');
/// What needs no escape in a name or a version.
const PART: &AsciiSet = QUALIFIER;

/// The package URL of an image; `kind` is `docker`, or `oci` for one of a client's layout.
#[must_use]
pub fn image(kind: &str, reference: &ImageRef, platform: Option<&Platform>) -> String {
    let familiar = ImageRef {
        tag: None,
        digest: None,
        ..reference.clone()
    }
    .familiar();
    let escape = |text: &str| utf8_percent_encode(text, PART).to_string();
    let path: Vec<String> = familiar.split('/').map(escape).collect();
    let version = reference.tag.as_deref().map(escape);
    let version = version.map_or(String::new(), |tag| format!("@{tag}"));
    // Qualifiers are sorted by their names.
    let digest = reference
        .digest
        .map(|digest| ("digest", digest.to_string()));
    let platform = platform.map(|platform| ("platform", platform.normalized().to_string()));
    let qualifiers: Vec<String> = digest
        .into_iter()
        .chain(platform)
        .map(|(key, value)| format!("{key}={}", utf8_percent_encode(&value, QUALIFIER)))
        .collect();
    let qualifiers = if qualifiers.is_empty() {
        String::new()
    } else {
        format!("?{}", qualifiers.join("&"))
    };
    format!("pkg:{kind}/{}{version}{qualifiers}", path.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_as_package_urls() {
        let platform = Platform::new("linux", "amd64", "");
        let digest = shipway_model::Digest::of("x");
        for (reference, expected) in [
            (
                "busybox",
                "pkg:docker/busybox@latest?platform=linux%2Famd64",
            ),
            ("a/b:c", "pkg:docker/a/b@c?platform=linux%2Famd64"),
            (
                "localhost:5000/a/b:c",
                "pkg:docker/localhost:5000/a/b@c?platform=linux%2Famd64",
            ),
        ] {
            let reference = reference.parse().unwrap();
            assert_eq!(image("docker", &reference, Some(&platform)), expected);
        }
        let pinned: ImageRef = format!("busybox@{digest}").parse().unwrap();
        assert_eq!(
            image("oci", &pinned, None),
            format!("pkg:oci/busybox?digest={digest}")
        );
    }
}
