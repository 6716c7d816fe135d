//! A dispatcher's step, with few and with very many pages waiting on many hosts.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::control::CancelMode;
use harness::crawl::NO_LIMITS;

use crate::fleet::Fleet;
use crate::frontier::fill;
use crate::verdict::Verdicts;

/// Pages that a step asks for: the window of a fleet with 16 slots.
const ROOM: i64 = 64;
const FEW: i64 = 100_000;
/// Steps that warm up, and steps that are measured: as many as the few pages allow.
const WARM_UP: usize = 100;
const STEPS: usize = 1_400;
/// So many steps are taken with the few pages, then so many with the many, and so on: what else the machine does is shared.
const TURN: usize = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many pages wait in the end.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pages: i64,
    /// On how many hosts.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    hosts: i64,
    /// Settings of Postgres that need no restart, such as `wal_compression=lz4`.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
}

/// Measures it.
///
/// # Errors
/// Postgres does not start or does not answer.
pub(crate) async fn measure(options: &Options, verdicts: &mut Verdicts) -> Result<()> {
    let (few, many) = (Fleet::without_processes().await?, Fleet::without_processes().await?);
    for fleet in [&few, &many] {
        fleet.set(&options.settings).await?;
    }
    for (what, delay) in [("no delay", Duration::ZERO), ("1 s a host", Duration::from_secs(1))] {
        let limits = Limits { rate_limit_delay: delay, ..NO_LIMITS };
        let mut sides = [
            Side::fill(&few, limits, FEW, options.hosts).await?,
            Side::fill(&many, limits, options.pages, options.hosts).await?,
        ];
        for side in &mut sides {
            side.steps(WARM_UP).await?;
            side.times.clear();
        }
        for _ in 0..STEPS / TURN {
            for side in &mut sides {
                side.steps(TURN).await?;
            }
        }
        let [of_few, of_many] = sides.each_mut().map(|side| side.percentile(99));
        let title =
            |percentile: usize, pages: i64| format!("p{percentile} of a step, {pages} pages, {what}, ms");
        for (side, pages) in sides.iter_mut().zip([FEW, options.pages]) {
            verdicts.figure(&title(50, pages), format!("{:.1}", side.percentile(50)));
        }
        verdicts.figure(&title(99, FEW), format!("{of_few:.1}"));
        verdicts.at_most(&title(99, options.pages), of_many, 50.0);
        verdicts.at_most(&format!("the second against the first, {what}"), of_many / of_few, 1.5);
        for side in sides {
            side.empty().await?;
        }
    }
    few.stop().await;
    many.stop().await;
    Ok(())
}

/// A database in which so many pages of one execution wait.
struct Side<'a> {
    fleet: &'a Fleet,
    execution: ExecutionId,
    /// Of each step, in milliseconds.
    times: Vec<f64>,
}

impl<'a> Side<'a> {
    async fn fill(fleet: &'a Fleet, limits: Limits, pages: i64, hosts: i64) -> Result<Self> {
        let execution = fleet.execute(&["http://h0.test/".to_owned()], limits).await?;
        let begun = Instant::now();
        fill(fleet, execution, pages, hosts).await?;
        writeln!(std::io::stderr(), "{pages} pages written in {:.0?}", begun.elapsed())?;
        fleet.settle().await?;
        Ok(Self { fleet, execution, times: Vec::new() })
    }

    /// Takes steps of a dispatcher: what runs, who lives, which pages, whose ends do not matter here.
    async fn steps(&mut self, count: usize) -> Result<()> {
        let Self { fleet, execution, times } = self;
        for _ in 0..count {
            let begun = Instant::now();
            fleet.store.running_executions(Some(*execution)).await?;
            fleet.store.wanted_pages(Duration::from_secs(15)).await?;
            let pages = fleet.store.reserve_pages(*execution, ROOM).await?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            ensure!(!pages.is_empty(), "a step found no page");
            // They have ended: a window is never larger than the fleet.
            let ids: Vec<_> = pages.iter().map(|page| page.page_id.0).collect();
            let end = "UPDATE url_queue SET status = 'completed' WHERE id = ANY($1)";
            fleet.client.execute(end, &[&ids]).await?;
        }
        Ok(())
    }

    fn percentile(&mut self, percent: usize) -> f64 {
        self.times.sort_by(f64::total_cmp);
        self.times[self.times.len() * percent / 100]
    }

    async fn empty(self) -> Result<()> {
        self.fleet.store.cancel_execution(self.execution, CancelMode::Graceful, None).await?;
        self.fleet.client.batch_execute("TRUNCATE url_queue, lost_attempts, lanes, hosts").await?;
        Ok(())
    }
}
