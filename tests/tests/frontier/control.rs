//! Executions that are paused, resumed, cancelled and limited anew while others dispatch, claim and finish.

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::Store;
use crawlify_shared::store::control::{CancelMode, Controlled, LimitChanges, Standing};
use crawlify_shared::store::executions::ExecutionStatus;
use crawlify_shared::store::sweep::SWEPT_AT_ONCE;
use futures_util::future::join_all;
use harness::crawl::{Crawl, LEASE, NO_LIMITS, VITALS, finished, small_table};

const PAGES: [&str; 3] = ["http://shop.test/1", "http://shop.test/2", "http://shop.test/3"];
const STATUSES: &str = "SELECT concat_ws(' ', status, count(*)) FROM url_queue GROUP BY status ORDER BY 1";

fn done(status: ExecutionStatus, version: i32) -> Controlled {
    Controlled::Done(Standing { status, version })
}

async fn ended(crawl: &Crawl) -> Vec<String> {
    crawl.store.finish_executions().await.unwrap().into_iter().map(|(_, status)| status).collect()
}

async fn limit(crawl: &Crawl, max_pages: Option<i64>) -> Controlled {
    let changes = LimitChanges { max_pages: Some(max_pages), ..LimitChanges::default() };
    crawl.store.change_limits(crawl.execution, changes, None).await.unwrap()
}

#[tokio::test]
async fn a_paused_execution_dispatches_and_claims_nothing_and_does_not_end_until_it_is_resumed() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    let requests = crawl.queue().await;
    let page = worker.claim(&requests[..1], LEASE, false).await.unwrap().remove(0);
    let store = &crawl.store;
    assert_eq!(store.pause_execution(crawl.execution, None).await.unwrap(), done(ExecutionStatus::Paused, 1));
    assert!(worker.claim(&requests, LEASE, false).await.unwrap().is_empty());
    assert!(store.running_executions(None).await.unwrap().is_empty());
    worker.record(&[finished(&page, &small_table(), &["http://shop.test/4".to_owned()])]).await.unwrap();
    assert!(store.reserve_pages(crawl.execution, 10).await.unwrap().is_empty(), "not its link either");
    crawl.change("UPDATE url_queue SET status = 'completed' WHERE url LIKE '%/4'").await;
    assert!(ended(&crawl).await.is_empty());

    assert_eq!(
        store.resume_execution(crawl.execution, None).await.unwrap(),
        done(ExecutionStatus::Running, 2)
    );
    // Those that were on their way are sent again at once.
    let pages = crawl.claim(&worker).await;
    assert_eq!(pages.len(), 2);
    let group: Vec<_> = pages.iter().map(|page| finished(page, &small_table(), &[])).collect();
    worker.record(&group).await.unwrap();
    assert_eq!(ended(&crawl).await, ["completed"]);
}

#[tokio::test]
async fn an_execution_whose_last_page_ended_during_a_pause_ends_when_it_is_resumed() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    crawl.store.pause_execution(crawl.execution, None).await.unwrap();
    worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap();
    assert!(ended(&crawl).await.is_empty());
    crawl.store.resume_execution(crawl.execution, None).await.unwrap();
    assert_eq!(ended(&crawl).await, ["completed"]);
}

#[tokio::test]
async fn of_a_pause_a_resumption_and_a_cancellation_at_once_the_cancellation_holds() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let others: Vec<_> = (0..3).map(|_| Store::connect(&crawl.database.url(), 1).unwrap()).collect();
    for round in 0..25 {
        let execution = crawl.another(NO_LIMITS, &PAGES[..1]).await;
        let (paused, cancelled, resumed) = tokio::join!(
            others[0].pause_execution(execution, None),
            others[1].cancel_execution(execution, CancelMode::Graceful, None),
            others[2].resume_execution(execution, None),
        );
        let acts = [paused.unwrap(), cancelled.unwrap(), resumed.unwrap()];
        assert!(matches!(acts[1], Controlled::Done(_)), "in round {round}: {acts:?}");
        let row = crawl.store.execution(execution).await.unwrap().unwrap();
        let changes = acts.iter().filter(|act| matches!(act, Controlled::Done(_))).count();
        assert_eq!(
            (row.status, row.control_version),
            (ExecutionStatus::Cancelled, changes as i32),
            "{acts:?}"
        );
    }
}

#[tokio::test]
async fn of_many_acts_upon_one_version_one_is_done() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let coordinators: Vec<_> = (0..8).map(|_| Store::connect(&crawl.database.url(), 1).unwrap()).collect();
    let acts = coordinators.iter().enumerate().map(|(number, store)| async move {
        match number % 2 {
            0 => store.pause_execution(crawl.execution, Some(&[0])).await.unwrap(),
            _ => store.cancel_execution(crawl.execution, CancelMode::Now, Some(&[0])).await.unwrap(),
        }
    });
    let acts = join_all(acts).await;
    assert_eq!(acts.iter().filter(|act| matches!(act, Controlled::Done(_))).count(), 1, "{acts:?}");
    assert_eq!(acts.iter().filter(|act| matches!(act, Controlled::OtherVersion(_))).count(), 7, "{acts:?}");
}

#[tokio::test]
async fn an_act_that_makes_no_sense_changes_nothing_and_says_where_the_execution_stands() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let (store, execution) = (&crawl.store, crawl.execution);
    let at = |status, version| Standing { status, version };
    assert_eq!(
        store.resume_execution(execution, None).await.unwrap(),
        Controlled::Already(at(ExecutionStatus::Running, 0))
    );
    store.pause_execution(execution, None).await.unwrap();
    assert_eq!(
        store.pause_execution(execution, None).await.unwrap(),
        Controlled::Already(at(ExecutionStatus::Paused, 1))
    );
    let cancel = async |mode| store.cancel_execution(execution, mode, None).await.unwrap();
    assert_eq!(cancel(CancelMode::Graceful).await, done(ExecutionStatus::Cancelled, 2));
    let cancelled = at(ExecutionStatus::Cancelled, 2);
    assert_eq!(cancel(CancelMode::Graceful).await, Controlled::Already(cancelled));
    for act in [store.pause_execution(execution, None).await, store.resume_execution(execution, None).await] {
        assert_eq!(act.unwrap(), Controlled::Refused(cancelled));
    }
    assert_eq!(limit(&crawl, Some(9)).await, Controlled::Refused(cancelled));
    // Whoever has no patience any more may still give the pages in hand up.
    assert_eq!(cancel(CancelMode::Now).await, done(ExecutionStatus::Cancelled, 3));
    assert_eq!(cancel(CancelMode::Now).await, Controlled::Already(at(ExecutionStatus::Cancelled, 3)));
    let nobody = ExecutionId::generate();
    assert_eq!(store.pause_execution(nobody, None).await.unwrap(), Controlled::NotFound);
}

#[tokio::test]
async fn recording_pages_does_not_keep_control_out() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    // Whoever writes a row that belongs to an execution holds this lock until its commit; a busy fleet always does.
    let mut recording = crawl.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM workflow_executions FOR KEY SHARE").execute(&mut *recording).await.unwrap();
    let within = std::time::Duration::from_secs(5);
    let pause = crawl.store.pause_execution(crawl.execution, None);
    tokio::time::timeout(within, pause).await.expect("it waits for nobody").unwrap();
    let cancel = crawl.store.cancel_execution(crawl.execution, CancelMode::Now, None);
    tokio::time::timeout(within, cancel).await.expect("it waits for nobody").unwrap();
    recording.rollback().await.unwrap();
}

#[tokio::test]
async fn a_limit_below_what_was_admitted_admits_nothing_more() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    let reserved = crawl.store.reserve_pages(crawl.execution, 2).await.unwrap();
    assert_eq!(limit(&crawl, Some(1)).await, done(ExecutionStatus::Running, 1));
    assert!(crawl.store.reserve_pages(crawl.execution, 10).await.unwrap().is_empty());
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 1);
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0);
    let requests: Vec<_> = reserved
        .iter()
        .map(|page| crawlify_shared::store::hot::ClaimRequest { page_id: page.page_id, epoch: page.epoch })
        .collect();
    let pages = worker.claim(&requests, LEASE, false).await.unwrap();
    assert_eq!(pages.len(), 2, "what was admitted goes on");
    let group: Vec<_> = pages.iter().map(|page| finished(page, &small_table(), &[])).collect();
    worker.record(&group).await.unwrap();
    assert_eq!(ended(&crawl).await, ["completed"]);
    assert_eq!(crawl.texts(STATUSES).await, ["completed 2", "skipped 1"]);
}

#[tokio::test]
async fn a_higher_limit_admits_pages_that_were_left_out_though_nothing_else_is_open() {
    let crawl = Crawl::start(Limits { max_pages: Some(1), ..NO_LIMITS }, &PAGES).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 2);
    worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap();
    assert_eq!(limit(&crawl, Some(2)).await, done(ExecutionStatus::Running, 1));
    assert!(ended(&crawl).await.is_empty(), "there is room for one page more");
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 1, "no more than there is room for");
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0, "it waits already");
    let page = crawl.claim(&worker).await.remove(0);
    worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap();
    assert_eq!(limit(&crawl, None).await, done(ExecutionStatus::Running, 2));
    assert!(ended(&crawl).await.is_empty());
    assert_eq!(crawl.store.put_pages_back(Some(crawl.execution)).await.unwrap(), 1);
    let page = crawl.claim(&worker).await.remove(0);
    worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap();
    assert_eq!(ended(&crawl).await, ["completed"]);
    assert_eq!(crawl.texts(STATUSES).await, ["completed 3"]);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn every_limit_is_changed_alone() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    for changes in [
        LimitChanges { host_delay_ms: Some(250), ..LimitChanges::default() },
        LimitChanges { weight: Some(7), ..LimitChanges::default() },
        LimitChanges { priority: Some(-3), ..LimitChanges::default() },
        LimitChanges { max_pages: Some(Some(5)), ..LimitChanges::default() },
    ] {
        crawl.store.change_limits(crawl.execution, changes, None).await.unwrap();
    }
    let row = crawl.store.execution(crawl.execution).await.unwrap().unwrap();
    assert_eq!((row.host_delay_ms, row.weight, row.priority, row.max_pages), (250, 7, -3, Some(5)));
    assert_eq!(row.control_version, 4);
}

#[tokio::test]
async fn the_pages_of_a_cancelled_execution_are_swept_in_portions() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    crawl
        .change(
            "INSERT INTO url_queue (id, execution_id, url, url_hash, host)
             SELECT gen_random_uuid(), e.id, 'http://shop.test/p/' || n, decode(md5(n::text), 'hex'), 'shop.test'
             FROM workflow_executions e, generate_series(1, 12000) n",
        )
        .await;
    crawl.store.reserve_pages(crawl.execution, 10).await.unwrap();
    crawl.store.cancel_execution(crawl.execution, CancelMode::Graceful, None).await.unwrap();
    let mut total = 0;
    loop {
        let swept = crawl.store.sweep_leftover_pages().await.unwrap();
        assert!(swept <= SWEPT_AT_ONCE as u64 + 10, "{swept}");
        total += swept;
        if swept == 0 {
            break;
        }
    }
    assert_eq!(total, 12_003);
    assert_eq!(crawl.number("SELECT count(*) FROM lanes").await, 0, "nobody looks for pages any more");
    assert_eq!(crawl.texts(STATUSES).await, ["cancelled 12003"]);
}

#[tokio::test]
async fn a_worker_hears_of_executions_whose_pages_it_holds_and_must_give_up() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let (holder, other) = (crawl.worker().await, crawl.worker().await);
    let requests = crawl.queue().await;
    let page = holder.claim(&requests[..1], LEASE, false).await.unwrap().remove(0);
    crawl.store.cancel_execution(crawl.execution, CancelMode::Graceful, None).await.unwrap();
    assert!(holder.heartbeat(VITALS).await.unwrap().abandoned.is_empty(), "its pages may end");
    crawl.store.cancel_execution(crawl.execution, CancelMode::Now, None).await.unwrap();
    assert_eq!(holder.heartbeat(VITALS).await.unwrap().abandoned, [crawl.execution]);
    assert!(other.heartbeat(VITALS).await.unwrap().abandoned.is_empty(), "it holds none");
    let mut released = finished(&page, &small_table(), &[]);
    released.outcome.nodes.clear();
    released.next = crawlify_shared::domain::page::NextStatus::Released;
    holder.record(&[released]).await.unwrap();
    assert!(holder.heartbeat(VITALS).await.unwrap().abandoned.is_empty(), "it holds none any more");
    crawl.store.sweep_leftover_pages().await.unwrap();
    assert_eq!(crawl.texts(STATUSES).await, ["cancelled 3"]);
}
