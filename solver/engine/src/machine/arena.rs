//! Slots with numbers that are used again. It never checks that a number is still meant: owners forget theirs in time.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// A number of a slot.
pub(super) trait Slot: Copy {
    fn new(number: u32) -> Self;
    fn number(self) -> u32;
}

pub(super) struct Arena<I, T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
    numbers: PhantomData<I>,
}

impl<I, T> Default for Arena<I, T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            numbers: PhantomData,
        }
    }
}

impl<I: Slot, T> Arena<I, T> {
    pub(super) fn insert(&mut self, value: T) -> I {
        if let Some(number) = self.free.pop() {
            self.slots[number as usize] = Some(value);
            return I::new(number);
        }
        self.slots.push(Some(value));
        let number = u32::try_from(self.slots.len() - 1).expect("4 billion vertices fit no memory");
        I::new(number)
    }

    pub(super) fn remove(&mut self, at: I) -> Option<T> {
        let value = self.slots.get_mut(at.number() as usize)?.take()?;
        self.free.push(at.number());
        Some(value)
    }

    pub(super) fn contains(&self, at: I) -> bool {
        matches!(self.slots.get(at.number() as usize), Some(Some(_)))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl<I: Slot, T> Index<I> for Arena<I, T> {
    type Output = T;

    fn index(&self, at: I) -> &T {
        self.slots[at.number() as usize]
            .as_ref()
            .expect("a slot lives as long as somebody names it")
    }
}

impl<I: Slot, T> IndexMut<I> for Arena<I, T> {
    fn index_mut(&mut self, at: I) -> &mut T {
        self.slots[at.number() as usize]
            .as_mut()
            .expect("a slot lives as long as somebody names it")
    }
}
