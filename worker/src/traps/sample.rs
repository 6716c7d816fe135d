//! Texts for tests of what counts as the same.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Words drawn by lot from so many, the same for the same seed.
pub(super) fn words(seed: u64, count: usize, vocabulary: u32) -> Vec<String> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count).map(|_| format!("w{}", random.random_range(0..vocabulary))).collect()
}
