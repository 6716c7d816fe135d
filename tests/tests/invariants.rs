//! The checker of the invariants can fail: each kind of damage to an execution that is sound is told by its id.

use std::collections::BTreeSet;
use std::time::Duration;

use crawlify_shared::broker::{AmqpBroker, AmqpOptions, Broker, MESSAGE_VERSION, PageMessage};
use crawlify_shared::domain::id::{ExecutionId, PageId};
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::page::{FinishedPage, NextStatus};
use crawlify_shared::store::hot::{ClaimRequest, HotStore};
use harness::crawl::{Crawl, LEASE, NO_LIMITS, finished, page_url, small_table};
use harness::invariants::{assert_sound, broker, verify};
use harness::rabbitmq::TestVhost;
use sqlx::AssertSqlSafe;

const START: [&str; 1] = ["http://shop.test/"];
const LINKS: [&str; 3] = ["http://shop.test/1", "http://shop.test/2", "http://shop.test/gone"];

/// Statements that damage execution `EXECUTION`, and the ids that tell of it. Each changes with a row whatever else must
/// fit to it, so that it breaks one sentence and no other, wherever that is possible.
const DAMAGES: [(&[&str], &str); 26] = [
    (&["I1"], "UPDATE url_queue SET status = 'queued' WHERE id = (PAGE '/gone'); UPDATE page_counters SET failed = 0
        WHERE failed = 1 AND execution_id = EXECUTION; UPDATE workflow_executions SET stats = stats ||
        '{\"urls_failed\": 0}' WHERE id = EXECUTION"),
    (&["I1"], "UPDATE url_queue SET processed_at = NULL WHERE id = (PAGE '/1')"),
    (&["I1"], "UPDATE url_queue SET error_class = 'dns' WHERE id = (PAGE '/1')"),
    (&["I1"], "UPDATE url_queue SET error_class = NULL WHERE id = (PAGE '/gone')"),
    (&["I2"], "INSERT INTO node_records SELECT * FROM node_records WHERE page_id = (PAGE '/1') AND attempt = 2
        AND definition_id = (NODE 0); UPDATE node_counters SET completed = completed + 1, durations[1] = durations[1] + 1
        WHERE execution_id = EXECUTION AND node_id = 'links' AND worker_id = (WORKER);
        UPDATE page_counters SET nodes_executed = nodes_executed + 1 WHERE execution_id = EXECUTION
        AND worker_id = (WORKER); UPDATE workflow_executions SET stats = jsonb_set(stats, '{nodes_executed}',
        to_jsonb((stats->>'nodes_executed')::int + 1)) WHERE id = EXECUTION"),
    (&["I3"], "INSERT INTO extracted_items (id, execution_id, page_id, url, data) SELECT gen_random_uuid(), execution_id,
        page_id, url, data FROM extracted_items WHERE page_id = (PAGE '/2'); UPDATE page_counters SET items = items + 1
        WHERE execution_id = EXECUTION AND worker_id = (WORKER); UPDATE workflow_executions SET stats =
        jsonb_set(stats, '{items_extracted}', to_jsonb((stats->>'items_extracted')::int + 1)) WHERE id = EXECUTION"),
    (&["I4"], "UPDATE page_counters SET completed = completed + 1 WHERE execution_id = EXECUTION AND worker_id = (WORKER);
        UPDATE workflow_executions SET stats = jsonb_set(stats, '{urls_processed}',
        to_jsonb((stats->>'urls_processed')::int + 1)) WHERE id = EXECUTION"),
    (&["I4"], "UPDATE node_counters SET failed = failed + 1 WHERE execution_id = EXECUTION AND worker_id = (WORKER)
        AND node_id = 'title'"),
    (&["I4"], "UPDATE workflow_executions SET pages_admitted = pages_admitted + 1 WHERE id = EXECUTION"),
    (&["I4"], "UPDATE workflow_executions SET stats = stats || '{\"items_extracted\": 9}' WHERE id = EXECUTION"),
    (&["I5"], "INSERT INTO url_queue (id, execution_id, url, url_hash, host, status, processed_at, created_at, admitted)
        SELECT gen_random_uuid(), execution_id, url, '\\x00', host, 'skipped', processed_at, created_at, false
        FROM url_queue WHERE id = (PAGE '/gone')"),
    (&["I6"], "UPDATE extracted_items SET page_id = (PAGE '/gone') WHERE page_id = (PAGE '/2');
        UPDATE extracted_items SET url = 'http://shop.test/gone' WHERE page_id = (PAGE '/gone')"),
    (&["I6"], "UPDATE url_queue SET parent_id = (PAGE '/gone') WHERE id = (PAGE '/2')"),
    (&["I6"], "UPDATE node_records SET page_id = gen_random_uuid() WHERE page_id = (PAGE '/1') AND attempt = 1"),
    (&["I7"], "UPDATE workflow_executions SET status = 'running', completed_at = NULL WHERE id = EXECUTION"),
    (&["I7"], "UPDATE workflow_executions SET completed_at = started_at WHERE id = EXECUTION"),
    (&["I9"], "UPDATE url_queue SET locked_by = gen_random_uuid() WHERE id = (PAGE '/1')"),
    (&["I1", "I9"], "UPDATE url_queue SET status = 'processing', locked_by = gen_random_uuid() WHERE id = (PAGE '/gone');
        UPDATE page_counters SET failed = 0 WHERE failed = 1 AND execution_id = EXECUTION;
        UPDATE workflow_executions SET stats = stats || '{\"urls_failed\": 0}' WHERE id = EXECUTION"),
    (&["I10"], "UPDATE url_queue SET attempt = 5 WHERE id = (PAGE '/gone')"),
    (&["I10"], "INSERT INTO lost_attempts (page_id, epoch, attempt, fault, standing, error)
        SELECT (PAGE '/1'), n, n, 'worker', 'taken_back', '' FROM generate_series(1, 4) AS n"),
    (&["I10"], "UPDATE page_counters SET retried = retried + 1 WHERE execution_id = EXECUTION AND worker_id = (WORKER)"),
    (&["I10"], "UPDATE page_counters SET retried = retried + 1 WHERE execution_id = EXECUTION AND worker_id = (WORKER);
        UPDATE workflow_executions SET status = 'cancelled' WHERE id = EXECUTION"),
    (&["I10"], "UPDATE url_queue SET error_class = 'poison', worker_faults = 2,
        error = 'quarantined: 3 times its worker was lost' WHERE id = (PAGE '/gone')"),
    (&["I10"], "UPDATE url_queue SET error_class = 'poison', worker_faults = 3,
        error = 'quarantined: 2 times its worker was lost' WHERE id = (PAGE '/gone')"),
    (&["I11"], "UPDATE node_records SET attempt = 3 WHERE page_id = (PAGE '/1') AND attempt = 1"),
    (&["I11"], "UPDATE node_records SET worker = (SELECT number FROM workers WHERE id <> (WORKER))
        WHERE page_id = (PAGE '/2') AND definition_id = (NODE 1)"),
];

/// The same, for what only shows beside a calm crawl.
const DIFFERENCES: [(&[&str], &str); 7] = [
    (&["I2"], "UPDATE node_records SET output = '\"another title\"' WHERE page_id = (PAGE '/2')
        AND definition_id = (NODE 1)"),
    (&["I2"], "UPDATE node_records SET output = '{\"kept\": 1}' WHERE output = (SELECT output FROM node_records
        WHERE page_id = (PAGE '/2') AND definition_id = (NODE 1));
        UPDATE node_records SET output = '{\"kept\": 2}' WHERE page_id = (PAGE '/2') AND definition_id = (NODE 1)"),
    // Another order is none.
    (&[], "UPDATE node_records SET output = '{\"dropped_urls\": [\"a\", \"b\"]}' WHERE output = (SELECT output FROM node_records
        WHERE page_id = (PAGE '/2') AND definition_id = (NODE 1));
        UPDATE node_records SET output = '{\"dropped_urls\": [\"b\", \"a\"]}'
        WHERE page_id = (PAGE '/2') AND definition_id = (NODE 1)"),
    (&["I3"], "DELETE FROM extracted_items WHERE page_id = (PAGE '/2'); UPDATE page_counters SET items = items - 1
        WHERE execution_id = EXECUTION AND worker_id = (WORKER); UPDATE workflow_executions SET stats =
        jsonb_set(stats, '{items_extracted}', to_jsonb((stats->>'items_extracted')::int - 1)) WHERE id = EXECUTION"),
    (&["I3"], "UPDATE extracted_items SET data = '{}' WHERE page_id = (PAGE '/2')"),
    (&["I5"], "UPDATE url_queue SET url = 'http://shop.test/other' WHERE id = (PAGE '/gone')"),
    (&["I5"], "INSERT INTO skipped_links (id, execution_id, url, url_hash, reason, detail, parent_id, discovered_by)
        SELECT gen_random_uuid(), execution_id, 'http://shop.test/login', '\\x00', 'scope', '', id, 'links'
        FROM url_queue WHERE id = (PAGE '/1')"),
];

/// An execution with its calm twin: four pages, one of which was tried twice and one of which failed.
struct Twins {
    crawl: Crawl,
    twin: ExecutionId,
    worker: HotStore,
}

impl Twins {
    async fn crawled() -> Self {
        let crawl = Crawl::start(NO_LIMITS, &START).await;
        let twin = crawl.another(NO_LIMITS, &START).await;
        let (worker, other) = (crawl.worker().await, crawl.worker().await);
        for execution in [crawl.execution, twin] {
            run(&crawl, execution, &worker).await;
        }
        other.retire().await.unwrap();
        assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 2);
        Self { crawl, twin, worker }
    }
}

/// Crawls to the end.
async fn run(crawl: &Crawl, execution: ExecutionId, worker: &HotStore) {
    let dns = Failure::new(ErrorClass::Dns, "the host name does not resolve");
    loop {
        crawl.change("UPDATE url_queue SET not_before = now() WHERE status = 'pending'").await;
        let pages = crawl.store.reserve_pages(execution, 100).await.unwrap();
        if pages.is_empty() {
            return;
        }
        let requests: Vec<_> =
            pages.iter().map(|page| ClaimRequest { page_id: page.page_id, epoch: page.epoch }).collect();
        let claimed = worker.claim(&requests, LEASE, false).await.unwrap();
        let end = |page: &crawlify_shared::domain::page::ClaimedPage| {
            let links = LINKS.map(str::to_owned);
            let done = finished(page, &small_table(), if page.depth == 0 { &links } else { &[] });
            match (page.url.as_str(), page.attempt) {
                ("http://shop.test/1", 1) => {
                    FinishedPage { next: NextStatus::Retry(dns.clone(), Duration::ZERO), ..done }
                }
                ("http://shop.test/gone", _) => {
                    FinishedPage { next: NextStatus::Failed(dns.clone()), ..done }
                }
                _ => done,
            }
        };
        worker.record(&claimed.iter().map(end).collect::<Vec<_>>()).await.unwrap();
    }
}

#[tokio::test]
async fn an_execution_that_nothing_happened_to_breaks_no_invariant() {
    let Twins { crawl, twin, .. } = Twins::crawled().await;
    assert_sound(&crawl.pool, crawl.execution, Some(twin)).await;
    assert_sound(&crawl.pool, twin, None).await;
    let statuses = "SELECT status || ' ' || count(*) FROM url_queue GROUP BY status ORDER BY 1";
    assert_eq!(crawl.texts(statuses).await, ["completed 6", "failed 2"]);
}

#[tokio::test]
async fn each_damage_is_told_by_the_id_of_what_it_breaks_and_by_no_other() {
    let Twins { crawl, twin, worker } = Twins::crawled().await;
    let execution = format!("'{}'::uuid", crawl.execution);
    let page =
        format!("SELECT id FROM url_queue WHERE execution_id = {execution} AND url = 'http://shop.test' || ");
    let node = format!("SELECT id FROM node_definitions WHERE execution_id = {execution} AND position = ");
    let mut told = BTreeSet::new();
    let alone = DAMAGES.iter().map(|damage| (damage, None));
    for ((expected, damage), calm) in alone.chain(DIFFERENCES.iter().map(|damage| (damage, Some(twin)))) {
        let damage = damage
            .replace("EXECUTION", &execution)
            .replace("(PAGE ", &format!("({page}"))
            .replace("(NODE ", &format!("({node}"))
            .replace("(WORKER)", &format!("'{}'::uuid", worker.worker()));
        let mut damaged = crawl.pool.begin().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(damage.clone())).execute(&mut *damaged).await.unwrap();
        let broken = verify(&mut damaged, crawl.execution, calm).await.unwrap();
        damaged.rollback().await.unwrap();
        let ids: BTreeSet<&str> = broken.iter().map(|violation| violation.id).collect();
        assert_eq!(ids, expected.iter().copied().collect(), "{damage}\n{broken:#?}");
        told.extend(ids);
    }
    assert_eq!(told.len(), 10, "each invariant that rows tell was broken: {told:?}");
    assert_sound(&crawl.pool, crawl.execution, Some(twin)).await;
}

#[tokio::test]
async fn what_is_missing_and_what_is_too_much_are_told_apart() {
    let Twins { crawl, twin, .. } = Twins::crawled().await;
    crawl
        .change(
            "DELETE FROM extracted_items WHERE url = 'http://shop.test/1' AND execution_id =
                (SELECT min(id::text)::uuid FROM workflow_executions)",
        )
        .await;
    let mut connection = crawl.pool.acquire().await.unwrap();
    let lost = verify(&mut connection, crawl.execution, Some(twin)).await.unwrap();
    let (losses, surplus) = (lost.iter().filter(|v| v.is_loss()), lost.iter().filter(|v| v.is_surplus()));
    assert_eq!((losses.count(), surplus.count()), (1, 0), "{lost:#?}");
    let more = verify(&mut connection, twin, Some(crawl.execution)).await.unwrap();
    let (losses, surplus) = (more.iter().filter(|v| v.is_loss()), more.iter().filter(|v| v.is_surplus()));
    assert_eq!((losses.count(), surplus.count()), (0, 1), "{more:#?}");
}

#[tokio::test]
async fn a_message_that_is_left_in_the_broker_is_told() {
    let vhost = TestVhost::create().await;
    let options = AmqpOptions::default();
    let broker = AmqpBroker::connect(&vhost.url(), options).await.unwrap();
    assert_eq!(broker::leftovers(&vhost.url()).await.unwrap(), []);
    let message = PageMessage {
        v: MESSAGE_VERSION,
        page_id: PageId::generate(),
        execution_id: ExecutionId::generate(),
        epoch: 0,
        url: page_url(START[0]),
    };
    broker.publish(&[message]).await.unwrap();
    broker.close().await;
    let left = broker::leftovers(&vhost.url()).await.unwrap();
    assert_eq!((left.len(), left[0].id, left[0].row.as_str()), (1, "I8", "1 messages in crawlify.pages"));
}
