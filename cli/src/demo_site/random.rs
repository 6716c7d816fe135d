//! A small pseudo-random sequence (SplitMix64) of our own: a library's may change with its version, and then the shop
//! and its ground truth would change too. It is no source of secrets.

/// The sequence that belongs to a seed.
pub(super) struct Sequence(u64);

impl Sequence {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number less than `bound`. The slight bias of a remainder does not matter here.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        (self.bits() % u64::from(bound.max(1))) as u32
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high - low + 1)
    }

    /// One of the choices, of which there must be at least one.
    pub(super) fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len() as u32) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_splitmix64() {
        let mut sequence = Sequence::new(1234567);
        let first: Vec<u64> = (0..3).map(|_| sequence.bits()).collect();
        assert_eq!(first, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn numbers_stay_within_their_bounds() {
        let mut sequence = Sequence::new(7);
        let numbers: Vec<u32> = (0..1000).map(|_| sequence.between(3, 6)).collect();
        assert!(numbers.iter().all(|number| (3..=6).contains(number)));
        assert!([3, 4, 5, 6].iter().all(|wanted| numbers.contains(wanted)));
    }
}
