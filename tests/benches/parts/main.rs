//! The parts of a crawl that take time, each by itself: `cargo bench --package crawlify-tests --bench parts`, or one of
//! them by a part of its name behind `--`. `make bench` runs them all.
//!
//! Those that need no server come first. `database` starts a private Postgres with fsync on.

mod database;
mod messages;
mod urls;
mod values;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    // Long enough to tell a tenth apart, and short enough that all of them take less than three minutes.
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500))
        .configure_from_args();
    urls::measure(&mut criterion);
    values::measure(&mut criterion);
    messages::measure(&mut criterion);
    database::measure(&mut criterion);
    criterion.final_summary();
}
