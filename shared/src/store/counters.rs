//! Durations as mergeable bucket counts: quantiles of 20 million runs cost as much as those of 20.
//!
//! The bounds are part of the schema (`node_counters.durations`): changing them makes older rows wrong.

use std::time::Duration;

/// Upper bounds of the buckets, inclusive, in microseconds. One more bucket, without a bound, follows the last.
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

/// How many counts an array of durations has.
pub const DURATION_BUCKETS: usize = DURATION_BUCKETS_US.len() + 1;

/// The index of the bucket that a duration falls into.
pub fn bucket(duration_us: i64) -> usize {
    DURATION_BUCKETS_US.partition_point(|&bound| bound < duration_us)
}

/// Estimates a quantile (`q` between 0 and 1) by interpolating within its bucket, as Prometheus'
/// `histogram_quantile` does. The open bucket gives its lower bound: the true value is at least that.
///
/// `None` where nothing was counted, or where `counts` is no array of these buckets.
pub fn quantile(counts: &[i64], q: f64) -> Option<Duration> {
    if counts.len() != DURATION_BUCKETS || counts.iter().any(|&count| count < 0) {
        return None;
    }
    let total: i64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = q.clamp(0.0, 1.0) * total as f64;
    let mut before = 0_i64;
    for (index, &count) in counts.iter().enumerate() {
        let through = before + count;
        if count > 0 && through as f64 >= rank {
            let lower = if index == 0 { 0 } else { DURATION_BUCKETS_US[index - 1] };
            let upper = DURATION_BUCKETS_US.get(index).copied().unwrap_or(lower);
            let share = ((rank - before as f64) / count as f64).clamp(0.0, 1.0);
            let micros = lower as f64 + (upper - lower) as f64 * share;
            return Some(Duration::from_micros(micros.round() as u64));
        }
        before = through;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(filled: &[(usize, i64)]) -> [i64; DURATION_BUCKETS] {
        let mut counts = [0; DURATION_BUCKETS];
        for &(index, count) in filled {
            counts[index] = count;
        }
        counts
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_it_closes() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(100), 0);
        assert_eq!(bucket(101), 1);
        assert_eq!(bucket(300_000_000), 19);
        assert_eq!(bucket(300_000_001), 20);
    }

    #[test]
    fn the_bounds_rise() {
        assert!(DURATION_BUCKETS_US.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn nothing_counted_has_no_quantile() {
        assert_eq!(quantile(&counts(&[]), 0.5), None);
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[1, 2, 3], 0.5), None);
    }

    #[test]
    fn a_quantile_is_interpolated_within_its_bucket() {
        // 100 runs between 500 us and 1 ms: the median is in the middle of it.
        assert_eq!(quantile(&counts(&[(3, 100)]), 0.5), Some(Duration::from_micros(750)));
        // 90 runs up to 100 us, 10 between 2.5 and 5 ms: the 95th percentile halves the latter.
        let two = counts(&[(0, 90), (5, 10)]);
        assert_eq!(quantile(&two, 0.9), Some(Duration::from_micros(100)));
        assert_eq!(quantile(&two, 0.95), Some(Duration::from_micros(3_750)));
    }

    #[test]
    fn the_open_bucket_gives_its_lower_bound() {
        assert_eq!(quantile(&counts(&[(20, 3)]), 0.99), Some(Duration::from_secs(300)));
    }

    #[test]
    fn quantiles_never_fall_as_q_rises() {
        let mixed = counts(&[(0, 3), (4, 17), (9, 1), (15, 6), (20, 2)]);
        let values: Vec<_> = (0..=100).map(|q| quantile(&mixed, f64::from(q) / 100.0).unwrap()).collect();
        assert!(values.windows(2).all(|pair| pair[0] <= pair[1]));
    }
}
