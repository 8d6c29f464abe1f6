//! Notices when the kernel kills in a control group for lack of memory. It never decides what is published.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use tokio::io::Interest;

use super::container::Container;
use crate::cgroup::Group;

/// Tells the container of each kill, until its group is gone.
pub(crate) async fn watch(container: Arc<Container>, group: Group) -> io::Result<()> {
    let Some(directory) = group.directory("memory").map(Path::to_owned) else {
        return Ok(());
    };
    let notices = crate::sys::watch(subscribe(&directory, group.is_unified())?)?;
    let mut known = group.oom_kills();
    loop {
        let mut bytes = [0; 4096];
        notices
            .async_io(Interest::READABLE, |notices| {
                Ok(rustix::io::read(notices, &mut bytes)?)
            })
            .await?;
        if !directory.exists() {
            return Ok(());
        }
        let kills = group.oom_kills();
        if kills > known {
            container.out_of_memory();
        }
        known = kills;
    }
}

/// v1 signals an eventfd, v2 changes a file.
fn subscribe(directory: &Path, unified: bool) -> io::Result<OwnedFd> {
    if unified {
        let watcher =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(
            &watcher,
            directory.join("memory.events"),
            inotify::WatchFlags::MODIFY,
        )?;
        return Ok(watcher);
    }
    let notices = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control = File::open(directory.join("memory.oom_control"))?;
    let line = format!("{} {}", notices.as_raw_fd(), control.as_raw_fd());
    fs::write(directory.join("cgroup.event_control"), line)?;
    Ok(notices)
}
