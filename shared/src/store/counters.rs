//! Durations as mergeable bucket counts.

/// Upper bounds of the buckets in microseconds; one more bucket is open.
pub const DURATION_BUCKETS_US: [i64; 20] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
];

/// The bucket that a duration falls into.
pub fn bucket(duration_us: i64) -> usize {
    DURATION_BUCKETS_US.partition_point(|bound| *bound < duration_us)
}
