//! Capabilities by name: what a client may rely on. A name stands here only while the feature behind it works;
//! clients fall back, or refuse early, where one is missing.

/// Capabilities of LLB: ops, sources, metadata, exporters.
pub const LLB: &[&str] = &[
    "source.image",
    "source.image.resolvemode",
    "source.image.layerlimit",
    "source.image.checksum",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.local.differ",
    "source.ocilayout",
    "source.git",
    "source.git.keepgitdir",
    "source.git.fullurl",
    "source.git.httpauth",
    "source.git.knownsshhosts",
    "source.git.mountsshsock",
    "source.git.subdir",
    "source.git.checksum",
    "source.git.skipsubmodules",
    "source.git.mtime",
    "source.git.fetchbycommit",
    "source.http",
    "source.http.checksum",
    "source.http.perm",
    // As BuildKit spells it.
    "soruce.http.uidgid",
    "source.http.auth",
    "source.http.header",
    "exec.meta.base",
    "exec.meta.cdi",
    "exec.meta.cgroup.parent",
    "exec.meta.network",
    "exec.meta.proxyenv",
    "exec.meta.security",
    "exec.meta.setsdefaultpath",
    "exec.meta.ulimit",
    "exec.meta.removemountstubs.recursive",
    "exec.meta.linux.resources",
    "exec.mount.bind",
    "exec.mount.bind.readwrite-nooutput",
    "exec.mount.cache",
    "exec.mount.cache.sharing",
    "exec.mount.selector",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "exec.mount.secret",
    "exec.mount.ssh",
    "exec.mount.cache.content",
    "exec.cgroup",
    "exec.secretenv",
    "exec.validexitcode",
    "file.base",
    "file.rm.wildcard",
    "file.copy.includeexcludepatterns",
    "file.copy.requiredpaths",
    "file.rm.nofollowsymlink",
    "file.copy.alwaysreplaceexistingdestpaths",
    "file.copy.modestring",
    "file.symlink.create",
    "source.buildop.llbfilename",
    "passthroughop",
    "constraints",
    "platform",
    "meta.ignorecache",
    "meta.description",
    "meta.exportcache",
    "mergeop",
    "diffop",
    "exporter.image.annotations",
    "exporter.sourcedateepoch",
    "exporter.multiple",
    "source.policy",
    "source.policy.session",
    "gc.freespacefilter",
    "exporter.image.attestations",
];

/// Capabilities of the gateway: what a frontend may ask of the daemon.
pub const GATEWAY: &[&str] = &[
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
    "proto.refarray",
    "reference.output",
    "reference.attestations",
    "frontend.inputs",
    "gateway.solve.metadata",
    "gateway.exec",
    "gateway.exec.extrahosts",
    "gateway.exec.secretenv",
    "gateway.exec.signals",
    "gateway.exec.filesystem",
    "frontend.caps",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
    "source.metaresolver",
    "importcaches",
];

/// The first capability that `wanted` names and `offered` lacks.
pub fn missing<'a>(wanted: impl IntoIterator<Item = &'a str>, offered: &[&str]) -> Option<&'a str> {
    wanted.into_iter().find(|cap| !offered.contains(cap))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_capability_stands_twice() {
        for list in [LLB, GATEWAY] {
            let mut sorted = list.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), list.len());
        }
    }

    #[test]
    fn the_first_missing_capability_is_named() {
        assert_eq!(missing(["platform", "warp", "drive"], LLB), Some("warp"));
        assert_eq!(missing(["platform", "mergeop"], LLB), None);
    }
}
