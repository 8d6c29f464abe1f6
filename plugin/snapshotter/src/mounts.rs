//! Turns a stack of layers into the mounts that containerd performs. Pure: knows paths, touches none.

use std::path::Path;

use crate::model::Mount;

/// Most lower directories that overlayfs stacks (`OVL_MAX_STACK`).
pub(crate) const MAX_LOWER: usize = 500;

/// The directories of one mount, all below the store's root.
pub(crate) struct Stack<'a> {
    /// Upper and work directory; none for a view.
    pub upper: Option<(&'a Path, &'a Path)>,
    /// Lower directories, nearest first.
    pub lower: &'a [String],
    /// What to show if there is nothing at all.
    pub empty: &'a Path,
    /// Options that every overlay gets.
    pub options: &'a [String],
}

impl Stack<'_> {
    /// One bind mount where a single directory is the whole content, otherwise one overlay.
    pub(crate) fn mounts(&self) -> Vec<Mount> {
        let mount = match (self.upper, self.lower) {
            (Some((fs, _)), []) => bind(&fs.to_string_lossy(), "rw"),
            (None, []) => bind(&self.empty.to_string_lossy(), "ro"),
            (None, [only]) => bind(only, "ro"),
            (upper, lower) => self.overlay(upper, lower),
        };
        vec![mount]
    }

    fn overlay(&self, upper: Option<(&Path, &Path)>, lower: &[String]) -> Mount {
        let mut options = self.options.to_vec();
        match upper {
            Some((fs, work)) => {
                options.push(format!("workdir={}", work.display()));
                options.push(format!("upperdir={}", fs.display()));
            }
            None => options.push("ro".into()),
        }
        options.push(format!("lowerdir={}", lower.join(":")));
        Mount {
            fs_type: "overlay",
            source: "overlay".into(),
            options,
        }
    }
}

fn bind(source: &str, access: &str) -> Mount {
    Mount {
        fs_type: "bind",
        source: source.into(),
        options: vec![access.into(), "rbind".into()],
    }
}
