//! A list that only grows, in parts, so that growing moves nothing.

/// The number of an item, from 0 on.
pub(super) type Number = u32;

const PART: usize = 1024;

/// See the module.
pub(super) struct Parts<T> {
    parts: Vec<Vec<T>>,
    len: Number,
}

impl<T> Default for Parts<T> {
    fn default() -> Self {
        Self {
            parts: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Parts<T> {
    pub(super) fn len(&self) -> Number {
        self.len
    }

    pub(super) fn at(&self, number: Number) -> &T {
        &self.parts[number as usize / PART][number as usize % PART]
    }

    pub(super) fn at_mut(&mut self, number: Number) -> &mut T {
        &mut self.parts[number as usize / PART][number as usize % PART]
    }

    /// Adds an item and returns its number.
    pub(super) fn push(&mut self, item: T) -> Number {
        let number = self.len;
        // Half of the numbers are for others to use, see [`Order`](super::order::Order).
        assert!(number < Number::MAX / 2, "a buffer has less than 2^31 rows");
        if (number as usize).is_multiple_of(PART) {
            self.parts.push(Vec::with_capacity(PART));
        }
        self.parts[number as usize / PART].push(item);
        self.len += 1;
        number
    }
}
