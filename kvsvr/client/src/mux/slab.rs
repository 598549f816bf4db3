//! Places for what waits for a reply, found again by an id that is never used twice.

/// A slab of `T`s. An id is a slot and the number of the use of the slab, so that a late reply to a request that has been given
/// up never meets the slot's next user.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    uses: u32,
}

#[derive(Debug)]
struct Slot<T> {
    id: u64,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            uses: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Keeps a value and returns its id, which is never 0.
    pub(super) fn insert(&mut self, value: T) -> u64 {
        self.uses = self.uses.wrapping_add(1).max(1);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { id: 0, value: None });
            // The number of waiters is bounded far below u32::MAX.
            (self.slots.len() - 1) as u32
        });
        let id = u64::from(self.uses) << 32 | u64::from(index);
        self.slots[index as usize] = Slot {
            id,
            value: Some(value),
        };
        id
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, id: u64) -> Option<T> {
        let index = id as u32;
        let slot = self.slots.get_mut(index as usize).filter(|slot| slot.id == id)?;
        let value = slot.value.take()?;
        self.free.push(index);
        Some(value)
    }

    /// Takes out all values for which `take` holds.
    pub(super) fn remove_if(&mut self, mut take: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.value.as_ref().is_some_and(&mut take) {
                taken.extend(slot.value.take());
                self.free.push(index as u32);
            }
        }
        taken
    }

    /// Takes out everything.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.remove_if(|_| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_finds_its_value_once_and_no_other() {
        let mut slab = Slab::new();
        let a = slab.insert("a");
        let b = slab.insert("b");
        assert_eq!((slab.remove(a), slab.remove(a)), (Some("a"), None));
        let c = slab.insert("c"); // takes a's slot
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.len(), 2);
        assert_eq!(slab.remove_if(|v| *v == "b"), ["b"]);
        assert_eq!((slab.remove(b), slab.remove(c), slab.len()), (None, Some("c"), 0));
        assert_eq!(slab.remove(0), None);
        slab.insert("d");
        assert_eq!(slab.drain(), ["d"]);
        assert_eq!(slab.len(), 0);
    }
}
