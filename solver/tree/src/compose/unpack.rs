//! The unpacking of `ADD`: a source that is an archive goes, entry by entry, below the destination. Whether it is one
//! is found by reading it, never by its name.

use std::path::Path;

use super::ops::clean;
use super::{Composer, CopyOptions, NewDir, Origin};
use crate::error::{Result, shown};
use crate::extract::{Limits, Names, Unpacker, is_archive, unpack_all};
use crate::stack::Last;
use crate::stat::Kind;

impl Composer {
    /// Unpacks `source` if it is an archive; gives whether it was.
    pub(super) fn unpack(
        &mut self,
        origin: &Origin,
        source: &Path,
        dest: &str,
        options: &CopyOptions,
    ) -> Result<bool> {
        let found = origin.tree.resolve(source, Last::Follow)?;
        let Some(entry) = found.entry.filter(|entry| entry.stat.kind == Kind::File) else {
            return Ok(false);
        };
        let layer = &origin.tree.layers()[entry.layer];
        if !is_archive(layer.open_file(&found.rel)?) {
            return Ok(false);
        }
        let dest = self
            .view()
            .resolve(&shown(&clean(Path::new(dest))), Last::Follow)?
            .rel;
        let made = NewDir {
            mode: 0o755,
            ..options.new_dir()
        };
        let (base, _) = self.make_dirs(&dest, &made)?;
        let base = self.copy_up_dir(&base)?;
        let unpacker = Unpacker::new(self, Names::Confined).below(base, options.owner);
        unpack_all(layer.open_file(&found.rel)?, unpacker, Limits::default())?;
        Ok(true)
    }
}
