//! Random choices that a seed repeats. Decides nothing else.

/// A small generator of random numbers: the same seed, the same numbers, on every machine.
pub(crate) struct Random(u64);

impl Random {
    /// The one for the `number`th input of `seed`: any input can be made again alone.
    pub(crate) fn of(seed: u64, number: u64) -> Self {
        // Two numbers in a row must not start within one another's sequence.
        let start = Self(number).next();
        Self(start ^ Self(seed).next().rotate_left(17))
    }

    // splitmix64
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 for an empty range.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).expect("lengths fit 64 bits");
        usize::try_from(self.next() % end).expect("it is below a length")
    }

    /// A number from `low` to `high`.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True `percent` times in a hundred.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub(crate) fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}
