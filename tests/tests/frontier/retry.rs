//! Failed pages that are tried afresh, also of an execution that has ended. Where budgets and limits keep some from it is in
//! `retry_budgets`.

use crawlify_shared::domain::fault::Faults;
use crawlify_shared::domain::id::{ExecutionId, WorkflowId};
use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageOutcome, Rendered};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus};
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::control::{CancelMode, Controlled, LimitChanges};
use crawlify_shared::store::deletion::DeleteWorkflow;
use crawlify_shared::store::executions::ExecutionStatus;
use crawlify_shared::store::hot::{ClaimRequest, HotStore};
use futures_util::future::join;
use harness::crawl::{Crawl, LEASE, NO_LIMITS, finished, small_table};

use super::behind_a_dispatcher;

const PAGES: [&str; 2] = ["http://shop.test/1", "http://shop.test/2"];
const ROWS: &str =
    "SELECT concat_ws(' ', status, attempt, epoch, error_class, rendered) FROM url_queue ORDER BY url";

fn failed(page: &ClaimedPage) -> FinishedPage {
    let failure = Failure::new(ErrorClass::Dns, "the host name does not resolve");
    FinishedPage {
        outcome: PageOutcome { rendered: Rendered::Static, ..PageOutcome::failed(failure.clone()) },
        next: NextStatus::Failed(failure),
        ..finished(page, &small_table(), &[])
    }
}

/// Dispatches and claims what is due of one execution.
async fn claim(crawl: &Crawl, execution: ExecutionId, worker: &HotStore) -> Vec<ClaimedPage> {
    let pages = crawl.store.reserve_pages(execution, 100).await.unwrap();
    let requests: Vec<_> =
        pages.iter().map(|page| ClaimRequest { page_id: page.page_id, epoch: page.epoch }).collect();
    worker.claim(&requests, LEASE, false).await.unwrap()
}

#[tokio::test]
async fn a_failed_execution_runs_again_with_its_failed_pages_as_if_they_were_new() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    let old = crawl.queue().await;
    let pages = worker.claim(&old, LEASE, false).await.unwrap();
    worker.record(&pages.iter().map(failed).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(crawl.store.finish_executions().await.unwrap(), [(crawl.execution, "failed".to_owned())]);
    assert_eq!(crawl.number("SELECT count(*) FROM lanes").await, 0, "nobody looks for pages any more");
    crawl.assert_counters_are_a_recount().await;

    let retried = crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    assert!(matches!(retried.act, Controlled::Done(standing) if standing.status == ExecutionStatus::Running));
    assert_eq!(retried.pages, 2);
    assert!(crawl.store.finish_executions().await.unwrap().is_empty(), "its pages are still to go back");
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 2);
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0, "once");
    assert_eq!(crawl.texts(ROWS).await, ["pending 1 1", "pending 1 1"]);
    crawl.assert_counters_are_a_recount().await;

    assert!(worker.claim(&old, LEASE, false).await.unwrap().is_empty(), "the messages of before say nothing");
    let pages = crawl.claim(&worker).await;
    assert!(pages.iter().all(|page| page.attempt == 2 && page.faults == Faults::default()));
    worker.record(&[finished(&pages[0], &small_table(), &[]), failed(&pages[1])]).await.unwrap();
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0, "what fails again has failed");
    assert_eq!(crawl.store.finish_executions().await.unwrap(), [(crawl.execution, "completed".to_owned())]);
    let row = crawl.store.execution(crawl.execution).await.unwrap().unwrap();
    assert_eq!((row.error, row.pages_admitted, row.control_version), (None, 2, 1));
    let stats =
        "SELECT concat_ws(' ', stats->>'urls_processed', stats->>'urls_failed') FROM workflow_executions";
    assert_eq!(crawl.texts(stats).await, ["1 1"]);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn the_attempts_of_a_retry_are_others_than_those_before_it() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    // Its nodes ran before it failed.
    let before = [FinishedPage { next: failed(&page).next, ..finished(&page, &small_table(), &[]) }];
    worker.record(&before).await.unwrap();
    crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    crawl.store.put_pages_back(None).await.unwrap();
    let page = crawl.claim(&worker).await.remove(0);
    assert!(worker.record(&before).await.unwrap().is_empty(), "what comes once more is of another attempt");
    assert_eq!(worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap(), [page.page_id]);
    let nodes = "SELECT concat_ws(' ', attempt, position) FROM node_executions ORDER BY attempt, position";
    assert_eq!(crawl.texts(nodes).await, ["1 0", "1 1", "2 0", "2 1"]);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_raised_limit_admits_pages_on_hosts_that_a_retry_has_no_pages_on() {
    let limits = Limits { max_pages: Some(1), ..NO_LIMITS };
    let crawl = Crawl::start(limits, &["http://shop.test/", "http://elsewhere.test/"]).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    crawl.store.sweep_leftover_pages().await.unwrap();
    worker.record(&[failed(&page)]).await.unwrap();
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    let two = LimitChanges { max_pages: Some(Some(2)), ..LimitChanges::default() };
    crawl.store.change_limits(crawl.execution, two, None).await.unwrap();
    crawl.store.put_pages_back(None).await.unwrap();
    assert_eq!(crawl.claim(&worker).await.len(), 2);
}

#[tokio::test]
async fn a_cancelled_execution_and_one_without_failed_pages_are_not_retried() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    let refused = crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    assert!(matches!(refused.act, Controlled::Refused(_)));
    assert_eq!(refused.pages, 0);
    worker.record(&pages.iter().map(failed).collect::<Vec<_>>()).await.unwrap();
    crawl.store.cancel_execution(crawl.execution, CancelMode::Graceful, None).await.unwrap();
    let refused = crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    let cancelled = |status| status == ExecutionStatus::Cancelled;
    assert!(matches!(refused.act, Controlled::Refused(standing) if cancelled(standing.status)));
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0);
}

#[tokio::test]
async fn a_paused_execution_is_retried_and_stays_paused() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    worker.record(&pages.iter().map(failed).collect::<Vec<_>>()).await.unwrap();
    crawl.store.pause_execution(crawl.execution, None).await.unwrap();
    let retried = crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    assert!(matches!(retried.act, Controlled::Done(standing) if standing.status == ExecutionStatus::Paused));
    assert_eq!(crawl.store.put_pages_back(Some(crawl.execution)).await.unwrap(), 2);
    assert!(crawl.claim(&worker).await.is_empty());
    crawl.store.resume_execution(crawl.execution, None).await.unwrap();
    assert_eq!(crawl.claim(&worker).await.len(), 2);
}

#[tokio::test]
async fn of_a_retry_and_an_end_at_once_the_retry_holds() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    for round in 0..25 {
        let execution = crawl.another(NO_LIMITS, &PAGES).await;
        let pages = claim(&crawl, execution, &worker).await;
        worker.record(&[finished(&pages[0], &small_table(), &[]), failed(&pages[1])]).await.unwrap();
        let (finish, retry) =
            join(crawl.store.finish_executions(), crawl.store.retry_execution(execution, None)).await;
        finish.unwrap();
        assert!(matches!(retry.unwrap().act, Controlled::Done(_)), "in round {round}");
        let row = crawl.store.execution(execution).await.unwrap().unwrap();
        assert_eq!((row.status, row.completed_at), (ExecutionStatus::Running, None), "in round {round}");
        assert!(crawl.store.finish_executions().await.unwrap().is_empty(), "in round {round}");
        assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 1, "in round {round}");
        let again = claim(&crawl, execution, &worker).await;
        worker.record(&[finished(&again[0], &small_table(), &[])]).await.unwrap();
        let ended = crawl.store.finish_executions().await.unwrap();
        assert_eq!(ended, [(execution, "completed".to_owned())], "in round {round}");
    }
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn two_coordinators_put_each_page_back_once() {
    let urls: Vec<_> = (0..200).map(|number| format!("http://shop.test/{number}")).collect();
    let crawl = Crawl::start(NO_LIMITS, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    worker.record(&pages.iter().map(failed).collect::<Vec<_>>()).await.unwrap();
    crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    let steps = futures_util::future::join_all((0..6).map(|_| crawl.store.put_pages_back(None))).await;
    assert_eq!(steps.into_iter().map(Result::unwrap).sum::<u64>(), 200);
    assert_eq!(crawl.number("SELECT max(epoch)::int8 FROM url_queue").await, 1);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_workflow_whose_execution_a_retry_has_just_set_running_is_not_deleted() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    crawl.change("UPDATE workflow_executions SET status = 'completed'").await;
    let workflow = sqlx::query_scalar("SELECT id FROM workflows").fetch_one(&crawl.pool).await.unwrap();
    let retried = "UPDATE workflow_executions SET status = 'running' WHERE id = $1";
    let deleted =
        behind_a_dispatcher(&crawl, retried, crawl.store.delete_workflow(WorkflowId(workflow))).await;
    assert_eq!(deleted.unwrap(), DeleteWorkflow::InUse);
    assert_eq!(crawl.number("SELECT count(*) FROM workflow_executions").await, 1);
}
