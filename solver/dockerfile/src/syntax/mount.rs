//! `RUN --mount=…`: the options, which are read again once variables have values, and what they mean together.

use super::{csv, units};
use crate::error::{Error, SyntaxError};
use crate::suggest::{Case, nearest};

/// A mount as written: its type and options may hold variables, its `from` may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    fields: Vec<String>,
    /// Stage or image that it comes from; empty for none.
    pub from: String,
}

/// Kind of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "named as in the Dockerfile reference")]
pub enum MountType {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Who may use a cache at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the Dockerfile reference")]
pub enum Sharing {
    Shared,
    Private,
    Locked,
}

/// A mount with its options read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    missing_docs,
    reason = "named as the options in the Dockerfile reference"
)]
#[expect(clippy::struct_excessive_bools, reason = "independent options")]
pub struct Mount {
    pub kind: MountType,
    pub from: String,
    pub source: String,
    pub target: String,
    pub readonly: bool,
    pub size: u64,
    pub id: String,
    pub sharing: Option<Sharing>,
    pub required: bool,
    pub env: Option<String>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

impl MountType {
    const ALL: [(&'static str, Self); 5] = [
        ("bind", Self::Bind),
        ("cache", Self::Cache),
        ("tmpfs", Self::Tmpfs),
        ("secret", Self::Secret),
        ("ssh", Self::Ssh),
    ];

    /// As written in a Dockerfile.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }
}

impl Sharing {
    const ALL: [(&'static str, Self); 3] = [
        ("shared", Self::Shared),
        ("private", Self::Private),
        ("locked", Self::Locked),
    ];
}

impl MountSpec {
    /// Reads what needs no variables.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let csv = |reason| SyntaxError::Csv {
            what: "mounts",
            reason,
        };
        let fields = csv::fields(text).map_err(csv)?;
        let mut from = String::new();
        for field in &fields {
            let Some((key, value)) = field.split_once('=') else {
                continue;
            };
            if !key.eq_ignore_ascii_case("from") {
                continue;
            }
            // A lone dollar at the end names nothing.
            if value.find('$').is_some_and(|at| at + 1 != value.len()) {
                return Err(SyntaxError::FromExpansion("from").into());
            }
            value.clone_into(&mut from);
        }
        Ok(Self { fields, from })
    }

    /// Reads all options, with values expanded by `expand`.
    pub(crate) fn expand(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<String, Error>,
    ) -> Result<Mount, Error> {
        let mut mount = Mount::default();
        let mut readonly = None;
        for field in &self.fields {
            match field.split_once('=') {
                None => flag(&mut mount, &mut readonly, field)?,
                Some((key, value)) => {
                    let value = expand(value)?;
                    let key = key.to_ascii_lowercase();
                    option(&mut mount, &mut readonly, &key, value, field)?;
                }
            }
        }
        let writable = matches!(mount.kind, MountType::Cache | MountType::Tmpfs);
        mount.readonly = readonly.unwrap_or(!writable);
        check(&mount)?;
        Ok(mount)
    }
}

/// An option without value.
fn flag(mount: &mut Mount, readonly: &mut Option<bool>, field: &str) -> Result<(), Error> {
    match field.to_ascii_lowercase().as_str() {
        "readonly" | "ro" => *readonly = Some(true),
        "readwrite" | "rw" => *readonly = Some(false),
        "required" => set_required(mount, true)?,
        _ => return Err(SyntaxError::KeyValue(field.to_owned()).into()),
    }
    Ok(())
}

fn set_required(mount: &mut Mount, required: bool) -> Result<(), SyntaxError> {
    if !matches!(mount.kind, MountType::Secret | MountType::Ssh) {
        return Err(SyntaxError::KeyForType {
            key: "required".into(),
            kind: mount.kind.name(),
        });
    }
    mount.required = required;
    Ok(())
}

fn option(
    mount: &mut Mount,
    readonly: &mut Option<bool>,
    key: &str,
    value: String,
    field: &str,
) -> Result<(), Error> {
    let bad = || SyntaxError::ValueFor {
        key: key.to_owned(),
        value: value.clone(),
    };
    let number = |key, radix| {
        u32::from_str_radix(&value, radix).map_err(|_| SyntaxError::MountValue {
            key,
            value: value.clone(),
        })
    };
    match key {
        "type" => mount.kind = one_of(&value, &MountType::ALL, SyntaxError::MountType)?,
        "from" => mount.from = value,
        "source" | "src" => mount.source = value,
        "target" | "dst" | "destination" => mount.target = value,
        "readonly" | "ro" => *readonly = Some(go_bool(&value).ok_or_else(bad)?),
        "readwrite" | "rw" => *readonly = Some(!go_bool(&value).ok_or_else(bad)?),
        "required" => {
            let required = go_bool(&value);
            set_required(mount, required.unwrap_or_default())?;
            required.ok_or_else(bad)?;
        }
        "size" if mount.kind == MountType::Tmpfs => {
            let size = units::bytes(&value).and_then(|size| u64::try_from(size).ok());
            mount.size = size.ok_or_else(bad)?;
        }
        "size" => {
            let kind = mount.kind.name();
            return Err(SyntaxError::KeyForType {
                key: "size".into(),
                kind,
            }
            .into());
        }
        "id" => mount.id = value,
        "sharing" => mount.sharing = Some(one_of(&value, &Sharing::ALL, SyntaxError::Sharing)?),
        "mode" => mount.mode = Some(number("mode", 8)?),
        "uid" => mount.uid = Some(number("uid", 10)?),
        "gid" => mount.gid = Some(number("gid", 10)?),
        "env" => mount.env = Some(value),
        _ => {
            let error = SyntaxError::UnexpectedKey {
                key: key.to_owned(),
                field: field.to_owned(),
            };
            return Err(Error::new(error).suggest(nearest(key, KEYS, Case::Exact)));
        }
    }
    Ok(())
}

fn one_of<T: Copy>(
    value: &str,
    all: &[(&'static str, T)],
    error: fn(String) -> SyntaxError,
) -> Result<T, Error> {
    let found = all
        .iter()
        .find(|(name, _)| value.eq_ignore_ascii_case(name));
    found.map(|&(_, found)| found).ok_or_else(|| {
        let names = all.iter().map(|(name, _)| *name);
        Error::new(error(value.to_owned())).suggest(nearest(value, names, Case::Exact))
    })
}

fn check(mount: &Mount) -> Result<(), SyntaxError> {
    let kind = mount.kind.name();
    let owned = matches!(
        mount.kind,
        MountType::Secret | MountType::Ssh | MountType::Cache
    );
    let given = [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)];
    if let Some((key, _)) = given.iter().find(|(_, value)| value.is_some() && !owned) {
        return Err(SyntaxError::NotAllowed { key, kind });
    }
    if mount.kind == MountType::Secret {
        check_secret(mount)?;
    }
    if mount.sharing.is_some() && mount.kind != MountType::Cache {
        return Err(SyntaxError::SharingForType(kind));
    }
    Ok(())
}

fn check_secret(mount: &Mount) -> Result<(), SyntaxError> {
    if !mount.from.is_empty() {
        return Err(SyntaxError::SecretFrom);
    }
    if mount.sharing.is_some() {
        return Err(SyntaxError::SecretSharing);
    }
    if mount.source.is_empty() && mount.target.is_empty() && mount.id.is_empty() {
        return Err(SyntaxError::SecretName);
    }
    if !mount.source.is_empty() && !mount.id.is_empty() {
        return Err(SyntaxError::SecretSourceAndId);
    }
    Ok(())
}

/// The spellings of a boolean that Go's `strconv` knows.
pub(crate) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
