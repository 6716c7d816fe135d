//! The seed of a random test, told, so that what went wrong can be had again.

use proptest::test_runner::{Config, RngSeed};

/// A configuration with a seed of its own, which whoever reads of a failure reads before it: `PROPTEST_RNG_SEED` takes it.
pub(crate) fn told(config: Config) -> Config {
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => rand::random(),
    };
    eprintln!("PROPTEST_RNG_SEED={seed}");
    Config { rng_seed: RngSeed::Fixed(seed), ..config }
}
