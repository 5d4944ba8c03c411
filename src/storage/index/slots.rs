//! The slots of the index and the lists that run through them.
//!
//! Slots are in chunks, so that growth copies nothing and never holds the memory twice.

use super::KEY_BYTES;

/// No slot.
const NONE: u32 = u32::MAX;
/// Slots that are allocated together.
const CHUNK: usize = 8192;
/// So many are looked at to find a place by use; what belongs further back is put there.
const MAX_STEPS: usize = 4096;

/// Where a blob stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum List {
    /// In none: just made, or free.
    None,
    /// By last use.
    Ordered,
    /// Seen by the walk, in no order.
    Walked,
    /// Seen by the walk, and so small that it may be a manifest.
    Unsure,
    /// Not to be evicted.
    Pinned,
}

/// How many lists there are.
const LISTS: usize = 5;

/// One blob, in one line of the processor's cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) key: [u8; KEY_BYTES],
    pub(super) used_ms: u64,
    pub(super) sectors: u32,
    /// What its file has been told.
    pub(super) noted_seconds: u32,
    older: u32,
    newer: u32,
    pub(super) list: List,
    pub(super) is_long: bool,
}

impl Slot {
    const EMPTY: Self = Self::of([0; KEY_BYTES], false);

    /// A slot in no list.
    pub(super) const fn of(key: [u8; KEY_BYTES], is_long: bool) -> Self {
        Self { key, used_ms: 0, sectors: 0, noted_seconds: 0, older: NONE, newer: NONE, list: List::None, is_long }
    }
}

const _: () = assert!(size_of::<Slot>() == 64);

#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: u32,
    newest: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Slots {
    chunks: Vec<Box<[Slot]>>,
    /// Slots that were ever used.
    ever_used: u32,
    /// First of the free ones; they are linked by `newer`.
    free: u32,
    ends: [Ends; LISTS],
}

impl Default for Slots {
    fn default() -> Self {
        Self { chunks: Vec::new(), ever_used: 0, free: NONE, ends: [Ends { oldest: NONE, newest: NONE }; LISTS] }
    }
}

impl Slots {
    pub(super) fn get(&self, slot: u32) -> Option<&Slot> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Slot> {
        let slot = slot as usize;
        self.chunks.get_mut(slot / CHUNK)?.get_mut(slot % CHUNK)
    }

    /// The list a slot is in.
    pub(super) fn list(&self, slot: u32) -> List {
        self.get(slot).map_or(List::None, |it| it.list)
    }

    /// Puts `content` into a slot that is in no list.
    pub(super) fn allocate(&mut self, content: Slot) -> u32 {
        let reused = self.free;
        if let Some(next) = self.get(reused).map(|it| it.newer) {
            self.free = next;
            self.put(reused, content);
            return reused;
        }
        let slot = self.ever_used;
        if slot as usize >= self.chunks.len() * CHUNK {
            self.chunks.push(vec![Slot::EMPTY; CHUNK].into_boxed_slice());
        }
        self.ever_used += 1;
        self.put(slot, content);
        slot
    }

    /// Takes a slot out of its list, for others to use.
    pub(super) fn free(&mut self, slot: u32) {
        self.unlink(slot);
        self.put(slot, Slot { newer: self.free, ..Slot::EMPTY });
        self.free = slot;
    }

    pub(super) fn unlink(&mut self, slot: u32) {
        let Some(it) = self.get_mut(slot).filter(|it| it.list != List::None) else { return };
        let Slot { older, newer, list, .. } = *it;
        (it.older, it.newer, it.list) = (NONE, NONE, List::None);
        match self.get_mut(older) {
            Some(neighbour) => neighbour.newer = newer,
            None => self.set_ends(list, |ends| ends.oldest = newer),
        }
        match self.get_mut(newer) {
            Some(neighbour) => neighbour.older = older,
            None => self.set_ends(list, |ends| ends.newest = older),
        }
    }

    pub(super) fn push_newest(&mut self, slot: u32, list: List) {
        let older = self.ends(list).newest;
        self.link(slot, list, older, NONE);
    }

    pub(super) fn push_oldest(&mut self, slot: u32, list: List) {
        let newer = self.ends(list).oldest;
        self.link(slot, list, NONE, newer);
    }

    /// Puts a slot behind those of an ordered list that were used later.
    pub(super) fn push_by_use(&mut self, slot: u32, list: List) {
        let used_ms = self.get(slot).map_or(0, |it| it.used_ms);
        let (mut older, mut newer) = (self.ends(list).newest, NONE);
        for _ in 0..MAX_STEPS {
            let Some(it) = self.get(older).filter(|it| it.used_ms > used_ms) else { break };
            (older, newer) = (it.older, older);
        }
        self.link(slot, list, older, newer);
    }

    /// The oldest slots of a list, at most `count`.
    pub(super) fn oldest_few(&self, list: List, count: usize) -> impl Iterator<Item = (u32, &Slot)> {
        let mut next = self.ends(list).oldest;
        let few = std::iter::from_fn(move || {
            let (number, slot) = (next, self.get(next)?);
            next = slot.newer;
            Some((number, slot))
        });
        few.take(count)
    }

    fn put(&mut self, slot: u32, content: Slot) {
        if let Some(it) = self.get_mut(slot) {
            *it = content;
        }
    }

    fn link(&mut self, slot: u32, list: List, older: u32, newer: u32) {
        if let Some(it) = self.get_mut(slot) {
            (it.older, it.newer, it.list) = (older, newer, list);
        }
        match self.get_mut(older) {
            Some(neighbour) => neighbour.newer = slot,
            None => self.set_ends(list, |ends| ends.oldest = slot),
        }
        match self.get_mut(newer) {
            Some(neighbour) => neighbour.older = slot,
            None => self.set_ends(list, |ends| ends.newest = slot),
        }
    }

    fn ends(&self, list: List) -> Ends {
        self.ends.get(list as usize).copied().unwrap_or(Ends { oldest: NONE, newest: NONE })
    }

    fn set_ends(&mut self, list: List, set: impl FnOnce(&mut Ends)) {
        if let Some(ends) = self.ends.get_mut(list as usize) {
            set(ends);
        }
    }
}
