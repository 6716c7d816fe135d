//! What the benchmarks share: pages as the demo shop gives them, a crawl's rows to measure statements on, the machine
//! that measured, and what processes use.

pub mod machine;
pub mod metrics_text;
pub mod pages;
pub mod processes;
pub mod shop_crawl;
pub mod stalls;

/// A query: the bytes of a node's record, with those of its indexes.
pub const RECORD_BYTES: &str =
    "SELECT (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('node_records') WHERE isleaf)::int8
        / greatest((SELECT count(*) FROM node_records), 1)";

/// The middle one of some figures; of an even number, the mean of the two in the middle. Zero where there are none.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        length if length % 2 == 0 => (figures[middle - 1] + figures[middle]) / 2.0,
        _ => figures[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_the_sorted_figures() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }
}
