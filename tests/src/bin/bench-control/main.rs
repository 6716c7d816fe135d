//! Measures control of a large execution: how soon a cancellation over REST is answered while 1,000,000 pages wait, when
//! the last of them is claimed, how long the sweep takes, its longest statement, and what another execution notices.
//!
//! The coordinator is a real one, with its dispatcher and finisher, on a private Postgres with fsync on. A worker without
//! browser claims and records what it is sent. Ends with an error where a target is missed.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crawlify_coordinator::Config;
use crawlify_shared::broker::{Broker, InProcessBroker};
use crawlify_shared::config::{LeaseTimes, SecretUrl};
use crawlify_shared::domain::id::{ExecutionId, WorkerId};
use crawlify_shared::domain::page::FinishedPage;
use crawlify_shared::store::Store;
use crawlify_shared::store::hot::{ClaimRequest, HotStore};
use crawlify_shared::telemetry;
use harness::bench::shop_crawl::{DurablePostgres, demo_workflow, start_execution};
use harness::crawl::{NO_LIMITS, VITALS, finished, small_table};
use harness::wait::wait_for;
use tokio::sync::watch;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pages that wait when the execution is cancelled; another number may be given.
const PAGES: i64 = 1_000_000;
/// Pages of the other execution: more than are worked off meanwhile.
const OTHER_PAGES: i64 = 200_000;
const LEASE: Duration = Duration::from_secs(180);
const ANSWERED_WITHIN: Duration = Duration::from_millis(200);
const NO_CLAIM_AFTER: Duration = Duration::from_secs(1);

/// What the worker saw so far; it writes, the measurement reads.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    last_claim: Option<Instant>,
    claims: u64,
    last_other_claim: Option<Instant>,
    other_claims: u64,
    longest_pause_of_other: Duration,
}

#[tokio::main]
async fn main() -> Result<()> {
    let pages = match std::env::args().nth(1) {
        Some(text) => text.parse().context("usage: bench-control [PAGES]")?,
        None => PAGES,
    };
    let postgres = DurablePostgres::start().await?;
    let measured = measure(&postgres.server().url(), pages).await;
    postgres.stop().await;
    measured
}

async fn measure(url: &SecretUrl, pages: i64) -> Result<()> {
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let store = Store::connect(url, 8)?;
    store.migrate().await?;
    store.create_partitions(1).await?;
    let (client, connection) = tokio_postgres::connect(url.expose(), NoTls).await?;
    tasks.spawn(connection);
    let definition = demo_workflow()?;
    let execution = start_execution(&store, &definition, NO_LIMITS).await?;
    let other = start_execution(&store, &definition, NO_LIMITS).await?;
    insert(&client, execution, pages).await?;
    insert(&client, other, OTHER_PAGES).await?;
    // Each by itself: no vacuum within a transaction.
    client.batch_execute("VACUUM ANALYZE url_queue").await?;
    client.batch_execute("CHECKPOINT").await?;

    let broker = InProcessBroker::with_capacity(10_000);
    let config = Config {
        listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()),
        lease: LeaseTimes::default(),
        only: None,
        broker_forgets: true,
    };
    let shared: Arc<dyn Broker> = Arc::new(broker.clone());
    let registry = telemetry::registry();
    let coordinator =
        crawlify_coordinator::start(config, store.clone(), shared, registry, stop.clone()).await?;
    let address = coordinator.address.context("the API listens")?;
    let hot = HotStore::connect(url, WorkerId::generate())?;
    let (tell, mut seen) = watch::channel(Seen::default());
    tasks.spawn(work(hot.clone(), broker, execution, tell, stop.clone()));
    seen.wait_for(|seen| seen.claims > 100 && seen.other_claims > 100).await?;
    let before = other_rate(&seen, Duration::from_secs(3)).await;

    let begun = Instant::now();
    let path = format!("http://{address}/api/v1/executions/{execution}/cancel");
    let response = reqwest::Client::new().post(path).send().await?;
    ensure!(response.status().is_success(), "{}", response.text().await?);
    let answered = begun.elapsed();
    let claims_at_answer = seen.borrow().claims;
    let mut longest = Duration::ZERO;
    let during_from = (*seen.borrow(), Instant::now());
    wait_for("the pages are swept", Duration::from_secs(600), async || {
        let look = look(&client, execution).await.expect("the server answers");
        longest = longest.max(look.longest_statement);
        !look.are_left
    })
    .await;
    let swept = begun.elapsed();
    let last = *seen.borrow();
    let late = last.last_claim.map_or(Duration::ZERO, |at| at.saturating_duration_since(begun));
    let during =
        (last.other_claims - during_from.0.other_claims) as f64 / during_from.1.elapsed().as_secs_f64();
    let mut out = std::io::stdout();
    writeln!(out, "pages that waited                   {pages}")?;
    writeln!(out, "cancellation answered after         {answered:?}")?;
    writeln!(out, "claims after the answer             {}", last.claims - claims_at_answer)?;
    writeln!(out, "last claim after the request        {late:?}")?;
    writeln!(out, "all pages cancelled after           {swept:?}")?;
    writeln!(out, "longest statement that was seen     {longest:?}")?;
    writeln!(out, "the other execution, before         {before:.0} pages/s")?;
    writeln!(out, "the other execution, meanwhile      {during:.0} pages/s")?;
    writeln!(out, "its longest pause between claims    {:?}", last.longest_pause_of_other)?;
    stop.cancel();
    coordinator.stopped().await;
    hot.close();
    drop(client);
    tasks.close();
    tasks.wait().await;
    store.close().await;
    ensure!(answered <= ANSWERED_WITHIN, "the answer took {answered:?}");
    ensure!(late <= NO_CLAIM_AFTER, "a page was claimed {late:?} after the request");
    Ok(())
}

/// Writes pages that wait, as links of the demo shop.
async fn insert(client: &Client, execution: ExecutionId, pages: i64) -> Result<()> {
    client
        .execute(
            "INSERT INTO url_queue (id, execution_id, url, url_hash, host, depth, priority)
             SELECT gen_random_uuid(), $1, 'http://127.0.0.1:8090/book/a-page-that-waits-' || n || '/',
                decode(md5(n::text), 'hex'), '127.0.0.1', 1, 90
             FROM generate_series(1, $2::int8) n",
            &[&execution.0, &pages],
        )
        .await?;
    Ok(())
}

/// Claims and records what comes, in groups, as a busy worker does.
async fn work(
    hot: HotStore,
    broker: InProcessBroker,
    cancelled: ExecutionId,
    tell: watch::Sender<Seen>,
    stop: CancellationToken,
) {
    let mut consumer = broker.consume(256);
    let mut announced = Instant::now();
    hot.announce("bench", 64).await.expect("the server answers");
    loop {
        if announced.elapsed() > Duration::from_secs(5) {
            hot.heartbeat(VITALS).await.expect("the server answers");
            announced = Instant::now();
        }
        let first = tokio::select! {
            delivery = consumer.next() => delivery,
            () = stop.cancelled() => return,
        };
        let Some(first) = first else { return };
        let mut deliveries = vec![first];
        let linger = tokio::time::Instant::now() + Duration::from_millis(5);
        while deliveries.len() < 64
            && let Ok(Some(delivery)) = tokio::time::timeout_at(linger, consumer.next()).await
        {
            deliveries.push(delivery);
        }
        let requests: Vec<_> = deliveries
            .iter()
            .map(|delivery| ClaimRequest { page_id: delivery.message.page_id, epoch: delivery.message.epoch })
            .collect();
        let claimed = hot.claim(&requests, LEASE, false).await.expect("the server answers");
        let now = Instant::now();
        let of_cancelled = claimed.iter().filter(|page| page.execution_id == cancelled).count() as u64;
        let of_other = claimed.len() as u64 - of_cancelled;
        tell.send_modify(|seen| seen.note(now, of_cancelled, of_other));
        let table = small_table();
        let group: Vec<FinishedPage> = claimed.iter().map(|page| finished(page, &table, &[])).collect();
        hot.record(&group).await.expect("the server answers");
        for delivery in deliveries {
            let _ = delivery.ack().await;
        }
    }
}

impl Seen {
    fn note(&mut self, now: Instant, of_cancelled: u64, of_other: u64) {
        self.claims += of_cancelled;
        self.other_claims += of_other;
        if of_cancelled > 0 {
            self.last_claim = Some(now);
        }
        if of_other > 0 {
            let pause = self.last_other_claim.map_or(Duration::ZERO, |last| now - last);
            self.longest_pause_of_other = self.longest_pause_of_other.max(pause);
            self.last_other_claim = Some(now);
        }
    }
}

/// Pages a second that are claimed of the other execution.
async fn other_rate(seen: &watch::Receiver<Seen>, during: Duration) -> f64 {
    let (begun, before) = (Instant::now(), seen.borrow().other_claims);
    wait_for("a while has passed", during * 2, async || begun.elapsed() >= during).await;
    (seen.borrow().other_claims - before) as f64 / begun.elapsed().as_secs_f64()
}

struct Look {
    are_left: bool,
    longest_statement: Duration,
}

/// Whether pages are left, and for how long the coordinator's oldest statement has been running.
async fn look(client: &Client, execution: ExecutionId) -> Result<Look> {
    let row = client
        .query_one(
            "SELECT EXISTS (SELECT FROM url_queue WHERE execution_id = $1 AND status IN ('pending', 'queued')),
                COALESCE((SELECT max(EXTRACT(EPOCH FROM clock_timestamp() - query_start))::float8
                    FROM pg_stat_activity
                    WHERE state = 'active' AND application_name = 'crawlify-coordinator'), 0)",
            &[&execution.0],
        )
        .await?;
    Ok(Look {
        are_left: row.get(0),
        longest_statement: Duration::from_secs_f64(row.get::<_, f64>(1).max(0.0)),
    })
}
