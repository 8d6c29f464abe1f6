//! containerd's filters, as far as they concern snapshots. Decides which fields a snapshot has, never what exists.

use shipway_patterns::filter;

use crate::{
    error::{Error, Result},
    model::Info,
    state::REFERENCE_LABEL,
};

/// Alternatives; none at all match everything.
#[derive(Debug)]
pub(crate) struct Filters(filter::Filters);

impl Filters {
    pub(crate) fn parse(filters: &[String]) -> Result<Self> {
        filter::Filters::parse(filters.iter().map(String::as_str))
            .map(Self)
            .map_err(|e| Error::Invalid(e.to_string()))
    }

    pub(crate) fn matches(&self, info: &Info) -> bool {
        self.0.matches(|path| field(info, path))
    }

    /// The reference that everything that matches must have, if the filters say so: how containerd fetches an alias.
    pub(crate) fn reference(&self) -> Option<&str> {
        self.0.required(&format!("labels.{REFERENCE_LABEL}"))
    }
}

fn field(info: &Info, path: &[&str]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    match *first {
        "kind" => Some(info.kind.name().into()),
        "name" => Some(info.name.clone()),
        "parent" => Some(info.parent.clone()),
        "labels" => info.labels.get(&rest.join(".")).cloned(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Kind;

    fn info() -> Info {
        let labels = [
            ("l", "1"),
            ("a.b", "x"),
            ("containerd.io/snapshot.ref", "sha256:c"),
        ];
        Info {
            name: "ns/1/sha256:c".into(),
            parent: String::new(),
            kind: Kind::Committed,
            labels: labels
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn filters_match_as_containerds_do() {
        let cases: &[(&[&str], bool)] = &[
            (&[], true),
            (&[""], true),
            (&["kind==committed"], true),
            (&["kind==active"], false),
            (&["kind==active", "name==ns/1/sha256:c"], true),
            (&["parent==\"\""], true),
            (&["parent!=\"\""], false),
            (&["labels.l"], true),
            (&["labels.m"], false),
            (&["labels.m!=1"], true),
            (&["labels.a.b==x"], true),
            (&["labels.\"a.b\"==x"], true),
            (
                &["labels.\"containerd.io/snapshot.ref\"==sha256:c,parent==\"\""],
                true,
            ),
            (
                &["labels.\"containerd.io/snapshot.ref\"==sha256:c,parent==\"p\""],
                false,
            ),
            (&["name~=^ns/"], true),
            (&["name~=/^ns\\/1/"], true),
            (&["name~=|sha256:[a-c]$|"], true),
            (&["name~=\"[\""], false),
            (&["labels.l==\"\\x31\""], true),
            (&["labels.l==\"\\061\""], true),
            (&["labels.l==\"\\u0031\""], true),
            (&[" kind == committed , labels.l == 1 "], true),
            (&["unknown"], false),
            (&["unknown!=x"], true),
        ];
        for (filters, expected) in cases {
            let texts: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
            let parsed = Filters::parse(&texts).unwrap();
            assert_eq!(parsed.matches(&info()), *expected, "{filters:?}");
        }
    }

    #[test]
    fn the_reference_that_containerd_asks_for_is_recognised() {
        let ask = r#"labels."containerd.io/snapshot.ref"==sha256:c,parent=="k8s.io/4/sha256:b""#;
        let parsed = Filters::parse(&[ask.to_owned()]).unwrap();
        assert_eq!(parsed.reference(), Some("sha256:c"));
        assert_eq!(
            Filters::parse(&["labels.l==1".into()]).unwrap().reference(),
            None
        );
        assert_eq!(
            Filters::parse(&[ask.into(), "kind==view".into()])
                .unwrap()
                .reference(),
            None
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,40}") {
            let _parsed = Filters::parse(&[text]).map(|f| f.matches(&info()));
        }

        #[test]
        fn quoted_values_come_back(value in "[^\\\\\"\n]{0,20}") {
            let parsed = Filters::parse(&[format!("name==\"{value}\"")]).unwrap();
            let named = Info { name: value, ..info() };
            prop_assert!(parsed.matches(&named));
        }
    }
}
