//! Counts how many different things were seen, in bounded space: exactly while they are few, by estimate beyond that.
//!
//! Keeps the smallest of their hashes. The more there are, the closer to zero the last of these lies (Bar-Yossef et al.,
//! "Counting distinct elements in a data stream", 2002).

use std::hash::{DefaultHasher, Hash, Hasher};

/// The smallest hashes of what was seen.
#[derive(Clone, Debug)]
pub(super) struct Distinct {
    /// In ascending order.
    smallest: Vec<u64>,
    kept: usize,
}

impl Distinct {
    /// Counts exactly up to `kept` different things; beyond that, one time in three the error is more than one in
    /// √kept.
    pub(super) fn new(kept: usize) -> Self {
        Self { smallest: Vec::new(), kept: kept.max(2) }
    }

    /// Notes that something was seen.
    pub(super) fn see(&mut self, thing: &(impl Hash + ?Sized)) {
        let mut hasher = DefaultHasher::new();
        thing.hash(&mut hasher);
        let hash = hasher.finish();
        if let Err(place) = self.smallest.binary_search(&hash)
            && place < self.kept
        {
            self.smallest.truncate(self.kept - 1);
            self.smallest.insert(place, hash);
        }
    }

    /// How many different things were seen, roughly.
    pub(super) fn count(&self) -> u64 {
        match self.smallest.last() {
            Some(last) if self.smallest.len() == self.kept => {
                let share = *last as f64 / u64::MAX as f64;
                ((self.kept - 1) as f64 / share).round() as u64
            }
            _ => self.smallest.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_counted_exactly_and_each_once() {
        let mut distinct = Distinct::new(64);
        for number in (0..60).chain(0..60) {
            distinct.see(&number);
        }
        assert_eq!(distinct.count(), 60);
    }

    #[test]
    fn many_are_counted_roughly_in_bounded_space() {
        let mut distinct = Distinct::new(256);
        for number in 0..100_000_u32 {
            distinct.see(&number);
            distinct.see(&(number / 2));
        }
        assert!((80_000..120_000).contains(&distinct.count()), "{}", distinct.count());
        assert_eq!(distinct.smallest.len(), 256);
    }
}
