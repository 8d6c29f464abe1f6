//! Which inodes of other layers have a name in an upper directory, and through which copy. Two names of one inode in
//! the same layer are a hard link in its archive, so only names that were one inode in one source layer may become that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Device and number of an inode.
type Inode = (u64, u64);
/// Number of a copy, and a layer of its source.
type Claimant = (u32, usize);

/// The inodes that are linked.
#[derive(Debug, Default)]
pub(super) struct Links {
    claimed: Mutex<HashMap<Inode, Claimant>>,
    copies: AtomicU32,
}

impl Links {
    /// A number for a copy that begins.
    pub(super) fn next_copy(&self) -> u32 {
        self.copies.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether an inode may be linked for that claimant; it is claimed then.
    pub(super) fn claim(&self, inode: Inode, claimant: Claimant) -> bool {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        match claimed.entry(inode) {
            Entry::Occupied(there) => *there.get() == claimant,
            Entry::Vacant(free) => {
                free.insert(claimant);
                true
            }
        }
    }
}
