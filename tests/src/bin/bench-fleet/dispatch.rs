//! A dispatcher's step, with few and with very many pages waiting on many hosts.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::store::control::{CancelMode, LimitChanges};
use harness::crawl::NO_LIMITS;

use crate::fleet::Fleet;
use crate::frontier::fill;
use crate::profile::Profile;
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
    /// A setting of Postgres that needs no restart, such as `wal_compression=lz4`, which is tried beside none in each round.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// Also prints what the slowest one in a hundred steps wait for. Looking costs time itself.
    #[arg(long)]
    profile: bool,
    /// How many rounds are measured of each pace, the few pages written anew for each.
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: usize,
}

/// Measures it.
///
/// # Errors
/// Postgres does not start or does not answer.
pub(crate) async fn measure(options: &Options, verdicts: &mut Verdicts) -> Result<()> {
    let (few, many) = (Fleet::without_processes().await?, Fleet::without_processes().await?);
    let mut many_pages = Side::fill(&many, options.pages, options.hosts).await?;
    let settings: Vec<_> = std::iter::once(None).chain(options.settings.iter().cloned().map(Some)).collect();
    for (pace, delay_ms) in [("no delay", 0), ("1 s a host", 1_000)] {
        for (round, setting) in
            (1..=options.rounds).flat_map(|round| settings.iter().map(move |set| (round, set)))
        {
            for fleet in [&few, &many] {
                fleet.set(setting.as_slice()).await?;
            }
            let mut few_pages = Side::fill(&few, FEW, options.hosts).await?;
            let sides = [&mut few_pages, &mut many_pages];
            let what = format!("{pace}, round {round} {}", setting.as_deref().unwrap_or_default());
            measure_beside(sides, delay_ms, options, what.trim_end(), verdicts).await?;
            few_pages.empty().await?;
            for fleet in [&few, &many] {
                fleet.unset(setting.as_slice()).await?;
            }
        }
    }
    few.stop().await;
    many.stop().await;
    Ok(())
}

/// Takes steps of both by turns.
async fn measure_beside(
    mut sides: [&mut Side<'_>; 2],
    delay_ms: i32,
    options: &Options,
    what: &str,
    verdicts: &mut Verdicts,
) -> Result<()> {
    for side in &mut sides {
        side.begin(delay_ms).await?;
    }
    let profiles =
        options.profile.then(|| sides.each_ref().map(|side| Profile::start(side.fleet.database_url())));
    for _ in 0..STEPS / TURN {
        for side in &mut sides {
            side.steps(TURN).await?;
        }
    }
    let title = |percentile: usize, pages: i64| format!("p{percentile} of a step, {pages} pages, {what}, ms");
    let pages = [FEW, options.pages];
    for (side, pages) in sides.iter_mut().zip(pages) {
        verdicts.figure(&title(50, pages), format!("{:.1}", side.percentile(50)));
        verdicts
            .figure(&format!("WAL of a step, {pages} pages, {what}, KiB"), format!("{:.0}", side.wal_kib()));
    }
    let [of_few, of_many] = sides.each_mut().map(|side| side.percentile(99));
    verdicts.figure(&title(99, FEW), format!("{of_few:.1}"));
    verdicts.at_most(&title(99, options.pages), of_many, 50.0);
    verdicts.at_most(&format!("the second against the first, {what}"), of_many / of_few, 1.5);
    for ((profile, side), pages) in profiles.into_iter().flatten().zip(sides).zip(pages) {
        side.explain(profile, &format!("{pages} pages, {what}")).await?;
    }
    Ok(())
}

/// A database in which so many pages of one execution wait.
struct Side<'a> {
    fleet: &'a Fleet,
    execution: ExecutionId,
    /// Of each step, when it began and ended.
    steps: Vec<(Instant, Instant)>,
    /// Of each step.
    wal_bytes: Vec<i64>,
}

impl<'a> Side<'a> {
    async fn fill(fleet: &'a Fleet, pages: i64, hosts: i64) -> Result<Self> {
        let execution = fleet.execute(&["http://h0.test/".to_owned()], NO_LIMITS).await?;
        let begun = Instant::now();
        fill(fleet, execution, pages, hosts).await?;
        writeln!(std::io::stderr(), "{pages} pages written in {:.0?}", begun.elapsed())?;
        Ok(Self { fleet, execution, steps: Vec::new(), wal_bytes: Vec::new() })
    }

    /// Sets the pace, and has what was done before leave nothing to do.
    async fn begin(&mut self, delay_ms: i32) -> Result<()> {
        let changes = LimitChanges { host_delay_ms: Some(delay_ms), ..LimitChanges::default() };
        self.fleet.store.change_limits(self.execution, changes, None).await?;
        self.fleet.checkpoint().await?;
        self.steps(WARM_UP).await?;
        (self.steps, self.wal_bytes) = Default::default();
        Ok(())
    }

    /// Takes steps of a dispatcher: what runs, who lives, which pages, whose ends do not matter here.
    async fn steps(&mut self, count: usize) -> Result<()> {
        let Self { fleet, execution, .. } = self;
        let wal = "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8";
        for _ in 0..count {
            let written = fleet.number(wal).await?;
            let begun = Instant::now();
            fleet.store.running_executions(Some(*execution)).await?;
            fleet.store.wanted_pages(Duration::from_secs(15)).await?;
            let pages = fleet.store.reserve_pages(*execution, ROOM).await?;
            self.steps.push((begun, Instant::now()));
            self.wal_bytes.push(fleet.number(wal).await? - written);
            ensure!(!pages.is_empty(), "a step found no page");
            // They have ended: a window is never larger than the fleet.
            let ids: Vec<_> = pages.iter().map(|page| page.page_id.0).collect();
            let end = "UPDATE url_queue SET status = 'completed' WHERE id = ANY($1)";
            fleet.client.execute(end, &[&ids]).await?;
        }
        Ok(())
    }

    /// In milliseconds.
    fn percentile(&mut self, percent: usize) -> f64 {
        self.steps.sort_by_key(|(begun, ended)| *ended - *begun);
        let (begun, ended) = self.steps[self.steps.len() * percent / 100];
        (ended - begun).as_secs_f64() * 1e3
    }

    /// Of one step, on average.
    fn wal_kib(&self) -> f64 {
        self.wal_bytes.iter().sum::<i64>() as f64 / self.wal_bytes.len() as f64 / 1024.0
    }

    /// Prints what a step waits for, on average and where it was slow.
    async fn explain(&mut self, profile: Profile, what: &str) -> Result<()> {
        self.percentile(99);
        let slow = &self.steps[self.steps.len() * 99 / 100..];
        let mut out = std::io::stderr().lock();
        let seen = profile.end().await?;
        for (which, steps) in [("all steps", &self.steps[..]), ("the slowest one in a hundred", slow)] {
            writeln!(out, "{what}, {which}: {}", seen.waits(steps))?;
        }
        Ok(())
    }

    async fn empty(self) -> Result<()> {
        self.fleet.store.cancel_execution(self.execution, CancelMode::Graceful, None).await?;
        self.fleet.client.batch_execute("TRUNCATE url_queue, lost_attempts, lanes, hosts").await?;
        Ok(())
    }
}
