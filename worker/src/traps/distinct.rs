//! Counts how many different things were seen, and which share of them two have in common, in bounded space: exactly while
//! they are few, by estimate beyond that.
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

    /// Which share of what two have seen both have seen (twice what they have in common by the sum of what each has), roughly
    /// where one of them has seen more than is kept. Of nothing all is in common.
    ///
    /// Up to the last hash that each is sure to have kept, all are known of both, and those are as good as drawn by lot
    /// (Cohen, Kaplan, "Summarizing data using bottom-k sketches", 2007).
    pub(super) fn share_in_common(&self, other: &Self) -> f64 {
        let known_of_both = self.known_up_to().min(other.known_up_to());
        let (ours, theirs) = (self.up_to(known_of_both), other.up_to(known_of_both));
        let common = ours.iter().filter(|hash| theirs.binary_search(hash).is_ok()).count();
        match ours.len() + theirs.len() {
            0 => 1.0,
            all => 2.0 * common as f64 / all as f64,
        }
    }

    /// No hash up to this one was dropped.
    fn known_up_to(&self) -> u64 {
        match self.smallest.last() {
            Some(last) if self.smallest.len() == self.kept => *last,
            _ => u64::MAX,
        }
    }

    fn up_to(&self, hash: u64) -> &[u64] {
        &self.smallest[..self.smallest.partition_point(|kept| *kept <= hash)]
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

    #[test]
    fn what_two_have_in_common_is_known_exactly_of_few_and_roughly_of_many() {
        let share = |count: u32, different: u32| {
            let (mut ours, mut theirs) = (Distinct::new(256), Distinct::new(256));
            (0..count).for_each(|number| ours.see(&number));
            (different..count + different).for_each(|number| theirs.see(&number));
            ours.share_in_common(&theirs)
        };
        for (count, different) in [(200, 0), (200, 1), (200, 50), (200, 200)] {
            assert_eq!(share(count, different), f64::from(count - different) / f64::from(count));
        }
        for (count, different) in [(10_000, 0), (10_000, 100), (10_000, 3_000), (10_000, 10_000)] {
            let (found, exact) = (share(count, different), 1.0 - f64::from(different) / f64::from(count));
            assert!((found - exact).abs() < 0.1, "{found} for {exact}");
        }
        assert_eq!(Distinct::new(256).share_in_common(&Distinct::new(256)), 1.0);
    }
}
