//! Merges the lists that several calls give of one directory into the list that a single call would have given.

use std::collections::VecDeque;

use shipway_backend::session::in_transfer_order;
use shipway_proto::fsutil::Stat;

/// An entry as its call knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) call: usize,
    /// Its place in the call's list.
    pub(crate) id: u32,
}

/// Bytes of entries that a call may be ahead of the others before it is left to wait for them.
const AHEAD: usize = 32 << 20;
/// What an entry takes beside its texts.
const ENTRY: usize = 128;

/// The lists of all calls, as far as they have arrived.
pub(crate) struct Lists(Vec<List>);

#[derive(Default)]
struct List {
    taken: u32,
    waiting: VecDeque<Stat>,
    /// Bytes of what waits.
    bytes: usize,
    ended: bool,
}

fn bytes(stat: &Stat) -> usize {
    let xattrs = stat.xattrs.iter();
    let xattrs: usize = xattrs.map(|(name, value)| name.len() + value.len()).sum();
    ENTRY + stat.path.len() + stat.linkname.len() + xattrs
}

impl List {
    fn take(&mut self) -> Option<(u32, Stat)> {
        let stat = self.waiting.pop_front()?;
        self.bytes -= bytes(&stat);
        let id = self.taken;
        self.taken = id.wrapping_add(1);
        Some((id, stat))
    }
}

impl Lists {
    pub(crate) fn new(calls: usize) -> Self {
        Self((0..calls).map(|_| List::default()).collect())
    }

    /// Takes a call's next entry; false where its list has ended.
    pub(crate) fn push(&mut self, call: usize, stat: Stat) -> bool {
        let list = &mut self.0[call];
        list.bytes += bytes(&stat);
        list.waiting.push_back(stat);
        !list.ended
    }

    /// A call's list is complete; false where it was before.
    pub(crate) fn end(&mut self, call: usize) -> bool {
        !std::mem::replace(&mut self.0[call].ended, true)
    }

    /// The next entry of the whole list; `None` until enough has arrived. Of entries that several calls list, which are
    /// the parents of theirs, it is that of the first.
    pub(crate) fn next(&mut self) -> Option<(Origin, Stat)> {
        let mut first: Option<usize> = None;
        for (call, list) in self.0.iter().enumerate() {
            let Some(stat) = list.waiting.front() else {
                if list.ended {
                    continue;
                }
                return None;
            };
            let is_before = |first: usize| {
                let least = self.0[first].waiting.front();
                least.is_some_and(|least| in_transfer_order(&stat.path, &least.path).is_lt())
            };
            if first.is_none_or(is_before) {
                first = Some(call);
            }
        }
        let call = first?;
        let (id, stat) = self.0[call].take()?;
        for other in &mut self.0[call + 1..] {
            if other.waiting.front().is_some_and(|o| o.path == stat.path) {
                other.take();
            }
        }
        Some((Origin { call, id }, stat))
    }

    /// Whether so much of a call's list waits for the others' that it need not be read: none of it is what is waited for.
    pub(crate) fn is_ahead(&self, call: usize) -> bool {
        self.0[call].bytes > AHEAD
    }

    /// Every list has ended and was handed out.
    pub(crate) fn is_over(&self) -> bool {
        let is_over = |list: &List| list.ended && list.waiting.is_empty();
        self.0.iter().all(is_over)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stat(path: &str) -> Stat {
        Stat {
            path: path.into(),
            ..Default::default()
        }
    }

    fn all(lists: &mut Lists) -> Vec<(usize, u32, String)> {
        let next = || lists.next();
        let entries = std::iter::from_fn(next);
        entries.map(|(o, stat)| (o.call, o.id, stat.path)).collect()
    }

    #[test]
    fn nothing_is_told_before_each_call_has_said_what_comes_next() {
        let mut lists = Lists::new(2);
        assert!(lists.push(0, stat("b")));
        assert_eq!(all(&mut lists), []);
        assert!(lists.push(1, stat("a")));
        assert_eq!(all(&mut lists), [(1, 0, "a".into())]);
        assert!(lists.end(1));
        assert!(!lists.is_over());
        assert_eq!(all(&mut lists), [(0, 0, "b".into())]);
        assert!(lists.end(0));
        assert!(lists.is_over());
        assert!(!lists.push(0, stat("c")) && !lists.end(1));
    }

    #[test]
    fn a_call_far_ahead_of_the_others_waits_for_them() {
        let mut lists = Lists::new(2);
        let mut pushed = 0;
        while !lists.is_ahead(0) {
            assert!(lists.push(0, stat(&"b".repeat(4000))));
            pushed += 1;
        }
        assert!((4096..10_000).contains(&pushed), "{pushed}");
        assert!(!lists.is_ahead(1));
        lists.end(1);
        assert_eq!(all(&mut lists).len(), pushed);
        assert!(!lists.is_ahead(0));
    }

    proptest! {
        #[test]
        fn lists_that_overlap_are_the_whole_list(
            paths in prop::collection::btree_map("[a-c/.]{1,5}", 1_u8..8, 0..40),
        ) {
            // Each path is in the calls that its mask names.
            let mut paths: Vec<_> = paths.into_iter().collect();
            paths.sort_by(|(one, _), (other, _)| in_transfer_order(one, other));
            let mut lists = Lists::new(3);
            for call in 0..3 {
                for (path, _) in paths.iter().filter(|(_, mask)| mask & (1 << call) != 0) {
                    lists.push(call, stat(path));
                }
                lists.end(call);
            }
            let mut ids = [0; 3];
            let mut expected = Vec::new();
            for (path, mask) in paths {
                let first = mask.trailing_zeros() as usize;
                expected.push((first, ids[first], path));
                for (call, id) in ids.iter_mut().enumerate() {
                    *id += u32::from(mask >> call & 1);
                }
            }
            prop_assert_eq!(all(&mut lists), expected);
            prop_assert!(lists.is_over());
        }
    }
}
