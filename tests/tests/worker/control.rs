//! Acts of control reach a running fleet, and schedules set it to work.

use crawlify_shared::domain::id::WorkflowId;
use crawlify_shared::domain::schedule::OverlapPolicy;
use crawlify_shared::store::control::{CancelMode, Controlled};
use crawlify_shared::store::schedules::ScheduleText;
use crawlify_worker::chrome::fake::{FakeDriver, FakePage};
use serde_json::json;

use super::{ENDED, PAGES, Running, TIMES, extract, links, page, shop, workflow};

#[tokio::test]
async fn pages_in_hand_of_an_execution_that_is_cancelled_at_once_are_given_up() {
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/1", "/2"])])
        .with_page("http://shop.test/1", [FakePage::Hangs])
        .with_page("http://shop.test/2", [FakePage::Hangs]);
    let running = Running::start(&shop(), driver, TIMES).await;
    running.loaded(3).await;
    let crawl = &running.crawl;
    crawl.store.cancel_execution(crawl.execution, CancelMode::Now, None).await.unwrap();
    let cancelled = "SELECT (count(*) = 2)::int::int8 FROM url_queue WHERE status = 'cancelled'";
    running.wait("both pages were given up, long before their deadline", cancelled).await;
    let crawl = running.stop().await;
    assert_eq!(
        crawl.texts(PAGES).await,
        ["/ completed 1", "/1 cancelled 0 cancelled", "/2 cancelled 0 cancelled"]
    );
}

#[tokio::test]
async fn a_paused_execution_ends_its_pages_in_hand_and_goes_on_where_it_stopped() {
    let pause = json!({"id": "pause", "type": "wait", "params": {"duration": 600}});
    let config = workflow(json!([pause, links("links", "a")]), json!([extract("title", "h1")]));
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/1"])])
        .with_page("http://shop.test/1", [page(&[])]);
    let running = Running::start(&config, driver, TIMES).await;
    running.loaded(1).await;
    let crawl = &running.crawl;
    let paused = crawl.store.pause_execution(crawl.execution, None).await.unwrap();
    assert!(matches!(paused, Controlled::Done(_)));
    running.wait("its page has ended", "SELECT count(*) FROM url_queue WHERE status = 'completed'").await;
    crawl.change("UPDATE workers SET started_at = now()").await;
    let later = "SELECT count(*) FROM workers WHERE heartbeat_at > started_at + interval '400 milliseconds'";
    running.wait("the fleet had time for more", later).await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1", "/1 pending 0"]);
    assert_eq!(crawl.number(ENDED).await, 1, "it is paused, which is not running");
    crawl.store.resume_execution(crawl.execution, None).await.unwrap();
    let completed = "SELECT count(*) FROM workflow_executions WHERE status = 'completed'";
    running.wait("it has ended", completed).await;
    let crawl = running.stop().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1", "/1 completed 1"]);
}

#[tokio::test]
async fn a_schedule_executes_its_workflow_again_and_again() {
    let driver = FakeDriver::new().with_page("http://shop.test/", [page(&[]), page(&[]), page(&[])]);
    let running = Running::start(&shop(), driver, TIMES).await;
    running.wait("the first execution ended", ENDED).await;
    let crawl = &running.crawl;
    let first = crawl.store.execution(crawl.execution).await.unwrap().unwrap();
    let text = ScheduleText {
        cron: "* * * * * *",
        time_zone: "Europe/Berlin",
        enabled: true,
        overlap: OverlapPolicy::Skip,
        next_run_at: Some(chrono::Utc::now()),
    };
    let schedule = crawl.store.create_schedule(WorkflowId(first.workflow_id), text).await.unwrap().unwrap();
    let twice = "SELECT (count(*) >= 2)::int::int8 FROM workflow_executions
        WHERE schedule_id IS NOT NULL AND status = 'completed'";
    running.wait("it was executed twice", twice).await;
    let schedule = crawl.store.schedule(crawlify_shared::domain::id::ScheduleId(schedule.id)).await.unwrap();
    assert!(schedule.unwrap().last_execution_id.is_some());
    crawl.change("DELETE FROM schedules").await;
    let all_ended = "SELECT (count(*) = 0)::int::int8 FROM workflow_executions WHERE status = 'running'";
    running.wait("everything has ended", all_ended).await;
    running.stop().await;
}
