//! What may be said about any vertex: platform, name, cache, progress group, limits, where it comes from.

use super::SourceFile;
use shipway_model::definition::{LinuxResources, Location, ProgressGroup};
use shipway_model::{Platform, SourceRange, VertexMeta};

/// Options of one vertex, in builder form.
#[derive(Debug, Clone, Default)]
pub struct VertexOptions {
    /// Boxed since few vertices have one.
    pub(crate) platform: Option<Box<Platform>>,
    pub(crate) filters: Vec<String>,
    pub(crate) meta: VertexMeta,
    pub(crate) locations: Vec<Location>,
}

impl VertexOptions {
    /// Options with a name for progress displays.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self::default().name(name)
    }

    /// Sets the name for progress displays.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        self.describe(crate::CUSTOM_NAME, name)
    }

    /// Adds an entry to the description, which nothing interprets.
    #[must_use]
    pub fn describe(mut self, key: impl Into<String>, text: impl Into<String>) -> Self {
        self.meta.description.insert(key.into(), text.into());
        self
    }

    /// Sets the platform.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform.into());
        self
    }

    /// Only workers that match this filter may run it.
    #[must_use]
    pub fn require(mut self, filter: impl Into<String>) -> Self {
        self.filters.push(filter.into());
        self
    }

    /// Runs even where a cached result exists.
    #[must_use]
    pub fn ignore_cache(mut self) -> Self {
        self.meta.ignore_cache = true;
        self
    }

    /// Whether exported caches must or must not hold it.
    #[must_use]
    pub fn export_cache(mut self, export: bool) -> Self {
        self.meta.export_cache = Some(export);
        self
    }

    /// Shows it as part of a group; a weak member never shows the group by itself.
    #[must_use]
    pub fn group(mut self, id: impl Into<String>, name: impl Into<String>, weak: bool) -> Self {
        let group = ProgressGroup {
            id: id.into(),
            name: name.into(),
            weak,
        };
        self.meta.progress_group = Some(group);
        self
    }

    /// CPU and memory limits.
    #[must_use]
    pub fn limits(mut self, limits: LinuxResources) -> Self {
        self.meta.linux_resources = Some(limits.into());
        self
    }

    /// Names a capability that the daemon must have.
    #[must_use]
    pub fn cap(mut self, id: &str) -> Self {
        self.meta.caps.insert(id.to_owned(), true);
        self
    }

    /// Names a capability where `needed`.
    #[must_use]
    pub(crate) fn cap_if(self, needed: bool, id: &str) -> Self {
        if needed { self.cap(id) } else { self }
    }

    /// Where it comes from.
    #[must_use]
    pub fn at(mut self, file: SourceFile, ranges: Vec<SourceRange>) -> Self {
        self.locations.push(Location {
            source: file.0,
            ranges,
        });
        self
    }
}
