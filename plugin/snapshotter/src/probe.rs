//! Decides whether the root's filesystem can hold overlay layers, by mounting one: detached, so that no process ever
//! sees it, and gone when the descriptor closes. Also decides which options this kernel's overlayfs wants spelled out.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, mkdirat, unlinkat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    },
};

use crate::{
    error::{Error, Result},
    layout::Layout,
};

/// Options without which an upper directory may not be a complete layer, if the kernel knows them. Never `userxattr`:
/// a layer written with it means something else to everybody who mounts without.
const COMPLETE_LAYERS: [&str; 3] = ["index", "redirect_dir", "metacopy"];

/// Tries the root out and returns the mount options for it.
pub(crate) fn overlay_options(layout: &Layout) -> Result<Vec<String>> {
    let probe = Probe::new(layout)?;
    let outcome = probe.run();
    let removed = fs::remove_dir_all(&probe.dir).map_err(Error::io("deleting", &probe.dir));
    let options = outcome.map_err(|trial| Error::UnfitFilesystem {
        root: layout.root().into(),
        fs_type: filesystem_type(layout.root()).unwrap_or_else(|| "unknown".into()),
        why: trial.why,
        source: trial.source,
    })?;
    removed?;
    Ok(options)
}

struct Failed {
    why: &'static str,
    source: Option<io::Error>,
}

fn failed<E: Into<io::Error>>(why: &'static str) -> impl FnOnce(E) -> Failed {
    move |source| Failed {
        why,
        source: Some(source.into()),
    }
}

struct Probe {
    dir: PathBuf,
}

impl Probe {
    fn new(layout: &Layout) -> Result<Self> {
        let dir = layout.trash().join("probe");
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(Error::io("deleting", &dir))?;
        }
        for sub in ["lower/dir", "upper", "work"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(Error::io("creating", path))?;
        }
        let file = dir.join("lower/file");
        fs::write(&file, "").map_err(Error::io("writing", file))?;
        Ok(Self { dir })
    }

    /// Deletes a file and replaces a directory, then looks for the marks of it in the upper directory.
    fn run(&self) -> Result<Vec<String>, Failed> {
        let (mount, options) = self.mount()?;
        unlinkat(&mount, "file", AtFlags::empty())
            .map_err(failed("deleting a lower file fails"))?;
        unlinkat(&mount, "dir", AtFlags::REMOVEDIR)
            .map_err(failed("deleting a lower directory fails"))?;
        mkdirat(&mount, "dir", Mode::RWXU).map_err(failed("replacing a lower directory fails"))?;
        let whiteout = fs::symlink_metadata(self.dir.join("upper/file"));
        let whiteout = whiteout.map_err(failed("a deletion leaves no whiteout"))?;
        if !whiteout.file_type().is_char_device() || whiteout.rdev() != 0 {
            return Err(Failed {
                why: "a deletion does not leave a 0/0 device",
                source: None,
            });
        }
        let mut value = [0; 1];
        let opaque = self.dir.join("upper/dir");
        match rustix::fs::lgetxattr(&opaque, c"trusted.overlay.opaque", value.as_mut_slice()) {
            Ok(_) if value == *b"y" => Ok(options),
            Ok(_) => Err(Failed {
                why: "a replaced directory is not marked opaque",
                source: None,
            }),
            Err(e) => Err(failed("a replaced directory is not marked opaque")(e)),
        }
    }

    fn mount(&self) -> Result<(OwnedFd, Vec<String>), Failed> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed(
            "this kernel has no overlayfs, or this process may not mount",
        ))?;
        let options = known_options();
        for option in &options {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            fsconfig_set_string(&context, key, value)
                .map_err(failed("overlayfs refuses an option"))?;
        }
        // Values are limited to 256 bytes, the root's path is not: name the directories by descriptor.
        let mut open = Vec::new();
        for (key, sub) in [
            ("lowerdir", "lower"),
            ("upperdir", "upper"),
            ("workdir", "work"),
        ] {
            let dir = fs::File::open(self.dir.join(sub))
                .map_err(failed("a directory cannot be opened"))?;
            let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
            fsconfig_set_string(&context, key, path)
                .map_err(failed("overlayfs refuses a directory"))?;
            open.push(dir);
        }
        fsconfig_create(&context).map_err(|e: Errno| failed("overlayfs does not mount")(e))?;
        let mount = fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        );
        Ok((mount.map_err(failed("overlayfs does not mount"))?, options))
    }
}

/// `index=off` and so on, for those that the kernel has. The module's parameters appear when it is loaded, which
/// `fsopen` has done.
fn known_options() -> Vec<String> {
    let parameters = Path::new("/sys/module/overlay/parameters");
    let known = |name: &&&str| parameters.join(name).exists();
    COMPLETE_LAYERS
        .iter()
        .filter(known)
        .map(|name| format!("{name}=off"))
        .collect()
}

/// What /proc/self/mountinfo says of the filesystem that a path is on.
fn filesystem_type(path: &Path) -> Option<String> {
    let device = fs::metadata(path).ok()?.dev();
    let device = format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some(&device))?;
    mount
        .split(" - ")
        .nth(1)?
        .split(' ')
        .next()
        .map(str::to_owned)
}
