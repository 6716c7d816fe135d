//! Pages and node rows a second: one execution without limits, four workers, for some minutes.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use harness::bench::RECORD_BYTES;
use harness::bench::processes::{Snapshot, TreeTime};
use harness::crawl::NO_LIMITS;
use harness::synthetic::page_address;
use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::verdict::Verdicts;

/// How long the crawl goes on before it is measured.
const WARM_UP: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long it is measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    seconds: u64,
    /// Worker processes.
    #[arg(long, value_name = "N", default_value_t = 4)]
    workers: usize,
    /// Slots of each.
    #[arg(long, value_name = "N", default_value_t = 64)]
    slots: usize,
}

/// Measures it.
///
/// # Errors
/// The fleet does not start, or the database does not answer.
pub(crate) async fn measure(options: &Options, verdicts: &mut Verdicts) -> Result<()> {
    let fleet = Fleet::start(options.workers, options.slots, false).await?;
    fleet.execute(&[page_address("site.test", 1)], NO_LIMITS).await?;
    tokio::time::sleep(WARM_UP).await;
    let (begun, before, before_by_name) = (Instant::now(), counted(&fleet).await?, cpu(&fleet));
    let (mut last, mut slowest) = ((begun, before), f64::MAX);
    while begun.elapsed() < Duration::from_secs(options.seconds) {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let now = (Instant::now(), counted(&fleet).await?);
        let rate = (now.1.0 - last.1.0) as f64 / (now.0 - last.0).as_secs_f64();
        slowest = slowest.min(rate);
        writeln!(std::io::stderr(), "{:>4.0} s  {rate:>6.0} pages/s", begun.elapsed().as_secs_f64())?;
        last = now;
    }
    let (seconds, after, after_by_name) =
        (begun.elapsed().as_secs_f64(), counted(&fleet).await?, cpu(&fleet));
    verdicts.figure("seconds measured", format!("{seconds:.0}"));
    verdicts.at_least("pages/s", (after.0 - before.0) as f64 / seconds, 1_000.0);
    verdicts.at_least("node rows/s", (after.1 - before.1) as f64 / seconds, 20_000.0);
    verdicts.figure("pages/s in the slowest 10 s", format!("{slowest:.0}"));
    let [median, p99] = latency(&fleet).await?;
    verdicts.figure("from a page's dispatch to its first node, median, ms", format!("{median:.0}"));
    verdicts.figure("the same, p99, ms", format!("{p99:.0}"));
    let pages = (after.0 - before.0).max(1) as f64;
    for ((name, before), (_, after)) in before_by_name.iter().zip(&after_by_name) {
        let spent = after.saturating_sub(*before);
        let share = 100.0 * spent.as_secs_f64() / seconds;
        let each = 1e6 * spent.as_secs_f64() / pages;
        verdicts.figure(&format!("processor: {name}"), format!("{share:.0} %, {each:.0} us a page"));
    }
    let failed =
        fleet.number("SELECT count(*) FROM url_queue WHERE status = 'failed' OR attempt > 1").await?;
    verdicts.at_most("pages that failed or were tried twice", failed as f64, 0.0);
    let bytes = fleet.number(RECORD_BYTES).await?;
    verdicts.at_most("bytes of a node's record, indexes included", bytes as f64, 300.0);
    fleet.stop().await;
    Ok(())
}

/// Pages and node rows so far.
async fn counted(fleet: &Fleet) -> Result<(i64, i64)> {
    let query =
        "SELECT COALESCE(sum(completed), 0)::int8, COALESCE(sum(nodes_executed), 0)::int8 FROM page_counters";
    let row = fleet.client.query_one(query, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// Milliseconds from the dispatch of a page to the start of its first node, of the pages that were completed last: the median, and
/// the 99th percentile.
async fn latency(fleet: &Fleet) -> Result<[f64; 2]> {
    let query = "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)
        FROM (
            SELECT EXTRACT(EPOCH FROM min(n.started_at) - q.queued_at)::float8 * 1000 AS ms
            FROM (SELECT id, queued_at FROM url_queue WHERE status = 'completed' ORDER BY processed_at DESC LIMIT 5000) q
                JOIN node_records n ON n.page_id = q.id
            GROUP BY q.id, q.queued_at
        ) latency";
    let row = fleet.client.query_one(query, &[]).await?;
    Ok([row.get(0), row.get(1)])
}

/// The processors' time of each process of the fleet so far, and of the servers, which are this program's other children.
fn cpu(fleet: &Fleet) -> Vec<(String, Duration)> {
    let snapshot = Snapshot::take();
    let ours = i32::try_from(std::process::id()).unwrap_or_default();
    let name =
        |pid| fleet.processes.iter().find(|(_, process)| process.id() == pid).map(|(name, _)| name.clone());
    let mut times: Vec<_> = snapshot
        .children(ours)
        .into_iter()
        .map(|child| {
            let mut time = TreeTime::default();
            time.look(&snapshot, [child]);
            (name(child.pid).unwrap_or_else(|| child.name.clone()), time.total())
        })
        .collect();
    times.sort();
    times
}
